"""What a training stage leaves."""

import json
from argparse import Namespace

import pytest

from posttrain.training import results


def test_parameters_are_counted(random_tiny_model):
    total = sum(parameter.numel() for parameter in random_tiny_model.parameters())
    random_tiny_model.requires_grad_(False)
    random_tiny_model.lm_head.weight.requires_grad_(True)
    assert results.trainable(random_tiny_model) == (384 * 32, total)


@pytest.fixture
def finished(tmp_path):
    """A finished training stage with an adapter, and the folder of its parent."""

    def make(manifest: dict) -> Namespace:
        options = Namespace(
            spec=tmp_path / "run/spec.json", parent=tmp_path / "parent", manifest=tmp_path / "base.json"
        )
        spec = {"objective": "sft", "method": "lora", "from": {"name": "parent"}, "data": {"name": "chats"}, "rank": 4}
        files = {
            "run/spec.json": json.dumps(spec),
            "base.json": json.dumps(manifest),
            "parent/tokenizer.json": "{}",
            "parent/chat_template.jinja": "x",
            "parent/model.safetensors": "weights of the parent",
            "finished/trained/weights": "",
            "finished/trained/README.md": "PEFT's",
            "finished/trained/adapter_config.json": '{"base_model_name_or_path": "results/bases/parent/model", "r": 4}',
            "finished/train.jsonl": "train.jsonl",
            "finished/train.json": "",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return options

    return make


def test_a_finished_result_is_linked_whole_and_can_be_taken_away(tmp_path, finished):
    options = finished({"source": "hub", "base": "org/model", "base_model": "org/model"})
    for _ in range(2):  # and again, over the old
        results.link_results(options, tmp_path)
        trained = tmp_path / "run/trained"
        names = {"README.md", "adapter_config.json", "chat_template.jinja", "tokenizer.json", "weights"}
        assert {path.name for path in trained.iterdir()} == names
        assert (tmp_path / "run/train.json").samefile(tmp_path / "finished/train.json")
        assert (tmp_path / "run/train.jsonl").read_text() == "train.jsonl"
    config = json.loads((trained / "adapter_config.json").read_text())
    assert config == {"base_model_name_or_path": "org/model", "r": 4}
    card = (trained / "README.md").read_text()
    assert "base_model: org/model\n" in card and "library_name: peft\n" in card
    assert 'AutoModelForCausalLM.from_pretrained("org/model")' in card
    assert "results/bases" not in card


def test_an_adapter_on_a_run_names_the_run_and_its_card_the_base(tmp_path, finished):
    results.link_results(finished({"base_model": "org/model", "files": {}}), tmp_path)
    config = json.loads((tmp_path / "run/trained/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "parent"
    card = (tmp_path / "run/trained/README.md").read_text()
    assert (
        "base_model: org/model\n" in card
        and "belongs to the merged model of that run, in `results/parent/model`" in card
    )


def test_the_result_of_the_same_run_under_another_name_is_taken_over(tmp_path):
    old, new = (tmp_path / name / "checkpoints/0123" for name in ("old", "new"))
    for file in ("train.json", "trained/adapter.safetensors"):
        (old / "finished" / file).parent.mkdir(parents=True, exist_ok=True)
        (old / "finished" / file).write_text(file)
    new.mkdir(parents=True)
    assert not results.take_over(tmp_path / "new/checkpoints/4567")
    assert results.take_over(new)
    assert (new / "finished/trained/adapter.safetensors").samefile(old / "finished/trained/adapter.safetensors")
    (tmp_path / "elsewhere/linked").mkdir(parents=True)
    (tmp_path / "elsewhere/old").symlink_to(tmp_path / "old")  # as rebuild-check links what it does not train
    assert not results.take_over(tmp_path / "elsewhere/linked/checkpoints/0123")
