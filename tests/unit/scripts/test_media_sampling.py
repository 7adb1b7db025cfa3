"""Answers about pictures, sampled and trained: what the loss is computed from, and a training that is killed and goes on."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import tiny_vision
import torch
from conftest import refused, write_rows
from safetensors.torch import load_file

import train_grpo
from posttrain.compat import trl_trainers
from posttrain.inference import media, scoring
from posttrain.models import loading
from posttrain.runtime import atomic
from posttrain.training.callbacks import SaveCheckpoints
from posttrain.workflow.project import Project

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")
# Untrained, a model is right once in thousands of answers, so a reward has to tell wrong answers apart.
RULE = "def rule(answer, reference):\n    return float(len(set(answer)))\n"


@pytest.fixture(scope="module", params=tiny_vision.FAMILIES)
def base(request, tmp_path_factory):
    return tiny_vision.base(tmp_path_factory.mktemp(request.param) / "base", request.param)


@pytest.fixture
def sample(configuration, base):
    """Train a run on rows about pictures, the last of which has none; returns its steps."""

    def run(objective: str = "grpo", **keys) -> list[dict]:
        rows = tiny_vision.rows(Path("data"), 3)
        write_rows(Path("data/train.parquet"), rows, "image_messages")
        write_rows(Path("data/validation.parquet"), rows, "image_messages")
        Path("rules.py").write_text(RULE)
        atomic.write_json(Path("data/data.json"), {"shape": "image_messages"})
        atomic.write_json(Path("base.json"), {})
        table = {"from": "base", "objective": objective, "data": "chats", "batch_size": 8, "generations": 4}
        table |= {"max_new_tokens": 4, "reward": {"function": "rules.py:rule"}, "warmup": 0, "max_steps": 2}
        spec = Path(f"results/{objective}/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({f"runs.{objective}": table | keys})).spec(objective))
        paths = {"parent": base, "manifest": Path("base.json"), "data": Path("data"), "reward_models": []}
        held_out = [Path("data/validation.parquet")]
        train_grpo.main(Namespace(spec=spec, held_out=held_out, **paths))
        return [json.loads(line) for line in (spec.parent / "train.jsonl").read_text().splitlines()]

    return run


@pytest.fixture
def passes(monkeypatch):
    """What goes through the model in training: token ids, attention mask, completion's width, files, and log-probabilities."""
    found, made = [], trl_trainers.media_sampler

    def noted(*args):
        class Noted(made(*args)):
            def _get_per_token_logps_and_entropies(
                self, model, input_ids, attention_mask, logits_to_keep, *rest, **options
            ):
                given = super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, *rest, **options
                )
                found.append((input_ids, attention_mask, logits_to_keep, self.files, given[0].detach()))
                return given

        return Noted

    monkeypatch.setattr(trl_trainers, "media_sampler", noted)
    return found


@pytest.mark.parametrize(("objective", "method"), [("grpo", "full"), ("rloo", "lora")])
def test_the_loss_is_computed_from_what_the_model_says_of_each_rows_own_picture(
    sample, passes, base, objective, method
):
    lines = sample(objective, method=method, accumulation=2, measure_every=1, temperature=1.0)
    assert [line["step"] for line in lines if "reward" in line and "eval_reward" not in line] == [1, 2]
    assert any("eval_reward" in line for line in lines)
    parent = loading.for_inference(base, "fp32")
    placeholders = parent.processor.placeholders
    ids, mask, width, files, given = passes[0]
    assert any(files) and not all(files)
    sequences = []
    for row, keep, about in zip(ids.tolist(), mask.bool().tolist(), files, strict=True):
        kept = [token for token, there in zip(row, keep, strict=True) if there]
        said = [token for token, there in zip(row[-width:], keep[-width:], strict=True) if there]
        assert placeholders.isdisjoint(said)
        sequences.append(scoring.answer(kept[: len(kept) - len(said)], said, tuple(map(tuple, about))))
    wanted = [total for total, _ in scoring.log_probs(parent, sequences, 4096)]
    assert (given * mask[:, -width:]).sum(1).tolist() == pytest.approx(wanted, abs=1e-3)
    other = [
        (ids, labels, media.of({"images": ["media/2.png"]}, Path("data"))) for ids, labels, *rest in sequences if rest
    ]
    assert scoring.log_probs(parent, other, 4096) != scoring.log_probs(parent, [s for s in sequences if s[2:]], 4096)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"method": "full"}, {"method": "lora", "num_mini_batches": 2}])
def test_a_training_that_ends_on_the_way_goes_on_to_the_same_bits(sample, keys, monkeypatch):
    def save_each_step(self, args, state, control, **_):
        control.should_save = state.global_step < 3

    monkeypatch.setattr(SaveCheckpoints, "on_step_end", save_each_step)
    sample(max_steps=3, **keys)
    folder = Path("results/grpo")
    whole = {file.name: load_file(file) for file in (folder / "trained").glob("*.safetensors")}
    Path("results").rename("before")
    save = SaveCheckpoints.on_save

    def die(self, args, state, *rest, **options):
        save(self, args, state, *rest, **options)
        if state.global_step == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(SaveCheckpoints, "on_save", die)
        sample(max_steps=3, **keys)
    lines = sample(max_steps=3, **keys)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for name, tensors in whole.items():
        again = load_file(folder / "trained" / name)
        assert tensors.keys() == again.keys()
        assert not [key for key in tensors if not torch.equal(again[key], tensors[key])]


def test_what_reads_text_only_is_refused(sample):
    with refused("unsupported-setting", "reward.from"):
        train_grpo.check_text_only({"reward": {"from": {"name": "judge"}}})
    with refused("unsupported-setting", "environment"):
        train_grpo.check_text_only({"environment": "calculator"})
