"""Training on rows with sounds: a kill and a resume give the same bits, and the merge keeps and proves every part."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from safetensors.torch import load_file

import merge_model
import train_sft
from posttrain.models import parts
from posttrain.runtime import atomic, hashes
from posttrain.training import callbacks
from posttrain.workflow.project import Project
from unit.models.test_audio_models import made  # noqa: F401  (a base, its data and their tokens)

pytestmark = [pytest.mark.usefixtures("in_folder", "signals", "fp32"), pytest.mark.slow]


class Killed(BaseException):
    """What `kill -9` is to a training, as far as one process can play it."""


@pytest.fixture
def train(made, configuration):  # noqa: F811
    """Train a run by its script, as the same command does each time; returns the spec's file."""
    model, _, _, tokens = made
    atomic.write_json(Path("base.json"), {"files": {}})

    def command(**keys) -> Path:
        table = {"from": "base", "objective": "sft", "data": "chats", "batch_size": 2, "max_steps": 4, "warmup": 0}
        spec = Path("results/sft/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({"runs": {"sft": table | keys}, "sweeps": {}})).spec("sft"))
        train_sft.main(Namespace(spec=spec, parent=model, manifest=Path("base.json"), tokens=tokens))
        return spec

    return command


def outcome() -> tuple[dict, list[float]]:
    lines = [json.loads(line) for line in Path("results/sft/train.jsonl").read_text().splitlines()]
    return hashes.folder_hashes(Path("results/sft/trained")), [line["loss"] for line in lines]


def test_killed_and_resumed_it_ends_with_the_same_bits(train, monkeypatch):
    keys = {"method": "lora", "rank": 4, "learning_rate": 1e-2}
    train(**keys)
    straight = outcome()
    Path("results").rename("before")
    decide, save = callbacks.SaveCheckpoints.on_step_end, callbacks.SaveCheckpoints.on_save

    def on_step_end(self, args, state, control, **options):
        decide(self, args, state, control, **options)
        control.should_save |= state.global_step == 2

    def on_save(self, args, state, control, **options):
        save(self, args, state, control, **options)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.SaveCheckpoints, "on_step_end", on_step_end)
        patched.setattr(callbacks.SaveCheckpoints, "on_save", on_save)
        with pytest.raises(Killed):
            train(**keys)
    train(**keys)
    assert atomic.read_json(Path("results/sft/train.json"))["resumed_from"] == "checkpoint-2"
    assert outcome() == straight
    assert len(set(straight[1])) == 4  # it learns


@pytest.mark.parametrize(
    ("keys", "moving"),
    [
        ({"method": "full", "learning_rate": 1e-3, "train_parts": ["audio", "projector"]}, {"audio", "projector"}),
        ({"method": "lora", "rank": 4, "learning_rate": 1e-2}, {"projector", "language"}),
    ],
    ids=["full", "lora"],
)
def test_the_merged_model_has_every_tensor_and_the_proof_hears_sounds(train, made, keys, moving):  # noqa: F811
    model, _, _, tokens = made
    spec = train(**keys)
    atomic.write_json(spec.parent / "preflight.json", {"licences": {}})
    merge_model.main(
        Namespace(
            spec=spec,
            parent=model,
            shipped=model,
            manifest=Path("base.json"),
            tokens=tokens,
            preflight=spec.parent / "preflight.json",
        )
    )
    proof = atomic.read_json(spec.parent / "merge.json")
    assert proof["effect"] > 0 and proof["relative"] < 1e-3
    before, after = load_file(model / "model.safetensors"), load_file(spec.parent / "merged/model.safetensors")
    assert before.keys() == after.keys()
    moved = {parts.part_of(name) for name in before if not before[name].equal(after[name])}
    assert moved <= moving and moved
    assert (spec.parent / "model/processor_config.json").exists()
