"""SFT and merge by their scripts on rows with pictures or sounds, on the base and the tokens that a test has made."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from killed import killed_after

import merge_model
import train_sft
from posttrain.runtime import atomic, hashes
from posttrain.workflow.project import Project

RUN = Path("results/sft")


def sft(configuration: Callable[[dict], dict], model: Path, tokens: Path, **keys) -> Path:
    """Train the run by its script, as the same command does each time; returns the spec's file."""
    table = {"from": "base", "objective": "sft", "data": "chats", "max_steps": 4, "warmup": 0}
    atomic.write_json(Path("base.json"), {"files": {}})
    spec = RUN / "spec.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(Project(configuration({"runs": {"sft": table | keys}, "sweeps": {}})).spec("sft"))
    train_sft.main(Namespace(spec=spec, parent=model, manifest=Path("base.json"), tokens=tokens))
    return spec


def check_resume(train: Callable[..., Path]) -> None:
    """Killed after its second step and started again, a training ends with the weights and the losses of one that was not."""
    keys = {"method": "lora", "rank": 4, "learning_rate": 1e-2}
    train(**keys)
    straight = _outcome()
    Path("results").rename("before")
    with killed_after(2):
        train(**keys)
    train(**keys)
    assert atomic.read_json(RUN / "train.json")["resumed_from"] == "checkpoint-2"
    assert _outcome() == straight
    assert len(set(straight[1])) == 4  # it learns


def _outcome() -> tuple[dict, list[float]]:
    lines = [json.loads(line) for line in (RUN / "train.jsonl").read_text().splitlines()]
    return hashes.folder_hashes(RUN / "trained"), [line["loss"] for line in lines]


def merge(spec: Path, model: Path, tokens: Path) -> dict:
    """Merge the trained run by its script; returns the proof."""
    preflight = spec.parent / "preflight.json"
    atomic.write_json(preflight, {"licences": {}})
    paths = {"parent": model, "shipped": model, "manifest": Path("base.json"), "tokens": tokens}
    merge_model.main(Namespace(spec=spec, preflight=preflight, **paths))
    return atomic.read_json(spec.parent / "merge.json")
