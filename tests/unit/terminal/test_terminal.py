"""Stages on a terminal, drawn with rich."""

import io
import re

from snakemake_logger_plugin_posttrain.stage import Stage
from snakemake_logger_plugin_posttrain.terminal import Terminal

STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Tty(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


def stage(**fields) -> Stage:
    return Stage("sft", "sft sft_lora", ("sft_lora",), None, **{"started": 0.0, "ended": 72.0} | fields)


def terminal(monkeypatch, width: int) -> Terminal:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    return Terminal(Tty(), nocolor=True)


def test_a_running_stage_is_two_lines_cut_at_the_edge_above_how_many_are_done(monkeypatch):
    shown = terminal(monkeypatch, 60)
    stages = [stage(progress="step 2/4  loss 1.5  1:15 left"), stage(summary="x" * 60)]
    assert shown._drawn(stages, "1 of 3 stages done").plain.split("\n") == [
        "running sft sft_lora                        1:12  ",
        "        step 2/4  loss 1.5  1:15 left",
        "running sft sft_lora                        1:12  xxxxxxxxx…",
        "1 of 3 stages done",
    ]


def test_a_finished_stage_and_a_long_message_stay_one_line_each(monkeypatch):
    shown = terminal(monkeypatch, 60)
    shown.ended(stage(state="done", summary="y" * 60))
    shown.note("posttrain: " + "z" * 80)
    lines = STYLE.sub("", shown.console.file.getvalue()).splitlines()
    assert lines == ["done    sft sft_lora                        1:12  yyyyyyyyy…", "posttrain: " + "z" * 80]


def test_text_of_rows_is_no_markup(monkeypatch):
    shown = terminal(monkeypatch, 60)
    shown.note("[bold]a[/bold] :smile:")
    assert shown.console.file.getvalue() == "[bold]a[/bold] :smile:\n"
