"""The first step of train_sft and train_dpo, whose loss the parent alone determines, against the papers' formulas."""

import json
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import logsigmoid

import compute_logprobs
import tokenize_data
import train_dpo
import train_sft
from posttrain import models, scoring, stage
from posttrain.errors import UserError
from posttrain.project import Project
from posttrain.rows import normalise
from posttrain.tokens import tokenise
from posttrain.training import row_order

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")

PAIRS = [
    ("How many clips did Natalia sell?", "48 + 24 = 72", "48 + 24 = 71, I think."),
    ("What is half of 48?", "24", "It is 20."),
    ("Name a fruit.", "An apple is a fruit.", "A stone."),
    ("And another one?", "A pear.", "😀"),
]
BETA = 0.3


@pytest.fixture
def train(configuration, random_tiny_folder, random_tiny_tokenizer):
    """Tokenise rows, train a run on them for one epoch, and return its first step, its tokens and its spec."""

    def first_step(script, target: str, rows: list[dict], shape: str, changes: dict, **options) -> tuple:
        encoded, _ = tokenise(random_tiny_tokenizer, rows, shape, 256)
        stage.write_json(Path("base.json"), {})
        stage.write_json(Path("tokens/report.json"), {"format": shape})
        for split, part in (("train", encoded), ("validation", [])):
            pq.write_table(pa.Table.from_pylist(part, schema=tokenize_data.schema(shape)), f"tokens/{split}.parquet")
        spec = Path(f"results/{target}/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({f"runs.{target}.warmup": 0} | changes)).spec(target))
        paths = {"spec": spec, "parent": random_tiny_folder, "manifest": Path("base.json"), "tokens": Path("tokens")}
        script.main(Namespace(**paths, **options))
        lines = [json.loads(line) for line in (spec.parent / "train.jsonl").read_text().splitlines()]
        return lines[0], encoded, json.loads(spec.read_text())

    return first_step


def scores(folder: Path, sequences: list) -> list[tuple[float, int]]:
    return scoring.log_probs(models.load(folder).eval(), sequences, 4096)


SFT = {"lora": ("sft", {"runs.sft.dropout": 0}), "full": ("full", {})}


@pytest.mark.parametrize("method", SFT)
def test_sfts_first_loss_is_the_parents_mean_over_the_trained_tokens_of_the_first_batch(
    train, method, chats, random_tiny_folder
):
    target, changes = SFT[method]
    line, rows, spec = train(train_sft, target, chats, "messages", changes | {f"runs.{target}.batch_size": 2})
    first = row_order([row["length"] for row in rows], 2, 1, None, spec["seed"])[:2]
    totals = scores(random_tiny_folder, [(tuple(rows[i]["input_ids"]), tuple(rows[i]["labels"])) for i in first])
    assert line["loss"] == pytest.approx(-sum(total for total, _ in totals) / sum(n for _, n in totals), rel=1e-4)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_changes_neither_loss_nor_gradient(train, chats, accumulation):
    changes = {"runs.full.batch_size": 4}
    whole, _, _ = train(train_sft, "full", chats, "messages", changes)
    split, _, _ = train(train_sft, "full", chats, "messages", changes | {"runs.full.accumulation": accumulation})
    assert split["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert split["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)


def test_packing_trains(train, chats):
    line, _, _ = train(train_sft, "sft", chats, "messages", {"runs.sft.trainer_args": {"packing": True}})
    assert line["loss"] > 0


def pairs() -> list[dict]:
    return [
        normalise(dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)), "preference", {}, "row")
        for pair in PAIRS
    ]


def sides(rows: list[dict], folder: Path) -> list[torch.Tensor]:
    """Log-probabilities of the chosen and of the rejected answers."""
    answers = [
        [scoring.answer(row["prompt_ids"], row[f"{side}_ids"]) for row in rows] for side in ("chosen", "rejected")
    ]
    return [torch.tensor([total for total, _ in scores(folder, side)]) for side in answers]


@pytest.mark.parametrize("objective", [{}, {"runs.dpo.method": "full", "sweeps": {}}], ids=["lora", "full"])
def test_dpos_first_loss_is_the_papers_formula(train, random_tiny_folder, objective):
    reference = {"ref_chosen_logps": [-20.0, -9.0, -70.0, -30.0], "ref_rejected_logps": [-50.0, -41.0, -33.0, -12.0]}
    table = pa.table({name: pa.array(column, pa.float32()) for name, column in reference.items()})
    pq.write_table(table, "reference.parquet")
    changes = objective | {"runs.dpo.batch_size": 4, "runs.dpo.beta": BETA}
    line, rows, _ = train(train_dpo, "dpo", pairs(), "preference", changes, logprobs=Path("reference.parquet"))
    chosen, rejected = sides(rows, random_tiny_folder)
    ratios = [ours - torch.tensor(theirs) for ours, theirs in zip((chosen, rejected), reference.values(), strict=True)]
    losses = -logsigmoid(BETA * (ratios[0] - ratios[1]))
    assert losses.std() > 0.01  # the order of the rows and of the sides would show
    assert line["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert line["rewards/margins"] == pytest.approx(BETA * (ratios[0] - ratios[1]).mean().item(), rel=1e-3)
    assert line["logps/chosen"] == pytest.approx(chosen.mean().item(), rel=1e-4)


@pytest.fixture
def reference(random_tiny_folder):
    """Write the parent's own log-probabilities of the tokens."""

    def write() -> Path:
        paths = {
            "model": random_tiny_folder,
            "tokens": Path("tokens"),
            "output": Path("results/sft/logprobs/pairs.parquet"),
        }
        compute_logprobs.main(Namespace(**paths))
        return paths["output"]

    return write


def test_against_its_own_log_probabilities_dpo_begins_at_log_2(
    train, reference, random_tiny_tokenizer, random_tiny_folder
):
    encoded, _ = tokenise(random_tiny_tokenizer, pairs(), "preference", 256)
    stage.write_json(Path("tokens/report.json"), {"format": "preference"})
    pq.write_table(pa.Table.from_pylist(encoded, schema=tokenize_data.schema("preference")), "tokens/train.parquet")
    output = reference()
    for column, expected in zip(pq.read_table(output).columns, sides(encoded, random_tiny_folder), strict=True):
        torch.testing.assert_close(torch.tensor(column.to_pylist()), expected)
    changes = {"runs.dpo.batch_size": 4, "runs.dpo.accumulation": 2}
    line, _, _ = train(train_dpo, "dpo", pairs(), "preference", changes, logprobs=output)
    assert line["loss"] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-4)
    assert line["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_only_preferences_have_reference_log_probabilities(reference):
    stage.write_json(Path("tokens/report.json"), {"format": "messages"})
    with pytest.raises(UserError, match="dpo needs rows of shape preference, and dataset tokens is messages"):
        reference()
