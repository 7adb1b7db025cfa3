"""What a command shows, from Snakemake's records and the stages' own events."""

import io
import logging
import threading
from types import SimpleNamespace

import pytest
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from posttrain.runtime import events
from snakemake_logger_plugin_posttrain.board import INTERRUPTED, Board
from snakemake_logger_plugin_posttrain.messages import Messages
from snakemake_logger_plugin_posttrain.plain import Plain

LOG = "results/logs/sft/{run}.log"


class Command:
    """A Snakemake command of which nothing runs; its records are those of Snakemake 9.27, shortened."""

    def __init__(self, *quiet: Quietness, commands: bool = False) -> None:
        self.stream = io.StringIO()
        settings = SimpleNamespace(quiet={Quietness.HOST, *quiet}, printshellcmds=commands)
        self.board = Board(Plain(self.stream), settings, Messages(threading.RLock()))
        self.now = 0.0

    def record(self, event: LogEvent | None, message: str = "", level: int = logging.INFO, **fields) -> None:
        record = logging.LogRecord("snakemake.logging", level, "", 0, message, None, None)
        record.__dict__ |= {"event": event} | fields if event else fields
        record.created = self.now
        self.board.emit(record)

    def start(self, job: int, run: str, rule: str = "sft") -> None:
        key = "target" if rule == "spec" else "run"
        self.record(
            LogEvent.JOB_INFO, jobid=job, rule_name=rule, wildcards={key: run}, log=[LOG.format(run=run)], reason=""
        )

    def send(self, run: str, kind: str, text: str, **more) -> None:
        events.set_job(LOG.format(run=run))
        assert events.send(kind=kind, text=text, **more)

    def fail(self, job: int) -> None:
        text = "RuleException:\nCalledProcessError in file x, line 1:\nCommand '...' returned non-zero exit status 1."
        self.record(LogEvent.ERROR, text, logging.ERROR, exception="RuleException")
        self.record(LogEvent.JOB_ERROR, "Error in rule sft", logging.ERROR, jobid=job)

    def end(self) -> list[str]:
        self.board.close()
        return self.stream.getvalue().splitlines()


@pytest.fixture
def command(in_folder, monkeypatch):
    monkeypatch.delenv(events.VARIABLE, raising=False)
    yield Command
    events.set_job(None)


def test_a_stage_is_a_line_when_it_starts_and_one_when_it_ends(command):
    one = command()
    one.record(LogEvent.WORKFLOW_STARTED, "Workflow has started!")
    one.record(None, "Building DAG of jobs...")
    one.record(LogEvent.RUN_INFO, "Job stats: ...", stats={"spec": 1, "sft": 1, "total": 2})
    one.start(0, "sft_lora", "spec")
    one.record(LogEvent.JOB_FINISHED, job_id=0)
    one.start(1, "sft_lora")
    one.send("sft_lora", "detail", "sft_lora: reads its rows")
    one.send("sft_lora", "progress", "sft_lora: step 2/4  loss 1.50", left=75, last=False)
    one.send("sft_lora", "progress", "sft_lora: step 4/4  loss 1.25", left=None, last=True)
    one.now = 72
    one.record(LogEvent.JOB_FINISHED, job_id=1)
    assert one.end() == [
        "sft sft_lora: started",
        "sft sft_lora: done after 1:12: step 4/4  loss 1.25",
        "1 stage done in 1:12.",
    ]


def test_a_running_stage_has_its_progress_and_the_time_left(command):
    one = command()
    shown = []
    one.board.view.show = lambda stages, footer: shown.append(([stage.progress for stage in stages], footer))
    one.record(LogEvent.RUN_INFO, stats={"sft": 3, "total": 3})
    one.start(1, "sft_lora")
    one.send("sft_lora", "progress", "sft_lora: step 2/4  loss 1.50", left=75, last=False)
    one.board.messages.read()
    assert shown[-1] == (["step 2/4  loss 1.50  1:15 left"], "0 of 3 stages done")
    one.end()


def test_a_warning_that_another_run_repeats_is_shown_once_and_another_note_each_time(command):
    one = command()
    for job, run in enumerate(("a", "b")):
        one.start(job, run)
        one.send(run, "note", f"{run}: held_out: WARNING: 8 rows are too few")
        one.send(run, "note", f"{run}: goes on from checkpoint-3")
        one.record(LogEvent.JOB_FINISHED, job_id=job)
    notes = [line for line in one.end() if "sft" not in line]
    assert notes[:-1] == [
        "a: held_out: WARNING: 8 rows are too few", "a: goes on from checkpoint-3", "b: goes on from checkpoint-3",
    ]  # fmt: skip


def test_a_mistake_is_one_sentence_and_comes_last(command):
    one = command()
    for job, run in enumerate(("a", "b")):
        one.start(job, run)
        one.send(run, "error", "dataset d: every row is empty; write others")
        one.fail(job)
    one.record(None, "Exiting because a job execution failed. Look above for error messages", logging.ERROR)
    text = "WorkflowError:\nAt least one job did not complete successfully."
    one.record(LogEvent.ERROR, text, logging.ERROR, exception="WorkflowError")
    assert one.end()[-4:] == [
        "0 stages done, 2 failed in 0:00.",
        "sft a failed; its log is results/logs/sft/a.log",
        "sft b failed; its log is results/logs/sft/b.log",
        "posttrain: dataset d: every row is empty; write others",
    ]


def test_the_end_of_the_log_is_shown_after_a_crash(command, in_folder):
    log = in_folder / LOG.format(run="a")
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {i}\n" for i in range(100)) + "ZeroDivisionError: division by zero\n")
    one = command()
    one.start(1, "a")
    one.fail(1)
    lines = one.end()
    assert lines[1:3] == ["sft a: failed after 0:00", "The end of results/logs/sft/a.log:"]
    assert lines[3:28] == [f"    line {i}" for i in range(76, 100)] + ["    ZeroDivisionError: division by zero"]
    assert lines[-1] == "sft a failed; its log is results/logs/sft/a.log"


def test_after_ctrl_c_one_line_says_that_the_same_command_goes_on(command):
    one = command()
    one.start(1, "a")
    one.record(None, "Terminating processes on user request, this might take some time.")
    one.send("a", "note", "a: stopping after this step")
    one.send("a", "progress", "a: step 2/4", left=3, last=False)
    one.fail(1)
    lines = one.end()
    assert lines[1:3] == ["a: stopping after this step", "sft a: stopped after 0:00: step 2/4  0:03 left"]
    assert lines[-1] == INTERRUPTED and not any("failed" in line for line in lines)


def test_what_failed_and_was_done_when_it_was_tried_again_has_not_failed(command):
    one = command()
    one.start(1, "a")
    one.fail(1)
    one.start(1, "a")
    one.record(LogEvent.JOB_FINISHED, job_id=1)
    assert one.end()[-1] == "1 stage done in 0:00."


def test_jobs_of_a_failed_group_have_failed(command):
    one = command()
    one.start(1, "a")
    one.record(LogEvent.GROUP_ERROR, "Error in group", logging.ERROR, job_error_info=[{"jobid": 1}])
    assert one.end()[-1].startswith("sft a failed")


def test_tables_and_results_come_after_the_last_stage(command):
    one = command()
    one.start(1, "a")
    one.send("a", "table", "rank  loss\n4     1.5")
    one.record(LogEvent.JOB_FINISHED, job_id=1)
    events.set_job(None)
    events.send(kind="results", text="     a  b\nloss 1  2")
    assert one.end()[-7:] == ["1 stage done in 0:00.", "", "rank  loss", "4     1.5", "", "     a  b", "loss 1  2"]


@pytest.mark.parametrize(
    ("quiet", "lines"),
    [
        ((Quietness.PROGRESS, Quietness.RULES), ["a: rank: WARNING: low", "", "a table"]),
        ((Quietness.ALL,), []),
    ],
    ids=["quiet", "quiet all"],
)
def test_quiet_leaves_out_stages_and_all_leaves_out_the_rest(command, quiet, lines):
    one = command(*quiet)
    one.start(1, "a")
    one.send("a", "note", "a: goes on from checkpoint-3")
    one.send("a", "note", "a: rank: WARNING: low")
    one.record(LogEvent.JOB_FINISHED, job_id=1)
    one.send("a", "results", "a table")
    assert one.end() == lines


def test_a_mistake_is_told_however_quiet_a_command_is(command):
    one = command(Quietness.ALL)
    one.start(1, "a")
    one.send("a", "error", "write others")
    one.fail(1)
    assert one.end()[-1] == "posttrain: write others"


def test_shell_commands_are_shown_where_they_are_asked_for(command):
    for asked in (True, False):
        one = command(commands=asked)
        one.record(LogEvent.SHELLCMD, "Shell command: touch a", shellcmd="touch a")
        assert one.end() == (["Shell command: touch a"] if asked else [])


def test_what_snakemake_itself_refuses_is_shown(command):
    one = command()
    one.record(LogEvent.ERROR, "MissingInputException: no a.txt", logging.ERROR, exception="MissingInputException")
    one.record(None, "Falling back to greedy scheduler", logging.WARNING)
    assert one.end() == ["Falling back to greedy scheduler", "MissingInputException: no a.txt"]


def test_after_a_command_its_stages_write_to_their_own_terminal(command):
    one = command()
    assert events.send(kind="note", text="heard")
    one.end()
    assert not events.send(kind="note", text="not heard") and not one.board.messages.folder.exists()
