"""What `snakemake` shows with our logger plugin: in a pipe, at a terminal, in a dry run, after Ctrl-C, as JSON."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment

SNAKEFILE = """
rule all:
    input: "results/good", "results/bad"

rule sft:
    output: "results/{run}"
    log: "results/logs/{run}.log"
    shell: "{PYTHON} stage.py --run {wildcards.run} --log {log}"
"""
STAGE = """
import sys, time
from pathlib import Path
sys.path.insert(0, "SCRIPTS")
from posttrain.runtime import console, script
from posttrain.runtime.errors import UserError

def main(options):
    if options.run == "bad":
        raise UserError("invalid-row", "", "every row is empty", "write others")
    if options.run == "crash":
        raise ZeroDivisionError
    console.say(f"{options.run}: held_out: WARNING: few rows")
    for step in range(1, 4):
        console.progress(f"{options.run}: step {step}/3", step, 3)
        time.sleep(60 if options.run == "slow" else 0.4)
    Path("results", options.run).write_text("")

script.run(script.arguments("A stage.", run=str), main)
"""


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE.replace("{PYTHON}", sys.executable))
    (tmp_path / "stage.py").write_text(STAGE.replace("SCRIPTS", str(REPOSITORY / "scripts")))
    (tmp_path / "profiles/default").mkdir(parents=True)
    (tmp_path / "profiles/default/config.yaml").write_text((REPOSITORY / "profiles/default/config.yaml").read_text())
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("snakemake")), "--cores", "1", *arguments]


def snakemake(folder: Path, *arguments: str) -> tuple[int, list[str], str]:
    """Exit status, the lines of standard error without Snakemake's on its profile, and standard output."""
    done = subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, env=environment())
    return done.returncode, without_times(done.stderr)[1:], done.stdout


def without_times(text: str) -> list[str]:
    return re.sub(r"\b\d+:\d\d\b", "0:00", text).splitlines()


def at_a_terminal(folder: Path, *arguments: str) -> str:
    """All that a command writes to a terminal of 80 columns."""
    ours, its = pty.openpty()
    text = b""
    env = environment() | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(command(*arguments), cwd=folder, stdin=its, stdout=its, stderr=its, env=env)
    os.close(its)
    while True:
        try:
            text += os.read(ours, 4096)
        except OSError:  # the last one who could write has ended
            break
    os.close(ours)
    process.wait()
    return text.decode()


def test_in_a_pipe_stages_are_plain_lines_and_a_mistake_comes_last(project):
    status, lines, _ = snakemake(project, "--keep-going")
    assert status == 1
    assert sorted(lines[:5]) == [
        "good: held_out: WARNING: few rows",
        "sft bad: failed after 0:00",
        "sft bad: started",
        "sft good: done after 0:00: step 3/3",
        "sft good: started",
    ]
    assert lines[5:] == [
        "1 stage done, 1 failed in 0:00.",
        "sft bad failed; its log is results/logs/bad.log",
        "posttrain: every row is empty; write others",
    ]


def test_at_a_terminal_progress_is_drawn_and_taken_away_again(project):
    shown = at_a_terminal(project, "results/good")
    assert "running" in shown and "step 1/3" in shown and "0 of 1 stage done" in shown
    lines = without_times(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown))
    assert lines[-1] == "1 stage done in 0:00."
    assert any(line.endswith("done    sft good                            0:00  step 3/3") for line in lines)


def test_a_crash_shows_the_end_of_its_log(project):
    status, lines, _ = snakemake(project, "results/crash")
    assert status == 1 and lines[:3] == [
        "sft crash: started", "sft crash: failed after 0:00", "The end of results/logs/crash.log:",
    ]  # fmt: skip
    assert lines[-3:] == [
        "    ZeroDivisionError", "0 stages done, 1 failed in 0:00.", "sft crash failed; its log is results/logs/crash.log",
    ]  # fmt: skip


def test_a_dry_run_is_one_line_a_stage(project):
    status, _, shown = snakemake(project, "--dry-run")
    assert status == 0 and sorted(shown.splitlines()) == [
        "2 stages would run (3 jobs in all).", "sft bad   not built yet", "sft good  not built yet",
    ]  # fmt: skip
    assert snakemake(project, "--dry-run", "--quiet")[2] == "2 stages would run (3 jobs in all).\n"


def test_a_program_reads_events(project):
    status, _, shown = snakemake(
        project, "--logger", "posttrain", "--logger-posttrain-json", "-n", "--", "results/good"
    )
    (job,) = [event for line in shown.splitlines() if (event := json.loads(line))["event"] == "job_info"]
    assert status == 0 and (job["rule_name"], job["output"], job["log"], job["wildcards"]) == (
        "sft", ["results/good"], ["results/logs/good.log"], {"run": "good"},
    )  # fmt: skip
    assert job["reason"] == "Missing output files: results/good" and job["shellcmd"].endswith(
        "--log results/logs/good.log"
    )


def test_after_ctrl_c_the_last_line_says_that_the_same_command_goes_on(project):
    line = command("results/slow")
    process = subprocess.Popen(
        line, cwd=project, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    reader.start()
    end = time.monotonic() + 60
    while not any("WARNING" in line for line in lines):  # the stage is at work
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 1
    reader.join()
    shown = without_times("".join(lines))
    assert shown[-2:] == ["0 stages done in 0:00.", "Stopped. The same command goes on from where it was."]
    assert any(line.startswith("sft slow: stopped") for line in shown)
    assert not any("Traceback" in line or "{" in line for line in shown)


@pytest.mark.parametrize("option", [("--verbose",), ("--workflow-profile", "none")], ids=" ".join)
def test_snakemakes_own_output_can_be_had(project, option):
    done = subprocess.run(
        command(*option, "results/good"), cwd=project, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0 and "rule sft:" in done.stderr and "good: held_out: WARNING: few rows" in done.stderr
