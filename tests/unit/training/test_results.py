"""What a training stage leaves."""

from argparse import Namespace

from posttrain.training import results


def test_parameters_are_counted(random_tiny_model):
    total = sum(parameter.numel() for parameter in random_tiny_model.parameters())
    random_tiny_model.requires_grad_(False)
    random_tiny_model.lm_head.weight.requires_grad_(True)
    assert results.trainable(random_tiny_model) == (384 * 32, total)


def test_the_finished_result_is_published_whole_without_pefts_empty_card(tmp_path):
    finished = tmp_path / "checkpoints/key/finished"
    for name in ("trained/weights", "trained/README.md", "train.jsonl", "train.json"):
        (finished / name).parent.mkdir(parents=True, exist_ok=True)
        (finished / name).write_text(name)
    for _ in range(2):  # and again, over the old
        results.link_results(Namespace(spec=tmp_path / "spec.json"), finished.parent)
        assert [path.name for path in (tmp_path / "trained").iterdir()] == ["weights"]
        assert (tmp_path / "train.json").samefile(finished / "train.json")
        assert (tmp_path / "train.jsonl").read_text() == "train.jsonl"
