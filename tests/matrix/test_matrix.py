"""Every objective by every method through the real scripts, on a random tiny model: it learns and resumes, or is refused.

docs/support-matrix.md is what this module finds; `POSTTRAIN_WRITE_MATRIX=1 pytest tests/matrix` writes it.
"""

import contextlib
import json
import os
import re
import shutil
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import training_scripts
import yaml
from conftest import REPOSITORY, write_rows

import merge_model
import tokenize_data
from posttrain.data import rows as row_schemas
from posttrain.data.rows import normalise
from posttrain.data.tokens import tokenise
from posttrain.methods import METHODS
from posttrain.models import loading
from posttrain.runtime import atomic, hashes
from posttrain.runtime.errors import UserError
from posttrain.training import callbacks, checkpoints, results
from posttrain.workflow.project import Project

PAGE = REPOSITORY / "docs/support-matrix.md"
SCRIPTS = training_scripts.SCRIPTS | {"rto": training_scripts.SCRIPTS["ppo"]}
ON_POLICY = ("grpo", "rloo", "ppo", "rto")
DATA = {"sft": "chats", "distill": "chats", "pretrain": "texts", "classify": "labelled"} | dict.fromkeys(
    ON_POLICY, "chats"
)
TWINS = ("cpo", "pretrain", "distill")
# Large enough that a model of random weights learns something in a few steps.
RATE = {
    "full": 3e-3,
    "ia3": 0.1,
    "prefix": 0.3,
    "p_tuning": 0.03,
    "prompt": 0.3,
    "vera": 0.1,
    "oft": 0.01,
    "adapter": 0.02,
}
STEPS = 6
WORDS = "apple pear plum fig".split()
PAIRS = [(f"Say {word} {i}.", f"{word} is number {i}", f"{i}{i} no {word[::-1]}") for i, word in enumerate(WORDS * 2)]
# The share of small letters among an answer's characters.
RULE = "def small(answer, reference):\n    return sum(c.islower() for c in answer) / max(1, len(answer))\n"
found: dict[tuple[str, str], str | None] = {}
# What a run is beside its objective and its method, each on one method: the run's keys.
EXTRAS = {
    "SimPO": ("cpo", "lora", {"loss_type": "simpo"}),
    "GSPO": ("grpo", "lora", {"variant": "gspo", "num_mini_batches": 2}),
    "DAPO": ("grpo", "lora", {"variant": "dapo", "max_new_tokens": 24}),
    "CISPO": ("grpo", "lora", {"variant": "cispo"}),
    "Dr. GRPO": ("grpo", "lora", {"variant": "dr_grpo"}),
    "EVA": ("sft", "lora", {"rank": 4, "peft_args": {"init_lora_weights": "eva"}}),
    "EVA in 4 bits": ("dpo", "qlora", {"rank": 4, "peft_args": {"init_lora_weights": "eva"}}),
    "packing": ("sft", "lora", {"packing": True, "batch_size": 2}),
    "packing of a full model": ("sft", "full", {"packing": True, "batch_size": 2}),
    "NEFTune": ("sft", "lora", {"neftune_noise_alpha": 0.1}),
    "frozen layers": ("sft", "lora", {"freeze": "layers.0"}),
    "frozen layers of a full model": ("dpo", "full", {"freeze": ["embed_tokens", "layers.0"]}),
    "the last layer alone": ("dpo", "qlora", {"train": "layers.1"}),
    "frozen layers of a policy": ("ppo", "lora", {"freeze": "layers.0"}),
    "learning rates": ("sft", "lora", {"learning_rates": {"lora_B": 0.005, "layers.0.mlp.up_proj.lora_A": 0.001}}),
    "distillation from stored tokens": (
        "distill",
        "lora",
        {"teacher_top_k": 16, "temperature": 2, "label_weight": 0.2},
    ),
    "distillation on sampled completions": (
        "distill",
        "full",
        {"on_policy_share": 0.5, "max_new_tokens": 8, "beta": 0.5},
    ),
    "LoftQ": ("sft", "qlora", {"peft_args": {"init_lora_weights": "loftq"}}),
}
extras: set[str] = set()


class Killed(Exception):
    """What stands for kill -9 here: nothing of ours handles it."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder with a base, its data and tokens, a reward run and a dpo run, all built in this process."""
    folder = tmp_path_factory.mktemp("matrix")
    torch.set_num_threads(1)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "precision", lambda wanted: "fp32")
        Path("rules.py").write_text(RULE)
        write_base()
        atomic.write_json(Path("preflight.json"), {"licences": {}})
        for shape, name in (
            ("preference", "pairs"),
            ("prompt_completion", "chats"),
            ("text", "texts"),
            ("labelled_text", "labelled"),
        ):
            write_data(name, rows(shape))
        pretrain()
        for judge in ("reward", "dpo"):
            train(judge, "lora", judge, STEPS)
            merge_model.main(options(judge, judge))
        yield folder


def rows(shape: str) -> list[dict]:
    columns = {
        "preference": ("prompt", "chosen", "rejected"),
        "prompt_completion": ("prompt", "completion"),
        "text": ("text",),
        "labelled_text": ("text", "label"),
    }[shape]
    if shape == "labelled_text":  # which of the words it is about
        return [normalise({"text": said, "label": asked.split()[1]}, shape, {}, "row") for asked, said, _ in PAIRS]
    return [normalise(dict(zip(columns, pair, strict=False)), shape, {}, "row") for pair in PAIRS]


def write_base() -> None:
    import make_base

    spec = {"text": {"name": "text"}, "hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 320, "seed": 42}
    write_rows(Path("results/data/text/train.parquet"), rows("prompt_completion"))
    make_base.at_random(spec, Path("results/bases/tiny/model"), "tiny", Path("results/data/text/train.parquet"))
    atomic.write_json(Path("results/bases/tiny/base.json"), {"files": {}})


def pretrain() -> None:
    """Teach the base to speak a little: a model of random weights has no directions along which to learn."""
    train("sft", "full", "start", 60)
    shutil.copy("results/start/trained/model.safetensors", "results/bases/tiny/model/model.safetensors")


def write_data(name: str, data: list[dict]) -> None:
    shape = {"pairs": "preference", "chats": "messages", "texts": "text", "labelled": "labelled_text"}[name]
    encoded, counts = tokenise(loading.tokenizer(Path("results/bases/tiny/model")), data, shape, 128)
    tables = {f"results/data/{name}": data, f"results/tokens/tiny/{name},max_length=128": encoded}
    for place, part in tables.items():
        for name in ("report.json", "data.json"):
            classes = {"train": {"classes": counts["classes"]}} if "classes" in counts else {}
            atomic.write_json(Path(place) / name, {"shape": shape} | classes)
        schema = tokenize_data.schema(shape) if "tokens" in place else row_schemas.schema(shape)
        for split in ("train", "validation"):
            pq.write_table(pa.Table.from_pylist(part, schema=schema), f"{place}/{split}.parquet")


def settings(objective: str, method: str, steps: int) -> dict:
    """The run's table in the configuration."""
    own = {"objective": "ppo" if objective == "rto" else objective, "method": method, "from": "tiny"}
    shared = {
        "learning_rate": RATE.get(method, 0.01),
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
        "max_length": 128,
    }
    table = own | shared | {"batch_size": 8, "epochs": steps, "data": "pairs"}
    table |= {"data": DATA.get(objective, "pairs")}
    if objective == "pretrain":
        table |= {"batch_size": 2}  # of packed rows
    if objective == "distill":
        table |= {"teacher": "dpo"}
    if method in ("lora", "qlora", "adalora", "vera"):
        table |= {"rank": 8}
    if method in ("lora", "qlora", "adalora") and objective in ("sft", "pretrain"):
        table |= {"dropout": 0}
    if method in ("prefix", "p_tuning", "prompt"):
        table |= {"num_virtual_tokens": 4}
    if objective == "kto":
        table |= {"batch_size": 16}
    if objective in ON_POLICY:
        del table["epochs"]
        table |= {
            "batch_size": 64,
            "max_new_tokens": 8,
            "max_steps": steps,
            "reward": {"function": "rules.py:small"},
        }
    if objective in ON_POLICY and method == "prompt":
        table |= {"batch_size": 128, "learning_rate": 0.03}
    if objective in ("ppo", "rto"):
        table |= {"ppo_epochs": 2, "kl_coef": 0, "missing_eos_penalty": 0}
    if objective == "rto":
        table |= {"reward": {"from": "dpo", "kind": "implicit", "sequence": "reward"}}
    return table


def configuration(objective: str, method: str, steps: int, keys: dict) -> dict:
    tables = {judge: settings(judge, "lora", STEPS) for judge in ("reward", "dpo")}
    return {
        "bases": {"tiny": {"source": "path", "path": "results/bases/tiny/model"}},
        "datasets": {"pairs": {"path": "pairs.jsonl", "format": "preference"}, "chats": {"path": "chats.jsonl"}}
        | {"texts": {"path": "texts.jsonl", "format": "text"}}
        | {"labelled": {"path": "labelled.jsonl", "format": "labelled_text"}},
        "runs": tables | {f"{objective}_{method}": settings(objective, method, steps) | keys},
    }


def options(objective: str, name: str) -> Namespace:
    data = DATA.get(objective, "pairs")
    base, tokens = Path("results/bases/tiny"), Path(f"results/tokens/tiny/{data},max_length=128")
    return Namespace(
        spec=Path(f"results/{name}/spec.json"),
        parent=base / "model",
        shipped=base / "model",
        manifest=base / "base.json",
        preflight=Path("preflight.json"),
        tokens=tokens,
        data=Path(f"results/data/{data}"),
        logprobs=Path("logprobs.parquet"),
        teacher=Path("results/dpo/merged"),
        teacher_manifest=Path("results/dpo/merge.json"),
        topk="",
        reward_models=[Path(f"results/{name}") for name in ("reward", "dpo", "bases/tiny")],
    )


def train(objective: str, method: str, name: str, steps: int, keys: dict | None = None) -> list[dict]:
    """Train a run by its script; returns its steps."""
    values = configuration(objective, method, steps, keys or {})
    values["runs"][name] = values["runs"].pop(f"{objective}_{method}")
    spec = Path(f"results/{name}/spec.json")
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(Project(values).spec(name))
    given = options(objective, name)
    if objective == "dpo":
        reference(method)
    if "teacher_top_k" in (keys or {}):
        given.topk = stored(given, Path(Project(values).topk(name)))
    SCRIPTS[objective].main(given)
    return [json.loads(line) for line in (spec.parent / "train.jsonl").read_text().splitlines()]


def reference(method: str) -> None:
    import compute_logprobs

    output = Path("logprobs,nf4.parquet" if method == "qlora" else "logprobs.parquet")
    given = options("dpo", "dpo")
    if not output.exists():
        compute_logprobs.main(Namespace(model=given.parent, tokens=given.tokens, output=output))
    shutil.copy(output, "logprobs.parquet") if method == "qlora" else None


def stored(given: Namespace, output: Path) -> Path:
    import compute_topk

    if not output.exists():
        compute_topk.main(Namespace(model=given.teacher, tokens=given.tokens, output=output))
    return output


def weights(name: str) -> dict[str, str]:
    return hashes.folder_hashes(Path(f"results/{name}/trained"))


CELLS = [
    pytest.param(objective, method, id=f"{objective}-{method}", marks=[pytest.mark.slow] if is_slow else [])
    for objective in SCRIPTS
    for method in METHODS
    # Sampling takes most of a cell's time, and what another method changes in it is small. CPO's trainer is a twin of ORPO's,
    # and those of pretrain and distill are twins of SFT's.
    for is_slow in [objective in (*ON_POLICY, *TWINS) and method not in ("full", "lora", "qlora", "prefix")]
]


@pytest.mark.parametrize(("objective", "method"), CELLS)
def test_a_cell(objective, method, project, monkeypatch, signals):
    name = f"{objective}_{method}"
    monkeypatch.chdir(project)
    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")
    try:
        steps = train(objective, method, name, STEPS)
    except UserError as error:
        assert error.place.startswith(f"runs.{name}"), error  # refused by the configuration, before anything is built
        found[objective, method] = f"{error.problem}; {error.hint}"
        return
    assert learns(objective, method, steps)
    ends_in_the_same_bits(objective, method, name)
    found[objective, method] = None


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if EXTRAS[case][0] in ON_POLICY else []) for case in EXTRAS]
)
def test_a_cell_of_its_own(case, project, monkeypatch, signals):
    objective, method, keys = EXTRAS[case]
    name = re.sub(r"\W+", "_", case.lower())
    monkeypatch.chdir(project)
    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")
    assert learns(objective, method, train(objective, method, name, STEPS, keys))
    ends_in_the_same_bits(objective, method, name, keys)
    extras.add(case)


def ends_in_the_same_bits(objective: str, method: str, name: str, keys: dict | None = None) -> None:
    """Kill a training at its third step, go on, and compare with the one that was not killed."""
    straight = weights(name)
    for folder in ("checkpoints", "trained"):
        shutil.rmtree(f"results/{name}/{folder}")
    with pytest.MonkeyPatch.context() as own:
        own.setattr(results, "take_over", lambda folder: False)  # a reward model of other cells has the same spec
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(callbacks.SaveCheckpoints, "on_step_end", save_at_step_3)
            patch.setattr(callbacks.SaveCheckpoints, "on_save", die)
            with pytest.raises(Killed):
                train(objective, method, name, STEPS, keys)
        train(objective, method, name, STEPS, keys)
    assert json.loads(Path(f"results/{name}/train.json").read_text())["resumed_from"] == "checkpoint-3"
    assert weights(name) == straight


def learns(objective: str, method: str, steps: list[dict]) -> bool:
    """Whether the reward rises, or the loss falls; of PPO with few parameters, from a rollout's first to its second pass."""
    if objective in ("ppo", "rto") and method in ("p_tuning", "prompt", "ia3"):
        losses = [step["policy_loss"] for step in steps]
        return sum(losses[1::2]) < sum(losses[::2])
    rises = [step["reward"] for step in steps if "reward" in step]  # of a rollout, in its first step
    rises = rises if objective in ON_POLICY else [-step["loss"] for step in steps]
    some = min(2, len(rises) // 2)
    return sum(rises[-some:]) > sum(rises[:some])


def save_at_step_3(self, args, state, control, **_):
    control.should_save = state.global_step == 3


def die(self, args, state, *_, **__):
    checkpoints.seal(self.folder / f"checkpoint-{state.global_step}")
    raise Killed


TITLES = {"ppo": "ppo (RLHF, or a rule)", "rto": "ppo with an implicit reward (RTO)"}


def page() -> str:
    """The table of all cells, and the sentences of the refused ones."""
    reasons = list(dict.fromkeys(reason for reason in found.values() if reason))
    lines = [
        "# Objectives by methods",
        "",
        "Generated by `tests/matrix/test_matrix.py`, which runs every combination through the real scripts with a tiny random",
        "model. **yes**: the loss decreases (or the reward increases), and a training that is killed half-way and resumed gives",
        "bit-identical results. A number: refused when the configuration is read, with the message below. Mixed preference",
        "optimisation is dpo followed by ppo, with a dataset that `select` splits.",
        "",
        "| | " + " | ".join(METHODS) + " |",
        "|---" * (len(METHODS) + 1) + "|",
    ]
    for objective in SCRIPTS:
        cells = [found[objective, method] for method in METHODS]
        marks = [str(reasons.index(reason) + 1) if reason else "yes" for reason in cells]
        lines.append(f"| {TITLES.get(objective, objective)} | " + " | ".join(marks) + " |")
    lines += ["", *(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))]
    lines += ["", "The same holds for these configurations:", ""]
    lines += [f"- {case}: {_keys(*EXTRAS[case])}" for case in EXTRAS]
    return "\n".join(lines) + "\n"


def _keys(objective: str, method: str, keys: dict) -> str:
    """A run's keys as YAML, without those that only make this test small."""
    own = {key: value for key, value in keys.items() if key not in ("max_new_tokens", "batch_size")}
    table = {"objective": objective, "method": method} | own
    return f"`{yaml.safe_dump(table, default_flow_style=True, sort_keys=False, width=200).strip()}`"


def test_the_page_says_what_was_found():
    if len(found) < len(SCRIPTS) * len(METHODS) or len(extras) < len(EXTRAS):
        pytest.skip("not every cell was run")
    _, *others = PAGE.read_text().partition("\n## Families by stages")  # test_zoo.py's
    if "POSTTRAIN_WRITE_MATRIX" in os.environ:
        PAGE.write_text(page() + "".join(others))
    assert PAGE.read_text() == page() + "".join(others)
