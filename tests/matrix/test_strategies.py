"""Objective by method by strategy on two processes (gloo), through the real scripts: as one process trains, or refused.

`POSTTRAIN_WRITE_MATRIX=1 pytest tests/matrix/test_strategies.py` writes the table in docs/processes.md. All cells are trained by one
pair of processes, since an import of torch takes longer than a cell.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import test_matrix as matrix
import torch
from conftest import REPOSITORY
from safetensors.torch import load_file

from posttrain.models import loading
from posttrain.runtime import atomic
from posttrain.training import strategies

PAGE = REPOSITORY / "docs/processes.md"
OBJECTIVES = ("sft", "dpo", "reward")
METHODS = ("full", "lora", "qlora")
SHARED = ("ddp", "fsdp", "zero1", "zero2", "zero3")
LOSS, WEIGHTS = 1e-5, 1e-4  # the largest differences seen: 3e-7 and 2e-5
# The strategy that writes a checkpoint at the third step of six, and the one that goes on from it.
RESUMED = [
    ("fsdp", "fsdp"),
    ("zero2", "zero2"),
    ("zero3", "zero3"),
    ("fsdp", "zero2"),
    ("zero3", "ddp"),
    ("ddp", "fsdp"),
]
CELLS = [(objective, method, strategy) for objective in OBJECTIVES for method in METHODS for strategy in SHARED]
OF_METHODS = [("sft", method, "fsdp") for method in ("adapter", "ia3", "oft", "vera")]
slow = [pytest.mark.matrix, pytest.mark.processes, pytest.mark.slow]


def optimiser(method: str) -> dict:
    """One process, too, has its states in 32 bits."""
    return {"trainer_args": {"optim": "adamw_torch"}} if method == "qlora" else {}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose every cell is trained by one process."""
    folder = tmp_path_factory.mktemp("strategies")
    torch.set_num_threads(1)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "precision", lambda wanted: "fp32")
        matrix.write_base()
        atomic.write_json(Path("preflight.json"), {"licences": {}})
        for shape, name in (("preference", "pairs"), ("prompt_completion", "chats")):
            matrix.write_data(name, matrix.rows(shape))
        matrix.pretrain()
        for objective, method in dict.fromkeys(cell[:2] for cell in [*CELLS, *OF_METHODS]):
            Path("logprobs.parquet").unlink(missing_ok=True)
            name = f"{objective}_{method}"
            matrix.train(objective, method, name, matrix.STEPS, optimiser(method))
            shutil.copytree(f"results/{name}", f"results/{name}_single")
            if objective == "dpo":
                shutil.copy("logprobs.parquet", f"logprobs_{method}.parquet")
        yield folder


@pytest.fixture(scope="module")
def found(project):
    """What two processes found of each cell."""
    cells = [f"{objective}:{method}:{strategy}:train" for objective, method, strategy in [*CELLS, *OF_METHODS]]
    for first, then in RESUMED:
        cells += [f"sft:lora:{first}:kill", f"sft:lora:{then}:resume"]
    cells += ["sft:full:fsdp:kill", "sft:full:zero3:resume", "sft:lora:fsdp:unpatched"]
    lines: list[dict] = []
    while rest := cells[len(lines) :]:
        pair(project, rest)
        before, lines = (
            len(lines),
            [json.loads(line) for line in (project / "strategies.jsonl").read_text().splitlines()],
        )
        assert len(lines) > before, "the pair of processes trained nothing"
    return list(zip(cells, lines, strict=True))


def pair(folder: Path, cells: list[str]) -> None:
    """Train cells by two processes, until one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [REPOSITORY / "scripts", REPOSITORY / "tests", REPOSITORY / "tests/matrix"]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, REPOSITORY / "tests/strategy_worker.py", folder, *cells]
    running = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": ":".join(map(str, paths))}
        with (folder / f"rank{rank}.log").open("a") as log:
            running.append(subprocess.Popen(command, env=os.environ | shared | own, stdout=log, stderr=log))
    if running[0].wait():
        running[1].kill()
    running[1].wait()


def cell(found: list, name: str) -> dict:
    line = next(line for other, line in found if other == name)
    assert "error" not in line, line["error"]
    return line


def largest_difference(one: Path, other: Path) -> float:
    """Of two folders of weights with the same files, names, shapes and types."""
    worst = 0.0
    files = [sorted(file.name for file in folder.glob("*.safetensors")) for folder in (one, other)]
    assert files[0] == files[1]
    for file in files[0]:
        left, right = load_file(one / file), load_file(other / file)
        kinds = [{name: (t.shape, t.dtype) for name, t in part.items()} for part in (left, right)]
        assert kinds[0] == kinds[1]
        worst = max(worst, *((left[name] - right[name]).abs().max().item() for name in left))
    return worst


def is_as_one_process(project: Path, line: dict, name: str) -> None:
    """Losses and weights are those of one process."""
    alone = project / f"results/{name}_single"
    losses = [json.loads(step)["loss"] for step in (alone / "train.jsonl").read_text().splitlines()]
    assert line["losses"] == pytest.approx(losses, abs=LOSS)
    assert largest_difference(project / line["trained"], alone / "trained") < WEIGHTS


def param(*values: str):
    return pytest.param(*values, id="-".join(values), marks=slow)


@pytest.mark.parametrize(("objective", "method", "strategy"), [param(*values) for values in [*CELLS, *OF_METHODS]])
def test_two_processes_train_as_one(objective, method, strategy, project, found):
    line = cell(found, f"{objective}:{method}:{strategy}:train")
    is_as_one_process(project, line, f"{objective}_{method}")


@pytest.mark.parametrize(("first", "then"), [param(*values) for values in RESUMED])
def test_a_training_goes_on_with_any_strategy(first, then, project, found):
    i = next(
        i
        for i, (name, _) in enumerate(found)
        if name == f"sft:lora:{first}:kill" and found[i + 1][0] == f"sft:lora:{then}:resume"
    )
    line = found[i + 1][1]
    assert line["resumed_from"] == "checkpoint-3"
    is_as_one_process(project, line, "sft_lora")


@pytest.mark.parametrize("strategy", [param("fsdp"), param("zero2"), param("zero3")])
def test_a_resumed_training_ends_in_the_same_bits(strategy, project, found):
    straight = project / cell(found, f"sft:lora:{strategy}:train")["trained"]
    resumed = project / f"results/sft_lora_{strategy}_resume"
    assert largest_difference(straight, resumed) == 0


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.processes
def test_all_weights_go_on_with_another_strategy(project, found):
    line = cell(found, "sft:full:zero3:resume")
    assert line["resumed_from"] == "checkpoint-3"
    is_as_one_process(project, line, "sft_full")


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.processes
def test_fsdp_that_is_plain_ddp_is_refused(found):
    """accelerate takes FSDP on a CPU only with a patch, and says nothing without; this fails when it needs the patch no more."""
    assert "the strategy fsdp was asked for" in cell(found, "sft:lora:fsdp:unpatched")["refused"]


# ---- the table in the documentation


def table(words: dict[tuple[str, str, str], str]) -> str:
    lines = ["| | " + " | ".join(SHARED) + " |", "|---" * (len(SHARED) + 1) + "|"]
    for objective in OBJECTIVES:
        for method in METHODS:
            cells = [words[objective, method, strategy] for strategy in SHARED]
            lines.append(f"| {objective}, {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written() -> str:
    return re.search(r"<!-- strategies -->\n(.*?)\n<!-- end -->", PAGE.read_text(), re.DOTALL)[1]


def refused(method: str, strategy: str) -> str | None:
    keys = {"objective": "sft", "method": method, "batch_size": 8}
    return strategies.refusal(strategy, 2, keys)


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.processes
def test_the_page_says_what_was_found(found):
    words = {}
    for name, line in found:
        objective, method, strategy, mode = name.split(":")
        if mode == "train":
            words[objective, method, strategy] = "yes" if "losses" in line else "no"
    if "POSTTRAIN_WRITE_MATRIX" in os.environ:
        PAGE.write_text(PAGE.read_text().replace(written(), table(words)))
    assert written() == table(words)


def test_the_page_has_every_cell_and_every_refusal():
    rows = written().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [f"{o}, {m}" for o in OBJECTIVES for m in METHODS]
    assert all(row.count("|") == len(SHARED) + 2 for row in rows)
    for method in matrix.METHODS:
        for strategy in SHARED:
            if why := refused(method, strategy):
                assert f"`{method}`" in PAGE.read_text(), why
