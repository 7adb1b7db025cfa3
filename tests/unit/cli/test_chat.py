"""`posttrain chat`: with a pipe only the answer, in a terminal a conversation, and one sentence for what cannot be."""

import contextlib
import io
import json
import logging
import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import refused, write_rows

from posttrain.cli import main, terminal
from posttrain.cli.chat import Talk, read_tools
from posttrain.data.rows import normalise
from posttrain.inference.chat import Reply
from posttrain.runtime.errors import UserError

SYSTEM = "Answer briefly."


@pytest.fixture
def project(in_folder, configuration, random_tiny_folder, monkeypatch) -> Path:
    """A base and a run that are built, of one random model; the run's rows share a system prompt."""
    monkeypatch.setattr(logging.root.manager, "disable", 0)  # the command sets it, and it is put back
    reward = {"from": "base", "objective": "reward", "data": "pairs"}
    Path("config").mkdir()
    Path("config/config.yaml").write_text(yaml.safe_dump(configuration({"runs.judge": reward})))
    for name in ("bases/base", "sft", "judge"):
        Path("results", name).mkdir(parents=True)
        Path("results", name, "model").symlink_to(random_tiny_folder)
    row = {"messages": [{"role": role, "content": text} for role, text in
                        (("system", SYSTEM), ("user", "Hello"), ("assistant", "Hi"))]}  # fmt: skip
    write_rows(Path("results/data/chats/train.parquet"), [normalise(row, "messages", {}, "row")])
    return in_folder


def piped(monkeypatch, capsys, text: str, *arguments: str) -> tuple[str, str]:
    """What the command prints of a prompt on standard input: its output, and its error or what it tells."""
    monkeypatch.setattr(sys, "argv", ["posttrain", "chat", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    try:
        main.main()
    except SystemExit as end:
        return capsys.readouterr().out, str(end.code)
    said = capsys.readouterr()
    return said.out, said.err


def test_a_prompt_in_a_pipe_gets_the_answer_alone(project, monkeypatch, capsys):
    out, told = piped(monkeypatch, capsys, "Hello\n", "sft", "--max-new-tokens", "6")
    assert out.strip() and told == "posttrain: sft: cut after 6 tokens; --max-new-tokens allows more\n"
    same, _ = piped(monkeypatch, capsys, "Hello", "base", "--max-new-tokens", "6", "--system", SYSTEM)
    assert same == out  # the run is asked with the system prompt that it was trained with
    other, _ = piped(monkeypatch, capsys, "Hello", "base", "--max-new-tokens", "6")
    assert other != out


def test_two_models_answer_below_their_names(project, monkeypatch, capsys):
    alone, _ = piped(monkeypatch, capsys, "Hello", "sft", "--max-new-tokens", "4")
    both, _ = piped(monkeypatch, capsys, "Hello", "base", "sft", "--max-new-tokens", "4")
    assert both == f"base:\n{alone}\nsft:\n{alone}"  # the base is asked as the run is


def test_an_export_answers_as_the_program_that_runs_it_beside_its_original(project, monkeypatch, capsys):
    from posttrain.models import loading

    folder = Path("results/sft/export/bf16")
    loading.save(
        loading.load(Path("results/sft/model")).bfloat16(), loading.tokenizer(Path("results/sft/model")), folder
    )
    both, _ = piped(monkeypatch, capsys, "Hello", "sft", "sft", "--export", "bf16", "--max-new-tokens", "1")
    export, original = both.split("\n\n")
    assert export.startswith("sft (bf16):\n") and original.startswith("sft:\n")
    assert export.splitlines()[1:] == original.splitlines()[1:]


@pytest.mark.parametrize(("arguments", "said"), [
    (["nope"], "config/config.yaml: there is no base or run 'nope'"),
    (["dpo"], "dpo: it is not built yet; run: snakemake --cores 1 results/dpo/model"),
    (["judge"], "judge: it is a reward model or a classifier, which gives scores and no answers"),
    (["base", "sft", "full"], "MODEL: there are 3; name one or two"),
    (["sft", "--export", "onnx"], "sft: onnx: there is no export 'onnx': optimum-onnx needs transformers < 4.58"),
    (["base", "--export", "nf4"], "base: it is a base, and only runs are exported"),
    (["sft", "--export", "bf16"], "sft: it is not built yet; run: snakemake --cores 1 results/sft/export/bf16"),
    (["sft", "--temperature", "-1"], "--temperature: -1.0 is below 0"),
    (["sft", "--max-new-tokens", "0"], "--max-new-tokens: 0 is below 1"),
])  # fmt: skip
def test_what_cannot_be_talked_with_is_one_sentence(project, monkeypatch, capsys, arguments, said):
    out, told = piped(monkeypatch, capsys, "Hello", *arguments)
    assert out == "" and told.startswith(f"posttrain: {said}") and "\n" not in told


def test_an_empty_pipe_and_one_that_is_too_long_are_one_sentence(project, monkeypatch, capsys):
    assert piped(monkeypatch, capsys, " \n", "sft") == (
        "",
        "posttrain: standard input: there is no prompt in it; write one, or start it in a terminal",
    )
    out, told = piped(monkeypatch, capsys, "word " * 5000, "sft")
    assert out == "" and re.match(r"posttrain: the conversation has [\d,]+ tokens, and the model reads", told)


# ---- in a terminal


class Terminal:
    """`posttrain chat` in a terminal of 60 columns: `type` a line and see what is shown until the next prompt."""

    def __init__(self, *arguments: str) -> None:
        self.process, self.screen = pty.fork()
        if not self.process:
            status = 1
            with contextlib.suppress(BaseException):
                sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, "w" if i else "r") for i in range(3))
                os.environ |= {"TERM": "xterm", "COLUMNS": "60", "LINES": "20"}
                signal.signal(signal.SIGINT, signal.default_int_handler)
                sys.argv = ["posttrain", "chat", *arguments]
                main.main()
                status = 0
            sys.stdout.flush()
            os._exit(status)

    def until(self, end: bytes, seconds: float = 60) -> str:
        """What is shown up to this."""
        seen, last = b"", time.monotonic() + seconds
        while not seen.endswith(end) and time.monotonic() < last:
            if select.select([self.screen], [], [], 0.1)[0]:
                try:
                    seen += os.read(self.screen, 1)
                except OSError:  # it has ended
                    break
        return seen.decode().replace("\r", "")

    def type(self, text: str, end: bytes = b"> ", seconds: float = 60) -> str:
        """What is shown after a line."""
        os.write(self.screen, text.encode())
        return self.until(end, seconds)


@pytest.fixture
def typed(project):
    """A function that starts a conversation."""
    started = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(*arguments))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(one.process, 0)


def test_a_conversation_in_a_terminal(typed, monkeypatch, capsys):
    alone, _ = piped(monkeypatch, capsys, "Hello", "sft", "--max-new-tokens", "5")
    chat = typed("sft", "--max-new-tokens", "5")
    opening = chat.until(b"> ")
    assert f"sft; system prompt: {SYSTEM}" in opening and "/reset" in opening
    first = chat.type("Hello\n")
    assert f"\n{alone}posttrain: sft: cut after 5 tokens" in first
    chat.type("/reset\n")
    assert chat.type("Hello\n") == first
    assert "there is no command /rest; /reset begins" in chat.type("/rest\n")
    assert "system prompt: Other." in chat.type("/system Other.\n")
    assert "no system prompt but the template's own" in chat.type("/system\n")
    assert "/etc/hosts" in chat.type("/etc/hosts\n")  # no command
    chat.type("half a lin", b"lin")
    # Ctrl-C clears the line; Python does not see it while it shows a letter, so it is pressed again.
    assert any(chat.type("\x03", seconds=5).endswith("\n> ") for _ in range(12))
    chat.type("\x04", b"never")  # Ctrl-D ends
    assert os.waitstatus_to_exitcode(os.waitpid(chat.process, 0)[1]) == 0


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(typed):
    chat = typed("sft", "--max-new-tokens", "250")
    chat.until(b"> ")
    os.write(chat.screen, b"Hello\n")
    chat.until(b"Hello\r\n")
    time.sleep(0.05)
    assert chat.type("\x03").endswith("posttrain: sft: stopped\n> ")
    chat.type("/quit\n", b"never")
    assert os.waitstatus_to_exitcode(os.waitpid(chat.process, 0)[1]) == 0


def test_two_models_stand_side_by_side(typed):
    chat = typed("base", "sft", "--max-new-tokens", "5")
    chat.until(b"> ")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", chat.type("Hello\n")).splitlines()
    assert "base" + " " * 27 + "sft" in [line.rstrip() for line in shown]
    last = [line for line in shown if len(line) == 60][-1]
    assert last[:29].strip() == last[31:].strip() != ""


# ---- what is remembered


class Echo:
    """Answers with the conversation that it was asked with, or refuses."""

    def reply(self, turns: list[dict], show, tools: str | None = None) -> Reply:
        if turns[-1]["content"] == "refuse":
            raise UserError("context-full", "", "full")
        return Reply("<think>Hm.</think>" + " ".join(turn["content"] for turn in turns), "")


def test_each_model_remembers_its_own_answers_without_thoughts_and_nothing_of_a_turn_that_failed(capsys):
    talk = Talk({"a": Echo()}, "S")
    for prompt in ("one", "two"):
        talk.turn(prompt, terminal.plainly)
    with refused("context-full"):
        talk.turn("refuse", terminal.plainly)
    assert [turn["content"] for turn in talk.turns["a"]] == ["S", "one", "S one", "two", "S one S one two"]
    talk.begin(None)
    talk.turn("three", terminal.plainly)
    assert capsys.readouterr().out.splitlines() == ["S one", "S one S one two", "three"]


class Caller:
    """Calls the one tool, and says what it answered."""

    def reply(self, turns: list[dict], show, tools: str | None = None) -> Reply:
        (tool,) = json.loads(tools)
        if turns[-1]["role"] == "tool":
            return Reply(f"It is {turns[-1]['content']}.", "")
        call = {"name": tool["function"]["name"], "arguments": {"city": turns[-1]["content"]}}
        return Reply(f"<think>Hm.</think>Let me see.\n<tool_call>{json.dumps(call)}</tool_call>", "")


TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}}
]


def test_a_call_is_told_and_its_result_goes_on(capsys):
    talk = Talk({"a": Caller()}, None, json.dumps(TOOLS))
    talk.turn("Oslo", terminal.plainly)
    assert capsys.readouterr().err == 'posttrain: a calls weather with {"city": "Oslo"}; /tool TEXT gives its result\n'
    called = talk.turns["a"][-1]
    assert called["content"] == "Let me see.\n"
    assert json.loads(called["tool_calls"]) == [{"name": "weather", "arguments": '{"city": "Oslo"}'}]
    talk.turn("3 degrees", terminal.plainly, "tool")
    assert capsys.readouterr().out == "It is 3 degrees.\n"
    assert [turn["role"] for turn in talk.turns["a"]] == ["user", "assistant", "tool", "assistant"]


def test_tools_are_read_from_a_file(in_folder):
    Path("tools.json").write_text(json.dumps(TOOLS))
    assert json.loads(read_tools(Path("tools.json"))) == TOOLS
    for text in ("{", "{}", '[{"name": "weather"}]', "3", '["x"]'):
        Path("tools.json").write_text(text)
        with refused("invalid-value"):
            read_tools(Path("tools.json"))
    with refused("missing-file"):
        read_tools(Path("none.json"))


# ---- what is shown


def drawn(show, *replies: Reply) -> str:
    """What a terminal of 40 columns is sent of these answers."""
    from rich.console import Console

    console = Console(width=40, height=10, file=io.StringIO(), force_terminal=True, color_system="standard")
    show(console, {f"model{i}": lambda _, reply=reply: reply for i, reply in enumerate(replies)})
    return console.file.getvalue()


def test_thoughts_are_grey_and_apart_and_no_part_of_a_piped_answer(capsys):
    reply = Reply("<think>\nFive?\n</think>\n\nIt is 5.", "")
    assert (
        drawn(terminal.in_lines, reply)
        == "\x1b[2m<think>\x1b[0m\n\x1b[2mFive?\x1b[0m\n\x1b[2m</think>\x1b[0m\n\nIt is 5.\n"
    )
    terminal.plainly({"m": lambda _: reply})
    assert capsys.readouterr().out == "It is 5.\n"


@pytest.mark.parametrize("show", [terminal.in_lines, terminal.in_columns])
def test_a_terminal_obeys_nothing_that_a_model_says(show):
    text = drawn(show, Reply("a\x1b]0;title\x07b\x9b2J\tc [bold]d[/bold]", ""))
    assert "\\x1b]0;title\\x07b\\x9b2J" in text.replace("\n", "") and "[bold]d[/bold]" in text
    assert "\x1b]" not in text and "\x9b" not in text


def test_a_long_answer_is_whole_in_the_end():
    words = " ".join(f"w{i}" for i in range(200))
    text = drawn(terminal.in_columns, Reply(words, ""), Reply("short", ""))
    assert all(f"w{i}" in text for i in range(200))
