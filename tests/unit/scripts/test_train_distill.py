"""A distillation's first step, which student and teacher alone determine; what the teacher has read is what the student reads."""

# ruff: noqa: F811  (fixtures of another file's)

from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import refused, write_rows

import compute_topk
import make_base
import train_distill
from posttrain.data.row_order import row_order
from posttrain.inference import distributions
from posttrain.models import loading
from posttrain.runtime import atomic
from unit.scripts.test_train import train  # noqa: F401  (a fixture)
from unit.training.test_distillation import plain

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")


@pytest.fixture(scope="module")
def teacher(random_tiny_folder, tmp_path_factory):
    """A model with the same tokenizer and other weights."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    model = loading.load(random_tiny_folder)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(0.3 * torch.randn_like(parameter))
    loading.save(model, loading.tokenizer(random_tiny_folder), folder)
    atomic.write_json(folder.parent / "base.json", {"files": {}})
    return folder


@pytest.fixture
def distil(train, chats, teacher):
    """Train a run for one step of two rows; returns its first line, its rows and its spec."""

    def first_step(other: Path | None = None, topk: str = "", held_out: int = 0, **keys):
        table = {"from": "base", "objective": "distill", "data": "chats", "teacher": "base", "warmup_ratio": 0}
        changes = {"runs": {"own": table | {"batch_size": 2, "max_steps": 1} | keys}, "sweeps": {}}
        given = {"teacher": other or teacher, "teacher_manifest": teacher.parent / "base.json", "topk": topk}
        return train(train_distill, "own", chats, "messages", changes, held_out, **given)

    return first_step


def stored(teacher: Path, count: int, temperature: str = "") -> Path:
    output = Path(f"results/base/topk/chats,max_length=256,k={count}{temperature}")
    compute_topk.main(Namespace(model=teacher, tokens=Path("tokens"), output=output))
    return output


def test_the_first_loss_is_the_formula_and_stored_tokens_give_the_same(distil, teacher, random_tiny_folder):
    keys = {"beta": 0.3, "temperature": 2, "label_weight": 0.25}
    line, rows, spec = distil(**keys)
    order = row_order([row["length"] for row in rows], 2, 1, 1, spec["seed"])[:2]
    batch = distributions.pad([rows[i] for i in order], 0)
    with torch.no_grad():
        ours, theirs = (distributions.logits(loading.load(at).eval(), batch) for at in (random_tiny_folder, teacher))
    labels = batch["labels"][:, 1:]
    labels = labels[labels != distributions.IGNORED]
    hard = torch.nn.functional.cross_entropy(ours, labels, reduction="sum")
    expected = (0.75 * plain(ours, theirs, 0.3, 2.0) + 0.25 * hard) / len(labels)
    assert line["loss"] == pytest.approx(expected.item(), rel=1e-4)
    topk = stored(teacher, 10_000, ",temperature=2")  # more than the vocabulary has
    found, _, _ = distil(topk=topk, teacher_top_k=10_000, **keys)
    assert found["loss"] == pytest.approx(line["loss"], rel=1e-5)
    assert found["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)


def test_held_out_rows_are_measured_with_stored_tokens(distil, teacher):
    distil(held_out=2)
    topk = stored(teacher, 8)
    distil(topk=topk, held_out=2, teacher_top_k=8, measure_every=1)
    assert "eval_loss" in Path("results/own/train.jsonl").read_text()


def test_what_the_teacher_has_read_of_other_tokens_is_refused(distil, teacher):
    distil()
    topk = stored(teacher, 4)
    table = pq.read_table(topk / "train.parquet")
    changed = pa.array(["0" * 16, *table["fingerprint"].to_pylist()[1:]])
    pq.write_table(table.set_column(0, "fingerprint", changed), topk / "train.parquet")
    with refused("other-vocabulary", "dataset chats"):
        distil(topk=topk, teacher_top_k=4)


def test_a_teacher_of_another_vocabulary_is_refused(distil, chats):
    spec = {"text": {"name": "chats"}, "hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 300, "seed": 42}
    words = [turn | {"content": "an entirely different text about rivers"} for turn in chats[0]["messages"]]
    write_rows(Path("rows.parquet"), [chats[0] | {"messages": words}])
    make_base.at_random(spec, Path("other/model"), "other", Path("rows.parquet"))
    with refused("other-vocabulary", "teacher base") as error:
        distil(other=Path("other/model"))
    assert "its vocabulary is another" in str(error.value) and "objective: sft" in error.value.hint


def test_prompts_without_room_for_a_completion_are_refused(distil):
    with refused("no-prompts", "dataset chats"):
        distil(on_policy_share=1, max_length=256, max_new_tokens=255)
