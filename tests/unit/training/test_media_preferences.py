"""Preferences about pictures: the loss is the one that plain transformers gives, and a kill and a resume give the same bits."""

import json
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_vision
import torch
from killed import killed_after
from PIL import Image
from transformers import AutoModelForMultimodalLM, AutoProcessor

import compute_logprobs
import tokenize_data
import train_dpo
from posttrain.data import rows as data_rows
from posttrain.runtime import atomic, hashes
from posttrain.workflow.project import Project

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")
BETA = 0.1


def pairs(folder: Path) -> list[dict]:
    """Normalised pairs about the pictures of `tiny_vision.rows`, the last of which has none."""
    found = []
    for i, row in enumerate(tiny_vision.rows(folder, 4)):
        sides = (row["messages"][1:], [{"role": "assistant", "content": tiny_vision.NUMBERS[(i + 1) % 3]}])
        chosen, rejected = sides
        pair = {"prompt": row["messages"][:1], "chosen": chosen, "rejected": rejected, "images": row["images"]}
        found.append({"id": row["id"], "place": row["place"]} | pair)
    return found


@pytest.fixture(scope="module", params=tiny_vision.FAMILIES)
def made(request, tmp_path_factory):
    """A base of a family, its pairs, their folder and their tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    model, data = tiny_vision.base(folder / "base", request.param), folder / "data"
    normalised = pairs(data)
    table = pa.Table.from_pylist(normalised, schema=data_rows.schema("image_preference"))
    for split in ("train", "validation"):
        pq.write_table(table, data / f"{split}.parquet")
    atomic.write_json(data / "data.json", {"shape": "image_preference"})
    given = {"assistant_turns": "all", "train_thoughts": "true", "cores": 1, "max_length": 128}
    tokenize_data.main(Namespace(data=data, model=model, output=folder / "tokens", **given))
    return model, normalised, data, folder / "tokens"


@pytest.fixture
def train(made, configuration):
    """Train a run by its script, as the same command does each time; returns its steps."""
    model, _, _, tokens = made
    atomic.write_json(Path("base.json"), {"files": {}})
    logprobs = Path("logprobs.parquet")
    compute_logprobs.main(Namespace(model=model, tokens=tokens, output=logprobs))

    def command(**keys) -> list[dict]:
        table = {"from": "base", "objective": "dpo", "data": "pairs", "batch_size": 4, "warmup": 0, "beta": BETA}
        spec = Path("results/dpo/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({"runs.dpo": table | keys, "sweeps": {}})).spec("dpo"))
        paths = {"parent": model, "manifest": Path("base.json"), "tokens": tokens, "logprobs": logprobs}
        train_dpo.main(Namespace(spec=spec, held_out=[], **paths))
        return [json.loads(line) for line in (spec.parent / "train.jsonl").read_text().splitlines()]

    return command


def said(model, own, data: Path, row: dict, side: str) -> torch.Tensor:
    """The log-probability of one completion, by transformers' processor and model alone."""
    content = [{"type": "image"}] * len(row["images"]) + [{"type": "text", "text": "How many red circles?"}]
    turns = [{"role": "user", "content": content}]
    pictures = [Image.open(data / name).convert("RGB") for name in row["images"]]
    texts = [own.apply_chat_template(turns, add_generation_prompt=True)]
    texts.append(texts[0] + row[side][0]["content"] + own.tokenizer.eos_token)
    prompt, whole = (
        own(text=[text], images=[pictures] if pictures else None, add_special_tokens=False, return_tensors="pt")
        for text in texts
    )
    width = prompt["input_ids"].shape[1]
    found = model(**whole).logits[0, width - 1 : -1].log_softmax(-1)
    return found.gather(1, whole["input_ids"][0, width:, None]).sum()


def test_the_loss_is_that_of_plain_transformers_on_the_same_pictures(made, train):
    model, rows, data, tokens = made
    lines = train(method="full", learning_rate=1e-3, max_steps=2)
    own = AutoProcessor.from_pretrained(model)
    before = AutoModelForMultimodalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        given = pq.read_table("logprobs.parquet").to_pylist()
        encoded = pq.read_table(tokens / "train.parquet").to_pylist()
        by_id = {row["id"]: row for row in rows}
        for row, reference in zip(encoded, given, strict=True):
            for side in ("chosen", "rejected"):
                wanted = said(before, own, data, by_id[row["id"]], side).item()
                assert reference[f"ref_{side}_logps"] == pytest.approx(wanted, abs=1e-4)
    assert lines[0]["loss"] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-4)
    policy = AutoModelForMultimodalLM.from_pretrained(model, dtype=torch.float32).eval()
    margins = []
    for row in rows:
        with torch.no_grad():
            reference = said(before, own, data, row, "chosen") - said(before, own, data, row, "rejected")
        margins.append(said(policy, own, data, row, "chosen") - said(policy, own, data, row, "rejected") - reference)
    loss = -torch.nn.functional.logsigmoid(BETA * torch.stack(margins)).mean()
    loss.backward()
    named = {name: p for name, p in policy.named_parameters() if "vision" not in name}
    norm = torch.stack([p.grad.norm() for p in named.values() if p.grad is not None]).norm()
    assert lines[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
    assert lines[1]["loss"] < lines[0]["loss"]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bits(train):
    keys = {"method": "lora", "rank": 4, "learning_rate": 1e-2, "max_steps": 4}

    def outcome(lines: list[dict]) -> tuple[dict, list[float]]:
        return hashes.folder_hashes(Path("results/dpo/trained")), [line["loss"] for line in lines]

    straight = outcome(train(**keys))
    Path("results").rename("before")
    with killed_after(2):
        train(**keys)
    assert outcome(train(**keys)) == straight
    assert atomic.read_json(Path("results/dpo/train.json"))["resumed_from"] == "checkpoint-2"
    assert len(set(straight[1])) == 4  # it learns
