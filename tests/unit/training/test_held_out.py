"""Held-out rows that are measured while a real stage trains: what is measured, what is kept, where it ends, after a kill too."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import refused, write_rows
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from training_scripts import SCRIPTS

import compute_logprobs
import tokenize_data
from posttrain.data.rows import normalise
from posttrain.data.tokens import questions, tokenise
from posttrain.inference import scoring
from posttrain.models import loading
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import atomic, hashes
from posttrain.training import callbacks, checkpoints, early_stopping, held_out, inputs, keeping, results
from posttrain.workflow.project import Project

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")

WORDS = "apple pear plum fig quince".split()
CLOCKS = ("tokens_per_second", "memory_gib", "seconds", "cpu_percent", "gpu_percent")
RULE = "def worth(answer, reference):\n    return sum(map(ord, answer)) % 97 / 97\n"


class Killed(BaseException):
    """What `kill -9` is to a training, as far as one process can play it."""


def pairs(words: list[str]) -> list[dict]:
    rows = [{"prompt": f"Say {word}.", "chosen": f"{word}, {word}", "rejected": f"no {word[::-1]}"} for word in words]
    return [normalise(row, "preference", {}, "row") | {"id": f"{i} {words[0]}"} for i, row in enumerate(rows)]


def chats(words: list[str]) -> list[dict]:
    rows = [{"prompt": f"Say {word}.", "completion": f"{word}, {word}"} for word in words]
    return [normalise(row, "prompt_completion", {}, "row") | {"id": f"{i} {words[0]}"} for i, row in enumerate(rows)]


UNSEEN = ["cherry", "olive", "lemon"]
SETTINGS = {"from": "base", "batch_size": 4, "max_length": 64, "warmup": 0, "schedule": "constant", "seed": 3}


@pytest.fixture
def train(configuration, random_tiny_folder, random_tiny_tokenizer):
    """Train a run by its script, as the same command does each time; returns its lines, clocks left out, and its train.json."""

    def command(objective: str, **keys) -> tuple[list[dict], dict]:
        shape, make = ("messages", chats) if "messages" in OBJECTIVES[objective].data else ("preference", pairs)
        name = {"messages": "chats", "preference": "pairs"}[shape]
        Path("rules.py").write_text(RULE)
        atomic.write_json(Path("base.json"), {})
        for place in ("tokens/report.json", "data/data.json"):
            atomic.write_json(Path(place), {"shape": shape})
        for split, words in (("train", WORDS), ("validation", UNSEEN)):
            encoded, _ = tokenise(random_tiny_tokenizer, make(words), shape, 64)
            table = pa.Table.from_pylist(encoded, schema=tokenize_data.schema(shape))
            pq.write_table(table, f"tokens/{split}.parquet")
            write_rows(Path(f"data/{split}.parquet"), make(words), shape)
        own = {"objective": objective, "data": name}
        if OBJECTIVES[objective].on_policy:
            own |= {"reward": {"function": "rules.py:worth"}, "max_new_tokens": 6, "batch_size": 8}
        spec = Path("results/run/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({"runs": {"run": SETTINGS | own | keys}, "sweeps": {}})).spec("run"))
        paths = {"parent": random_tiny_folder, "manifest": Path("base.json"), "tokens": Path("tokens")}
        if objective == "dpo":
            paths["logprobs"] = Path("logprobs.parquet")
            compute_logprobs.main(Namespace(model=random_tiny_folder, tokens=Path("tokens"), output=paths["logprobs"]))
        paths |= {"data": Path("data"), "held_out": [Path("data/validation.parquet")], "reward_models": []}
        options = Namespace(spec=spec, **paths)
        SCRIPTS[objective].main(options)
        return lines(), atomic.read_json(Path("results/run/train.json"))

    return command


def lines() -> list[dict]:
    found = [json.loads(line) for line in Path("results/run/train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in found]


def trained_hashes() -> dict[str, str]:
    return hashes.folder_hashes(Path("results/run/trained"))


# ---- what is measured


def kept_model(parent: Path) -> torch.nn.Module:
    """The model that the run leaves, put together anew."""
    base = inputs.load_parent(parent, atomic.read_json(Path("results/run/spec.json")))
    return peft.PeftModel.from_pretrained(base, "results/run/trained").eval()


def unseen() -> list[dict]:
    return pq.read_table("tokens/validation.parquet").to_pylist()


def sides(model: torch.nn.Module) -> list[torch.Tensor]:
    """Log-probabilities of the chosen and of the rejected held-out answers."""
    return [torch.tensor(side) for side in scoring.reference(model, unseen())]


def log_ratios(model: torch.nn.Module, parent: Path) -> list[torch.Tensor]:
    """The same, to the parent's."""
    return [ours - theirs for ours, theirs in zip(sides(model), sides(loading.load(parent).eval()), strict=True)]


def of_sft(model, parent):
    found = scoring.log_probs(model, [(tuple(row["input_ids"]), tuple(row["labels"])) for row in unseen()], 4096)
    return {"eval_loss": -sum(total for total, _ in found) / sum(n for _, n in found)}


def of_dpo(model, parent):
    chosen, rejected = log_ratios(model, parent)
    margins = BETA * (chosen - rejected)
    accuracy = (margins > 0).float().mean().item()
    loss = -logsigmoid(margins).mean().item()
    return {"eval_loss": loss, "eval_rewards/margins": margins.mean().item(), "eval_rewards/accuracies": accuracy}


def of_kto(model, parent):
    chosen, rejected = log_ratios(model, parent)
    return {"eval_rewards/margins": BETA * (chosen.mean() - rejected.mean()).item()}


def of_orpo(model, parent):
    sizes = [torch.tensor([len(row[f"{side}_ids"]) for row in unseen()]) for side in ("chosen", "rejected")]
    chosen, rejected = (total / size for total, size in zip(sides(model), sizes, strict=True))
    return {
        "eval_rewards/accuracies": (chosen > rejected).float().mean().item(),
        "eval_rewards/margins": BETA * (chosen - rejected).mean().item(),
    }


def of_cpo(model, parent):
    chosen, rejected = sides(model)
    margins = BETA * (chosen - rejected)
    return {
        "eval_rewards/accuracies": (margins > 0).float().mean().item(),
        "eval_rewards/margins": margins.mean().item(),
    }


def of_reward(model, parent):
    scores = torch.tensor(scoring.pair_rewards(model, unseen(), 4096))
    margins = scores[:, 0] - scores[:, 1]
    return {"eval_loss": -logsigmoid(margins).mean().item(), "eval_margin": margins.mean().item()}


BETA = 0.5
OWN = {"sft": of_sft, "dpo": of_dpo, "kto": of_kto, "orpo": of_orpo, "cpo": of_cpo, "reward": of_reward}


@pytest.mark.parametrize("objective", OWN)
def test_the_measurement_of_the_kept_step_is_that_of_the_kept_model(train, objective, random_tiny_folder):
    keys = (
        {"beta": BETA} if objective in ("dpo", "kto", "orpo", "cpo") else {"dropout": 0.1} if objective == "sft" else {}
    )
    found, summary = train(objective, keep="best", learning_rate=0.02, max_steps=6, batch_size=2, **keys)
    losses, kept = evaluated(found, "eval_loss"), summary["held_out"]["kept_step"]
    assert len(set(losses.values())) == 6  # three rows in batches of two and one
    assert summary["held_out"]["best"] == {"step": kept, "value": min(losses.values())}
    (line,) = [line for line in found if line["step"] == kept and "eval_loss" in line]
    own = OWN[objective](kept_model(random_tiny_folder), random_tiny_folder)
    assert {name: line[name] for name in own} == pytest.approx(own, rel=2e-4, abs=1e-5)


def evaluated(found: list[dict], name: str) -> dict[int, float]:
    """Values by step."""
    return {line["step"]: line[name] for line in found if name in line}


def worth(text: str) -> float:
    """What RULE gives."""
    return sum(map(ord, text)) % 97 / 97


def said(parent: Path, tokenizer, longest: int) -> list[str]:
    """The kept model's greedy answers to the held-out prompts."""
    prompts = [row["prompt_ids"] for row in questions(tokenizer, held_out.read(Path("data/validation.parquet")))]
    return scoring.generate(kept_model(parent), tokenizer, prompts, longest)


@pytest.mark.parametrize("objective", ["grpo", "rloo", "ppo"])
def test_on_its_own_answers_a_model_is_measured_by_what_its_greedy_ones_earn(
    train, objective, random_tiny_folder, random_tiny_tokenizer
):
    keys = {"ppo_epochs": 2} if objective == "ppo" else {}
    found, summary = train(objective, keep="best", learning_rate=0.05, max_steps=4, measure_every=1, **keys)
    rewards = evaluated(found, "eval_reward")
    steps = {"grpo": [1, 2, 3, 4], "rloo": [1, 2, 3, 4], "ppo": [2, 4, 6, 8]}[objective]  # a rollout is two steps
    assert [*rewards] == steps and len(set(rewards.values())) > 1
    best = summary["held_out"]["best"]
    assert best["value"] == max(rewards.values()) == rewards[best["step"]]
    answers = said(random_tiny_folder, random_tiny_tokenizer, 6)
    assert best["value"] == pytest.approx(sum(map(worth, answers)) / len(answers), abs=1e-6)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_metric_of_the_users_own_is_measured_on_generated_answers(
    train, objective, random_tiny_folder, random_tiny_tokenizer
):
    table = {"metric": "rules.py:worth", "patience": None, "max_new_tokens": 5}
    found, summary = train(objective, early_stopping=table, learning_rate=0.05, max_steps=4)
    values = evaluated(found, "eval_worth")
    assert len(values) == 4 and summary["held_out"]["best"]["value"] == max(values.values())
    answers = said(random_tiny_folder, random_tiny_tokenizer, 5)
    assert max(values.values()) == pytest.approx(sum(map(worth, answers)) / len(answers), abs=1e-6)


# ---- what follows


@pytest.fixture
def saving(monkeypatch):
    """Save after these steps, whatever the clock says, and then do something."""
    decide, save = callbacks.SaveCheckpoints.on_step_end, callbacks.SaveCheckpoints.on_save

    def at(*steps: int, then=lambda step, folder: None) -> None:
        def on_step_end(self, args, state, control, **options):
            decide(self, args, state, control, **options)
            control.should_save = state.global_step in steps

        def on_save(self, args, state, control, **options):
            save(self, args, state, control, **options)
            then(state.global_step, self.folder)

        monkeypatch.setattr(callbacks.SaveCheckpoints, "on_step_end", on_step_end)
        monkeypatch.setattr(callbacks.SaveCheckpoints, "on_save", on_save)

    return at


def test_measuring_takes_no_other_step(train):
    keys = {"learning_rate": 0.05, "max_steps": 6, "dropout": 0.2}
    plain, summary = train("sft", **keys)
    assert "held_out" not in summary
    found, summary = train("sft", measure_every=2, **keys)
    assert [line for line in found if "loss" in line] == plain
    assert [*evaluated(found, "eval_loss")] == [2, 4, 6] and summary["held_out"]["kept_step"] == 6


# All rows in one batch, of a model that moves as a whole: its held-out loss falls, and rises from the middle on.
OVERFITS = {"method": "full", "batch_size": 5, "learning_rate": 0.01, "max_steps": 20, "measure_every": 1}
STOPS = OVERFITS | {"early_stopping": {"patience": 3}}
WEIGHTS = "model.safetensors"


def test_the_best_step_is_kept_as_it_was(train, saving):
    saved = {}
    saving(
        *range(1, 20),
        then=lambda step, folder: saved.update({step: load_file(folder / f"checkpoint-{step}/{WEIGHTS}")}),
    )
    found, summary = train("sft", keep="best", **OVERFITS)
    losses, best = evaluated(found, "eval_loss"), summary["held_out"]["kept_step"]
    assert losses[best] == min(losses.values()) and 4 < best < 16
    assert (summary["steps"], summary["held_out"]["stopped_at"]) == (20, None)
    kept = load_file(f"results/run/trained/{WEIGHTS}")
    assert kept.keys() == saved[best].keys() and all(torch.equal(kept[name], saved[best][name]) for name in kept)
    assert not list(Path("results/run/checkpoints").glob("*/*-*"))


@pytest.fixture(scope="module")
def once() -> dict:
    """What is trained once for all tests."""
    return {}


@pytest.fixture
def straight(train, once) -> tuple:
    """What a training leaves that nothing interrupts and that stops early: lines, what was measured, files."""
    if "straight" not in once:
        once["straight"] = outcome(train)
        shutil.rmtree("results")
    return once["straight"]


def outcome(train) -> tuple:
    found, summary = train("sft", **STOPS)
    return found, summary["held_out"], trained_hashes()


def test_it_ends_where_as_many_measurements_in_a_row_are_no_better(straight):
    found, summary, _ = straight
    losses = evaluated(found, "eval_loss")
    best, last = summary["best"]["step"], summary["stopped_at"]
    assert last == best + 3 < 20 and [*losses] == [*range(1, last + 1)] and found[-1]["step"] == last
    assert (summary["kept_step"], summary["planned_steps"], summary["measurements"]) == (best, 20, last)
    assert losses[best] == min(losses.values())


def die(*_, **__) -> None:
    raise Killed


def dies(function, when, late: bool = False):
    """A function that dies where its arguments say so, before or after it has done its work."""

    def called(*arguments, **options):
        if late:
            function(*arguments, **options)
        if when(*arguments):
            die()
        return None if late else function(*arguments, **options)

    return called


# Where it dies, by the best step, and the checkpoint that it then goes on from; there are checkpoints of step 2 and another.
MOMENTS = {
    "before the first checkpoint": (keeping, "save", lambda best: lambda folder, step, write: step == 2, False, None),
    "while the best is written": (
        *(checkpoints, "write_list", lambda best: lambda folder: folder.name == f"best-{best}"),
        *(False, 2),
    ),
    "after the best, before a checkpoint": (
        keeping,
        "save",
        lambda best: lambda folder, step, write: step == best,
        True,
        2,
    ),
    "after a checkpoint that counts on it": (
        *(held_out.Measuring, "on_save", lambda best: lambda self, args, state, *_: state.global_step > best),
        *(True, 1),
    ),
    "once it has stopped": (results, "write", lambda best: lambda *_: True, False, 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_stops_at_the_same_step_and_keeps_the_same_bits(train, straight, saving, moment):
    place, name, when, late, left = MOMENTS[moment]
    best = straight[1]["kept_step"]
    saving(2, best + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, dies(getattr(place, name), when(best), late))
        with pytest.raises(Killed):
            train("sft", **STOPS)
    assert outcome(train) == straight
    resumed = atomic.read_json(Path("results/run/train.json"))["resumed_from"]
    assert resumed == {None: None, 2: "checkpoint-2", 1: f"checkpoint-{best + 1}"}[left]


@pytest.fixture
def killed(train, straight, saving) -> Path:
    """The folder of a training that was killed after a checkpoint which counts on the best step."""
    saving(2, straight[1]["kept_step"] + 1)
    with pytest.MonkeyPatch.context() as patch:
        last = lambda self, args, state, *_: state.global_step > 2  # noqa: E731
        patch.setattr(held_out.Measuring, "on_save", dies(held_out.Measuring.on_save, last, late=True))
        with pytest.raises(Killed):
            train("sft", **STOPS)
    (folder,) = Path("results/run/checkpoints").iterdir()
    return folder


@pytest.mark.parametrize("spoil", [lambda best: (best / WEIGHTS).write_bytes(b""), shutil.rmtree], ids=["cut", "gone"])
def test_a_checkpoint_whose_best_step_is_spoilt_is_not_gone_on_from(train, straight, killed, spoil):
    best = straight[1]["kept_step"]
    assert {path.name for path in killed.glob("best-*")} == {"best-2", f"best-{best}"}  # each the best of a checkpoint
    spoil(killed / f"best-{best}")
    assert outcome(train) == straight
    assert atomic.read_json(Path("results/run/train.json"))["resumed_from"] == "checkpoint-2"


# ---- every objective, and the methods that save themselves in ways of their own

STEPS = {"early_stopping": {"patience": 2}, "measure_every": 1, "learning_rate": 0.05, "max_steps": 8}
CELLS = [(objective, "lora") for objective in SCRIPTS if objective != "sft"]
CELLS += [("sft", method) for method in ("full", "qlora", "prefix", "p_tuning", "vera")] + [("ppo", "full")]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "method"), CELLS)
def test_a_killed_training_stops_at_the_same_step_and_keeps_the_same_bits(train, saving, objective, method):
    keys = STEPS | {"method": method} | ({"ppo_epochs": 1} if objective == "ppo" else {})
    found, summary = train(objective, **keys)
    straight = found, summary["held_out"], trained_hashes()
    shutil.rmtree("results")
    saving(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out.Measuring, "on_save", dies(held_out.Measuring.on_save, lambda *_: True, late=True))
        with pytest.raises(Killed):
            train(objective, **keys)
    found, summary = train(objective, **keys)
    assert summary["resumed_from"] == "checkpoint-2"
    assert (found, summary["held_out"], trained_hashes()) == straight


def test_packed_rows_are_measured_as_they_are_alone(train, random_tiny_folder):
    packed = {"packing": True, "dropout": 0, "learning_rate": 0.02}
    _, summary = train("sft", keep="best", max_steps=3, **packed)
    own = of_sft(kept_model(random_tiny_folder), random_tiny_folder)
    assert summary["held_out"]["best"]["value"] == pytest.approx(own["eval_loss"], rel=2e-4)


def test_prompts_without_room_for_an_answer_are_one_sentence(random_tiny_tokenizer, chats):
    write_rows(Path("validation.parquet"), chats)
    spec = {"objective": "sft", "keep": "best", "max_length": 132, "data": {"name": "chats"}}
    planned = early_stopping.plan(spec | {"early_stopping": {"metric": "rougeL", "patience": None}})
    with refused("too-long", "dataset chats"):
        held_out.held_out_prompts(Path("validation.parquet"), spec, planned, random_tiny_tokenizer)
