"""The first step of every objective on given answers, whose loss the parent alone determines, against the papers' formulas.

And of QLoRA, whose parent is held in 4 bits, and of what an objective that answers prompts itself does before its first.
"""

import json
import math
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import trl
from conftest import refused, write_rows
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

import compute_logprobs
import merge_model
import tokenize_data
import train_classify
import train_dpo
import train_grpo
import train_kto
import train_orpo
import train_reward
import train_sft
from posttrain.data.row_order import row_order
from posttrain.data.rows import normalise
from posttrain.data.tokens import tokenise
from posttrain.inference import scoring
from posttrain.models import loading
from posttrain.runtime import atomic
from posttrain.training import inputs, loop, results
from posttrain.workflow.project import Project

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

    def first_step(
        script, target: str, rows: list[dict], shape: str, changes: dict, held_out: int = 0, **options
    ) -> tuple:
        encoded, _ = tokenise(random_tiny_tokenizer, rows, shape, 256)
        atomic.write_json(Path("base.json"), {})
        labels = sorted({row["label"] for row in encoded}) if shape == "labelled_text" else []
        atomic.write_json(Path("tokens/report.json"), {"shape": shape, "train": {"classes": labels}})
        for split, part in (("train", encoded), ("validation", encoded[:held_out])):
            pq.write_table(pa.Table.from_pylist(part, schema=tokenize_data.schema(shape)), f"tokens/{split}.parquet")
        spec = Path(f"results/{target}/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({f"runs.{target}.warmup": 0} | changes)).spec(target))
        paths = {"spec": spec, "parent": random_tiny_folder, "manifest": Path("base.json"), "tokens": Path("tokens")}
        script.main(Namespace(**(paths | options)))
        lines = [json.loads(line) for line in (spec.parent / "train.jsonl").read_text().splitlines()]
        return lines[0], encoded, json.loads(spec.read_text())

    return first_step


def scores(folder: Path, sequences: list) -> list[tuple[float, int]]:
    return scoring.log_probs(loading.load(folder).eval(), sequences, 4096)


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


@pytest.mark.parametrize("objective", ["sft", "reward"])
def test_a_training_may_be_measured_on_its_held_out_rows_on_the_way(train, objective, chats):
    script, rows, shape = {
        "sft": (train_sft, chats, "messages"),
        "reward": (train_reward, pairs(), "preference"),
    }[objective]
    table = {"from": "base", "objective": objective, "data": "chats" if objective == "sft" else "pairs", "warmup": 0}
    table |= {"max_steps": 2, "measure_every": 1}
    changes = {"runs": {objective: table}, "sweeps": {}}
    train(script, objective, rows, shape, changes, held_out=2)
    lines = [json.loads(line) for line in Path(f"results/{objective}/train.jsonl").read_text().splitlines()]
    assert [(step["step"], "eval_loss" in step) for step in lines] == [(1, False), (1, True), (2, False), (2, True)]
    assert atomic.read_json(Path(f"results/{objective}/train.json"))["loss"] == lines[2]["loss"]


def test_a_classifiers_first_loss_is_near_that_of_a_guess(train):
    rows = [normalise({"text": text, "label": text[-1]}, "labelled_text", {}, "row") for text in ("1 a", "2 b", "3 a")]
    table = {"from": "base", "objective": "classify", "method": "full", "data": "chats", "max_steps": 1}
    changes = {"runs": {"own": table}, "sweeps": {}, "datasets.chats.format": "labelled_text"}
    line, _, _ = train(train_classify, "own", rows, "labelled_text", changes)
    assert line["loss"] == pytest.approx(math.log(2), abs=0.1)


def test_what_trl_has_not_implemented_is_one_sentence(train):
    pq.write_table(pa.table({name: pa.array(column, pa.float32()) for name, column in FIXED.items()}), "r.parquet")
    changes = {"runs.dpo.trainer_args": {"sync_ref_model": True}}
    with refused("refused-argument", "dpo"):
        train(train_dpo, "dpo", pairs(), "preference", changes, logprobs=Path("r.parquet"))


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
    atomic.write_json(Path("tokens/report.json"), {"shape": "preference"})
    pq.write_table(pa.Table.from_pylist(encoded, schema=tokenize_data.schema("preference")), "tokens/train.parquet")
    output = reference()
    for column, expected in zip(pq.read_table(output).columns, sides(encoded, random_tiny_folder), strict=True):
        torch.testing.assert_close(torch.tensor(column.to_pylist()), expected)
    changes = {"runs.dpo.batch_size": 4, "runs.dpo.accumulation": 2}
    line, _, _ = train(train_dpo, "dpo", pairs(), "preference", changes, logprobs=output)
    assert line["loss"] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-4)
    assert line["rewards/margins"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_on_a_bf16_parent_in_fp32_arithmetic_an_untrained_policy_is_its_reference(
    train, random_tiny_tokenizer, random_tiny_folder, method
):
    folder = Path("bf16")
    loading.save(loading.load(random_tiny_folder).to(torch.bfloat16), random_tiny_tokenizer, folder)
    encoded, _ = tokenise(random_tiny_tokenizer, pairs(), "preference", 256)
    atomic.write_json(Path("tokens/report.json"), {"shape": "preference"})
    pq.write_table(pa.Table.from_pylist(encoded, schema=tokenize_data.schema("preference")), "tokens/train.parquet")
    output = Path("results/sft/logprobs/pairs,max_length=1024,fp32.parquet")
    compute_logprobs.main(Namespace(model=folder, tokens=Path("tokens"), output=output))
    changes = {"precision": "fp32", "batch_size": 4, "beta": 1.0, "method": method}
    changes = {f"runs.dpo.{key}": value for key, value in changes.items()} | {"sweeps": {}, "runs.follow": ...}
    line, _, _ = train(train_dpo, "dpo", pairs(), "preference", changes, logprobs=output, parent=folder)
    assert line["rewards/chosen"] == pytest.approx(0, abs=1e-3)  # beta times the log-ratio
    assert line["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert loading.dtype_of(Path("results/dpo/trained")) in (None, "float32")


def test_a_references_file_says_how_its_model_is_held():
    names = ("x,max_length=9", "x,max_length=9,nf4,fp32", "x,max_length=9,whole,bf16")
    assert [compute_logprobs.form(Path(f"{name}.parquet")) for name in names] == [
        {"method": "lora", "precision": "auto"},
        {"method": "qlora", "precision": "fp32"},
        {"method": "full", "precision": "bf16"},
    ]


def test_only_preferences_have_reference_log_probabilities(reference):
    atomic.write_json(Path("tokens/report.json"), {"shape": "messages"})
    with refused("wrong-dataset-type", "dataset tokens"):
        reference()


# ---- the other losses


@pytest.fixture
def wide_folder(random_tiny_folder, tmp_path):
    """The random tiny model with weights that words, and 4 bits, can be told from."""
    model = loading.load(random_tiny_folder)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    loading.save(model, loading.tokenizer(random_tiny_folder), tmp_path / "wide")
    return tmp_path / "wide"


def test_dynamic_fine_tuning_weighs_each_tokens_loss_by_its_probability(train, chats, random_tiny_folder):
    changes = {"runs.full.batch_size": 4, "runs.full.loss_type": "dft"}
    line, rows, _ = train(train_sft, "full", chats, "messages", changes)
    model, losses = loading.load(random_tiny_folder).eval(), []
    for row in rows:
        with torch.no_grad():
            distribution = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        scored = [(i, label) for i, label in enumerate(row["labels"]) if label != -100]
        losses += [-(distribution[i - 1, label].exp() * distribution[i - 1, label]).item() for i, label in scored]
    assert line["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_lora_plus_moves_b_faster_than_a(train, method, chats, monkeypatch):
    optimisers, original = [], loop.lora_plus

    def lora_plus(trainer, ratio):
        optimisers.append((original(trainer, ratio), {id(p): name for name, p in trainer.model.named_parameters()}))
        return optimisers[0][0]

    monkeypatch.setattr(loop, "lora_plus", lora_plus)
    changes = {"method": method, "lora_plus": 16, "learning_rate": 1e-3, "schedule": "constant", "max_steps": 1}
    train(train_sft, "sft", chats, "messages", {f"runs.sft.{key}": value for key, value in changes.items()})
    optimiser, names = optimisers[0]
    rates = {names[id(p)]: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert len(rates) == 2 * 2 * 7  # A and B of every matrix of two layers
    assert all(rate == pytest.approx(16e-3 if "lora_B" in name else 1e-3) for name, rate in rates.items())
    weights = load_file("results/sft/trained/adapter_model.safetensors")
    moved = max(weight.abs().max().item() for name, weight in weights.items() if "lora_B" in name)
    assert moved == pytest.approx(16e-3, rel=0.1)  # Adam's first step is the rate itself, from 0


def test_adalora_ends_with_its_budget_of_ranks(train, chats):
    changes = {"method": "adalora", "rank": 4, "learning_rate": 0.01, "max_steps": 30, "batch_size": 2, "dropout": 0}
    train(train_sft, "sft", chats, "messages", {f"runs.sft.{key}": value for key, value in changes.items()})
    weights = load_file("results/sft/trained/adapter_model.safetensors")
    ranks = [int((weight != 0).sum()) for name, weight in weights.items() if name.endswith("lora_E")]
    assert (len(ranks), sum(ranks)) == (14, 4 * 14)
    assert len(set(ranks)) > 1  # shared out by importance
    assert {weight.numel() for name, weight in weights.items() if name.endswith("lora_E")} == {6}


def test_dpo_from_pissa_is_merged_as_it_was_trained(train, random_tiny_folder, monkeypatch):
    """PiSSA moves the parent's weights; what is loaded again must move them in the same way."""
    pq.write_table(pa.table({name: pa.array(column, pa.float32()) for name, column in FIXED.items()}), "r.parquet")
    keep, trained, ids = results.write, [], torch.tensor([[5, 9, 17, 33]])

    def look(trainer, model, *rest):
        with torch.no_grad():
            trained.append(model.eval()(input_ids=ids).logits)
        keep(trainer, model, *rest)

    monkeypatch.setattr(results, "write", look)
    changes = {"peft_args": {"init_lora_weights": "pissa"}, "learning_rate": 0.01, "max_steps": 3, "rank": 4}
    changes = {f"runs.dpo.{key}": value for key, value in changes.items()} | {"runs.follow": ..., "sweeps": {}}
    train(train_dpo, "dpo", pairs(), "preference", changes, logprobs=Path("r.parquet"))
    atomic.write_json(Path("base.json"), {"files": {}})
    atomic.write_json(Path("preflight.json"), {"licences": {}})
    paths = {"parent": random_tiny_folder, "shipped": random_tiny_folder, "manifest": Path("base.json")}
    paths["tokens"] = Path("tokens")
    paths["preflight"] = Path("preflight.json")
    merge_model.main(Namespace(spec=Path("results/dpo/spec.json"), **paths))
    with torch.no_grad():
        merged, parent = (
            loading.load(folder)(input_ids=ids).logits for folder in (Path("results/dpo/model"), random_tiny_folder)
        )
    torch.testing.assert_close(merged, trained[0], atol=1e-4, rtol=1e-4)
    assert (merged - parent).abs().max() > 1e-2


FIXED = {"ref_chosen_logps": [-20.0, -9.0, -70.0, -30.0], "ref_rejected_logps": [-50.0, -41.0, -33.0, -12.0]}


def test_a_mixture_of_dpo_losses_is_their_weighted_sum(train, random_tiny_folder):
    pq.write_table(pa.table({name: pa.array(column, pa.float32()) for name, column in FIXED.items()}), "r.parquet")
    weights = {"sigmoid": 0.5, "hinge": 0.25, "ipo": 0.125, "apo_zero": 2.0, "sft": 3.0, "bco_pair": 0.75}
    changes = {
        "runs.dpo.batch_size": 4,
        "runs.dpo.beta": BETA,
        "runs.dpo.loss_type": [*weights],
        "runs.dpo.loss_weights": [*weights.values()],
    }
    line, rows, _ = train(train_dpo, "dpo", pairs(), "preference", changes, logprobs=Path("r.parquet"))
    chosen, rejected = sides(rows, random_tiny_folder)
    won, lost = chosen - torch.tensor(FIXED["ref_chosen_logps"]), rejected - torch.tensor(FIXED["ref_rejected_logps"])
    sizes = [torch.tensor([len(row[f"{side}_ids"]) for row in rows]) for side in ("chosen", "rejected")]
    losses = {
        "sigmoid": -logsigmoid(BETA * (won - lost)).mean(),
        "hinge": (1 - BETA * (won - lost)).clamp(min=0).mean(),
        "ipo": (won / sizes[0] - lost / sizes[1] - 1 / (2 * BETA)).square().mean(),
        "apo_zero": (1 - (BETA * won).sigmoid() + (BETA * lost).sigmoid()).mean(),
        "sft": -chosen.sum() / sizes[0].sum(),
        "bco_pair": (-logsigmoid(BETA * won) - logsigmoid(-BETA * lost)).mean(),
    }
    assert line["loss"] == pytest.approx(sum(weights[name] * losses[name].item() for name in weights), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_first_reward_loss_is_that_of_the_score_differences(train, method, wide_folder):
    table = {"from": "base", "objective": "reward", "data": "pairs", "method": method, "batch_size": 4, "warmup": 0}
    line, rows, spec = train(train_reward, "reward", pairs(), "preference", {"runs.reward": table}, parent=wide_folder)
    model = inputs.load_parent(wide_folder, spec).eval()  # the seed gives it the same head
    answers = [[(*row["prompt_ids"], *row[f"{side}_ids"]) for row in rows] for side in ("chosen", "rejected")]
    chosen, rejected = (torch.tensor(scoring.rewards(model, side, 4096)) for side in answers)
    assert (chosen - rejected).std() > 0.005
    assert line["loss"] == pytest.approx(-logsigmoid(chosen - rejected).mean().item(), rel=1e-5)
    assert line["accuracy"] == (chosen > rejected).float().mean().item()
    assert line["margin"] == pytest.approx((chosen - rejected).mean().item(), rel=1e-3)


def test_the_first_orpo_loss_is_the_papers_formula(train, random_tiny_folder):
    table = {"from": "base", "objective": "orpo", "data": "pairs", "beta": BETA, "batch_size": 4, "warmup": 0}
    line, rows, _ = train(train_orpo, "orpo", pairs(), "preference", {"runs.orpo": table})
    totals = sides(rows, random_tiny_folder)
    sizes = [torch.tensor([len(row[f"{side}_ids"]) for row in rows]) for side in ("chosen", "rejected")]
    chosen, rejected = (
        total / size for total, size in zip(totals, sizes, strict=True)
    )  # means over an answer's tokens
    odds = [p - torch.log1p(-p.exp()) for p in (chosen, rejected)]
    nll = -totals[0].sum() / sizes[0].sum()  # of the answers; the prompts are not trained
    ratio = -logsigmoid(odds[0] - odds[1]).mean()
    assert line["nll_loss"] == pytest.approx(nll.item(), rel=1e-4)
    assert line["log_odds_chosen"] == pytest.approx((odds[0] - odds[1]).mean().item(), rel=1e-3)
    assert line["loss"] == pytest.approx((nll + BETA * ratio).item(), rel=1e-4)


def reference_by_content(trainer, model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Made-up log-probabilities of a reference that is not the parent; the pad token is 0."""
    return tuple(-20.0 - inputs[name].sum(1) % 30 for name in ("input_ids", "KL_input_ids"))


def unpaired() -> list[dict]:
    labelled = [
        (prompt, answer, label) for prompt, *answers in PAIRS for answer, label in zip(answers, (1, 0), strict=True)
    ]
    return [
        normalise(dict(zip(("prompt", "completion", "label"), row, strict=True)), "unpaired_preference", {}, "row")
        for row in labelled
    ]


@pytest.mark.parametrize("shape", ["preference", "unpaired_preference"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_first_kto_loss_is_the_papers_formula_with_the_divergence_of_mismatched_answers(
    train, shape, accumulation, random_tiny_folder, monkeypatch
):
    monkeypatch.setattr(trl.KTOTrainer, "compute_ref_log_probs", reference_by_content)
    table = {"from": "base", "objective": "kto", "data": "pairs", "beta": BETA, "batch_size": 8, "warmup": 0}
    table |= {"accumulation": accumulation, "epochs": 1}
    data = pairs() if shape == "preference" else unpaired()
    line, rows, spec = train(
        train_kto, "kto", data, shape, {"runs.kto": table | {"data": shape}, f"datasets.{shape}": {"path": "x.csv"}}
    )
    if shape == "preference":
        rows = [
            {"prompt_ids": row["prompt_ids"], "completion_ids": row[f"{side}_ids"], "label": side == "chosen"}
            for row in rows
            for side in ("chosen", "rejected")
        ]
    lengths = [len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows]
    ordered = [rows[i] for i in row_order(lengths, 8, 1, None, spec["seed"])]
    size, losses, divergences = 8 // accumulation, [], []
    for start in range(0, 8, size):
        batch = ordered[start : start + size]
        before = [[batch[i - k] for k in range(1, size)] for i in range(size)]
        foreign = [
            next(other for other in some if other["prompt_ids"] != row["prompt_ids"])
            for row, some in zip(batch, before, strict=True)
        ]
        others = [(row["prompt_ids"], other["completion_ids"]) for row, other in zip(batch, foreign, strict=True)]
        own = [(row["prompt_ids"], row["completion_ids"]) for row in batch]
        assert all(answer != other for (_, answer), (_, other) in zip(own, others, strict=True))
        ratios = []
        for sequences in (own, others):
            totals = scores(random_tiny_folder, [scoring.answer(*sequence) for sequence in sequences])
            reference = torch.tensor([-20.0 - sum(prompt + answer) % 30 for prompt, answer in sequences])
            ratios.append(torch.tensor([total for total, _ in totals]) - reference)
        z = ratios[1].mean().clamp(min=0)
        signs = torch.tensor([1.0 if row["label"] else -1.0 for row in batch])
        losses.append((1 - (BETA * signs * (ratios[0] - z)).sigmoid()).mean())
        divergences.append(z)
    assert len({*map(float, losses)}) == accumulation
    assert line["loss"] == pytest.approx((sum(losses) / accumulation).item(), rel=1e-4)
    assert line["kl"] == pytest.approx((sum(divergences) / accumulation).item(), rel=1e-3)


# ---- answers of its own

RULE = """
import json

def rule(answer, reference):
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps([answer, reference, len(answer)]) + "\\n")
    return len(answer)
"""


def prompt_of(row: dict) -> dict:
    """A conversation's prompt alone."""
    return {"id": row["id"], "place": row["place"], "prompt": row["messages"][:-1]}


@pytest.fixture
def sample(configuration, chats, random_tiny_folder):
    """Train a run on its own answers to the first conversations, or to their prompts alone; returns its steps and its rule's calls."""

    def run(objective: str, conversations: int, alone: bool = False, **keys) -> tuple[list[dict], list]:
        Path("rules.py").write_text(RULE)
        shape = "prompts" if alone else "messages"
        write_rows(
            Path("data/train.parquet"), [(prompt_of if alone else dict)(row) for row in chats[:conversations]], shape
        )
        atomic.write_json(Path("data/data.json"), {"shape": shape})
        atomic.write_json(Path("base.json"), {})
        table = {"from": "base", "objective": objective, "data": "chats", "batch_size": 8, "generations": 4}
        table |= {"max_new_tokens": 4, "reward": {"function": "rules.py:rule"}, "warmup": 0}
        spec = Path(f"results/{objective}/spec.json")
        spec.parent.mkdir(parents=True)
        spec.write_text(Project(configuration({f"runs.{objective}": table | keys})).spec(objective))
        paths = {"parent": random_tiny_folder, "manifest": Path("base.json"), "data": Path("data"), "reward_models": []}
        train_grpo.main(Namespace(spec=spec, **paths))
        files = (spec.parent / "train.jsonl", Path("calls.jsonl"))
        return tuple([json.loads(line) for line in file.read_text().splitlines()] for file in files)

    return run


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
@pytest.mark.parametrize(("conversations", "keys", "steps"), [(3, {}, 2), (1, {}, 1), (3, {"max_steps": 3}, 3)])
def test_every_answer_is_rewarded_beside_its_own_reference_and_no_prompt_is_left_out(
    sample, chats, objective, conversations, keys, steps
):
    lines, calls = sample(objective, conversations, **keys)
    references = [reference for _, reference, _ in calls]
    assert (len(lines), len(calls)) == (steps, 8 * steps)
    assert all(len(set(references[i : i + 4])) == 1 for i in range(0, len(calls), 4))
    assert set(references) == {row["messages"][-1]["content"] for row in chats[:conversations]}
    for i, line in enumerate(lines):
        assert line["reward"] == pytest.approx(sum(worth for *_, worth in calls[8 * i : 8 * i + 8]) / 8)


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_prompts_alone_are_enough_and_have_no_reference(sample, objective):
    lines, calls = sample(objective, 3, alone=True)
    assert (len(lines), len(calls)) == (2, 16)
    assert {reference for _, reference, _ in calls} == {None}
    assert lines[0]["reward"] == pytest.approx(sum(worth for *_, worth in calls[:8]) / 8)


def test_a_tokenizer_without_a_chat_template_will_do(sample, random_tiny_tokenizer, monkeypatch):
    random_tiny_tokenizer.chat_template = None
    monkeypatch.setattr(loading, "tokenizer", lambda folder: random_tiny_tokenizer)
    assert len(sample("grpo", 4)[0]) == 2


def test_prompts_that_leave_no_room_for_an_answer_are_one_sentence(sample):
    with refused("too-long", "dataset chats"):
        sample("grpo", 4, max_length=8)


# ---- 4 bits


def test_qloras_reference_is_the_parent_in_4_bits(train, wide_folder, random_tiny_tokenizer, chats):
    encoded, _ = tokenise(random_tiny_tokenizer, pairs(), "preference", 256)
    atomic.write_json(Path("tokens/report.json"), {"shape": "preference"})
    pq.write_table(pa.Table.from_pylist(encoded, schema=tokenize_data.schema("preference")), "tokens/train.parquet")
    first = {}
    for bits in (",nf4", ""):
        output = Path(f"results/sft/logprobs/pairs{bits}.parquet")
        compute_logprobs.main(Namespace(model=wide_folder, tokens=Path("tokens"), output=output))
        changes = {"runs.dpo.batch_size": 4, "runs.dpo.method": "qlora", "runs.dpo.beta": 1.0}
        given = {"logprobs": output, "parent": wide_folder}
        first[bits], _, _ = train(train_dpo, "dpo", pairs(), "preference", changes, **given)
    two = torch.tensor(2.0).log().item()
    assert first[",nf4"]["loss"] == pytest.approx(two, abs=1e-4)
    assert first[",nf4"]["rewards/chosen"] == pytest.approx(0, abs=1e-3)
    assert abs(first[""]["loss"] - two) > 0.003
