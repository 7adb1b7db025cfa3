"""Training by two processes on the CPU: the numbers of one process, the same rows in each step, and what ends one of them."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import several
from conftest import REPOSITORY, snakemake

from posttrain.runtime import processes

pytestmark = pytest.mark.processes

# Two processes add up other parts than one: losses and weights differ by rounding.
TOLERANCE = {"rel": 1e-4, "abs": 1e-4}
SEED = 7  # of the runs that others are compared with


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with tokens, and runs with the results of one process and of two."""
    import tiny_bases

    folder = tmp_path_factory.mktemp("several")
    tiny_bases.save(folder / "tiny", tiny_bases.chatml(), tie_word_embeddings=True)
    return several.make(folder, folder / "tiny")


@pytest.fixture(scope="module")
def reference(project):
    """What runs of the SFT give that nothing interrupts, by the number of processes: lines and weights."""
    found = {}

    def trained(count: int) -> tuple[list[dict], dict]:
        if count not in found:
            run = several.spec(project, f"peace{count}", "sft", epochs=8, seed=SEED)
            found[count] = several.train(project, run.name, count), several.weights(run)
            shutil.rmtree(run / "checkpoints")  # or another run would take its result
        return found[count]

    return trained


def same(ours: list[dict], theirs: list[dict]) -> None:
    """Assert that two trainings gave the same numbers but for rounding."""
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, **TOLERANCE)


def equal(ours: dict, theirs: dict) -> bool:
    """Whether two folders of weights have the same bits."""
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


# ---- the same training


def test_two_processes_train_as_one_does(project, reference):
    (ours, weights), (theirs, others) = reference(2), reference(1)
    same(ours, theirs)
    assert max((weights[name] - others[name]).abs().max() for name in weights) < 1e-3
    summary = json.loads((project / "results/peace2/train.json").read_text())
    assert (summary["processes"], summary["strategy"], summary["micro_batch"]) == (2, "ddp", 2)


CASES = [
    *(
        ("sft", method, {})
        for method in ("full", "qlora", "adalora", "adapter", "prefix", "p_tuning", "prompt", "ia3", "oft")
    ),
    ("sft", "vera", {"rank": 8}),
    ("sft", "lora", {"gradient_checkpointing": True}),
    ("sft", "full", {"packing": True, "max_length": 64}),
    ("sft", "lora", {"batch_size": 8, "gradient_accumulation_steps": 4}),
    *((objective, method, {}) for objective in ("dpo", "kto", "orpo", "cpo", "reward") for method in ("lora", "full")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "method", "keys"), CASES)
def test_every_objective_and_method(project, objective, method, keys):
    found = {}
    for count in (1, 2):
        run = several.spec(project, "one_of_many", objective, method, **keys)
        found[count] = several.train(project, run.name, count), several.weights(run)
        shutil.rmtree(run)
    (ours, weights), (theirs, others) = found[2], found[1]
    same(ours, theirs)
    if method != "adalora":  # Adam moves some of its weights by gradients that are nothing but rounding
        assert max((weights[name].float() - others[name].float()).abs().max() for name in weights) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "dpo", "kto", "reward"])
def test_held_out_rows_are_measured_as_by_one_process(project, objective):
    found, kept = {}, set()
    for count in (1, 2):
        run = several.spec(project, "measured", objective, keep="best", measure_every=1, max_steps=3, epochs=...)
        found[count] = several.train(project, run.name, count)
        kept.add(json.loads((run / "train.json").read_text())["held_out"]["kept_step"])
        shutil.rmtree(run)
    same(found[2], found[1])
    assert sum("eval_loss" in line for line in found[2]) == 3
    assert len(kept) == 1


# ---- the rows of a step


def recorded(project: Path, run: str, processes: int, folder: Path, **environment: str) -> list[list[tuple[int, list]]]:
    """Train by tests/recording_stage.py; for each process the number of each step and the rows that it trained."""
    words = several.command(project, run)
    words[1] = str(REPOSITORY / "tests/recording_stage.py")
    words = [
        str(project / word) if (project / word).exists() or word.startswith("results/") else word for word in words
    ]
    done = subprocess.run(
        words, cwd=folder, env=several.settings(processes) | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = [folder / f"rows-{rank}.jsonl" for rank in range(processes)]
    return [[tuple(json.loads(line)) for line in file.read_text().splitlines()] for file in files]


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", [{}, {"batch_size": 8}, {"batch_size": 10}, {"batch_size": 4, "gradient_accumulation_steps": 4}]
)
def test_each_row_is_trained_in_its_step_by_one_process(project, tmp_path, keys):
    steps = {}
    for count in (1, 2):
        run = several.spec(project, "recorded", "sft", **keys)
        (tmp_path / str(count)).mkdir()
        found = recorded(project, run.name, count, tmp_path / str(count))
        shutil.rmtree(run)
        assert len({len(one) for one in found}) == 1  # as many backward passes in each
        together = {}
        for step, rows in (line for one in found for line in one):
            together.setdefault(step, []).extend(rows)
        steps[count] = {step: sorted(rows) for step, rows in together.items()}
    assert steps[1] == steps[2]


# ---- what is refused


@pytest.mark.slow
@pytest.mark.skipif(processes.most() >= 8, reason="this machine can run 8 processes")
def test_more_processes_than_devices_are_refused_before_a_stage_starts(folder):
    count = 8  # which divides every batch_size
    done = snakemake(folder, "results/data/gsm8k/data.json", "--config", f"hardware={{processes: {count}}}")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith(f"posttrain: hardware.processes: {count} processes need {count} ")
    assert not (folder / "results/data").exists()


@pytest.mark.slow
def test_a_launcher_that_started_one_process_is_found_out(project):
    run = several.spec(project, "silent", "sft")
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    ranks |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(processes.free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    given = {"cwd": project, "env": several.settings(2) | ranks, "capture_output": True, "text": True}
    done = subprocess.run(several.command(project, run.name), **given)
    assert done.returncode == 1
    assert "posttrain: silent: 2 processes were asked for, and 1 train together" in done.stderr


# ---- what ends a process


def begin(project: Path, run: str, processes: int, **hardware: str) -> subprocess.Popen:
    """Start a stage that saves a checkpoint after each step."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    environment = several.settings(processes, 0, **hardware)
    return subprocess.Popen(several.command(project, run), cwd=project, env=environment, process_group=0, **streams)


def reach(project: Path, run: str, step: int, job: subprocess.Popen) -> list[int]:
    """Wait until a stage has taken a step and has a checkpoint; returns the process ids of the launcher and of its ranks."""
    began = time.time()
    while not is_at(project / f"results/{run}/checkpoints", step, began):
        assert job.poll() is None
        time.sleep(0.01)
    launcher = int((project / f"results/logs/{run}.log.lock").read_text().split()[1])
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [launcher, *map(int, children)]


def is_at(folder: Path, step: int, began: float) -> bool:
    files = [file for file in folder.glob("*/train.jsonl") if file.stat().st_mtime > began]
    lines = [line for file in files for line in file.read_text().splitlines()]
    return len(lines) >= step and any(folder.glob("*/checkpoint-*/SHA256SUMS"))


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 100
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.02)
    return False


def test_after_kill_9_of_a_rank_none_is_left_and_the_same_command_ends_with_the_same_bits(project, reference):
    run = several.spec(project, "killed", "sft", epochs=8, seed=SEED)
    job = begin(project, run.name, 2)
    pids = reach(project, run.name, 3, job)
    os.kill(pids[2], signal.SIGKILL)
    assert job.wait(100) == -signal.SIGKILL
    assert gone(pids)
    lines = several.train(project, run.name, 2)
    summary = json.loads((run / "train.json").read_text())
    assert summary["resumed_from"]
    assert lines == reference(2)[0]
    assert equal(several.weights(run), reference(2)[1])
    shutil.rmtree(run)


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1, 2], ids=["launcher", "first", "second"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_whatever_ends_whichever_process_the_same_command_goes_on(project, reference, who, number):
    if number != signal.SIGKILL and who:
        pytest.skip("signals go to the launcher")
    run = several.spec(project, "ended", "sft", epochs=8, seed=SEED)
    job = begin(project, run.name, 2)
    pids = reach(project, run.name, 2, job)
    os.kill(pids[who], number)
    status = job.wait(300)
    assert gone(pids)
    if number != signal.SIGKILL:
        assert status == 128 + number
        assert not list(run.glob("checkpoints/*/checkpoint-*[!0-9]*"))
    lines = several.train(project, run.name, 2)
    assert lines == reference(2)[0]
    assert equal(several.weights(run), reference(2)[1])
    shutil.rmtree(run)


@pytest.mark.slow
def test_from_two_processes_to_one_and_back_the_training_is_the_same(project, reference):
    run = several.spec(project, "changing", "sft", epochs=8, seed=SEED)
    for count, step in ((2, 2), (1, 4), (2, 6)):
        job = begin(project, run.name, count)
        pids = reach(project, run.name, step, job)
        os.kill(pids[-1] if count == 2 else job.pid, signal.SIGKILL)
        job.wait(100)
    lines = several.train(project, run.name, 1)
    same(lines, reference(1)[0])
    weights, others = several.weights(run), reference(1)[1]
    assert max((weights[name] - others[name]).abs().max() for name in weights) < 1e-3
    shutil.rmtree(run)


@pytest.mark.slow
def test_out_of_memory_in_one_rank_all_go_on_with_fewer_rows_at_once(project, tmp_path, reference):
    run = several.spec(project, "memory", "sft", seed=SEED)
    found = recorded(project, run.name, 2, tmp_path, FAIL="out-of-memory")
    summary = json.loads((run / "train.json").read_text())
    assert [attempt["micro_batch"] for attempt in summary["attempts"]] == [2]
    assert (summary["micro_batch"], summary["accumulation"]) == (1, 2)
    assert all(len(rows) == 1 for one in found for step, rows in one[1:] if step < 2)
    shutil.rmtree(run)


@pytest.mark.slow
def test_a_number_that_is_not_finite_is_one_sentence(project, tmp_path):
    run = several.spec(project, "wrong", "sft", seed=SEED)
    with pytest.raises(AssertionError) as told:
        recorded(project, run.name, 2, tmp_path, FAIL="not-finite")
    sentences = [line for line in str(told.value).splitlines() if line.strip().startswith("posttrain: ")]
    assert len(sentences) == 1
    assert "at step 1 on the rows" in sentences[0]
    shutil.rmtree(run)
