"""llama.cpp as the program that runs a GGUF file: a child process of node with node-llama-cpp, which brings it compiled."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from posttrain.export.gguf_vocabulary import DATE
from posttrain.export.programs import Scored
from posttrain.runtime.errors import UserError

SCRIPT = Path(__file__).with_name("llama_cpp.mjs")
MODULES = "POSTTRAIN_NODE_MODULES"  # environment variable: a folder `node_modules` that holds node-llama-cpp
KILLED = 5  # seconds that the child has to end


def modules() -> Path:
    """The folder with node-llama-cpp: what the environment variable names, or where `make setup` puts it.

    Raises:
        UserError: it is not there, or node is not.
    """
    folder = Path(os.environ.get(MODULES) or Path(sys.prefix, "lib/posttrain-node/node_modules"))
    if shutil.which("node") is None or not (folder / "node-llama-cpp/package.json").is_file():
        raise UserError(
            "missing-package",
            "llama.cpp",
            f"node or node-llama-cpp is not there ({folder}), with which GGUF files are tried",
            "install node 20 or newer with npm, and run `python envs/install.py --node`",
        )
    return folder


class LlamaCpp:
    """A GGUF file in llama.cpp, on the CPU, with a fixed number of threads; a `programs.Program`.

    Args:
        file: the GGUF file.
        threads: of the processor; by default OMP_NUM_THREADS, or one. They wait for each other in a loop: more than there are idle
            cores make llama.cpp many times slower.

    Raises:
        UserError: llama.cpp is not there, or does not load the file.
    """

    name = "llama.cpp"

    def __init__(self, file: Path, threads: int | None = None) -> None:
        self._file = file
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed with the child)
        self._child = subprocess.Popen(
            ["node", SCRIPT, file, str(threads or os.environ.get("OMP_NUM_THREADS", 1))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            env=os.environ | {MODULES: str(modules())},
            process_group=0,  # Ctrl-C is for this process, which decides what ends
        )
        started = self._read()
        self.version: str = started["version"]
        self.load_seconds: float = started["seconds"]
        self._templates, self._values, self._today = _template(file)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """See `programs.Program`."""
        return [self._ask("encode", text=text) for text in texts]

    def render(
        self, conversations: list[list[dict[str, Any]]], tools: list[list[dict] | None] | None = None
    ) -> list[str]:
        """See `programs.Program`; by llama.cpp's own engine.

        Raises:
            UserError: the file has no template, or the engine refuses it.
        """
        if not self._templates:
            raise UserError("unusable-chat-template", str(self._file), "it has no chat template", "")
        rendered = []
        for messages, functions in zip(conversations, tools or [None] * len(conversations), strict=True):
            named = "tool_use" if functions and "tool_use" in self._templates else "default"
            template = with_date(self._templates.get(named) or next(iter(self._templates.values())), self._today)
            values = self._values | {"messages": messages, "add_generation_prompt": True}
            if functions:
                values["tools"] = functions
            rendered.append(self._ask("render", template=template, values=values))
        return rendered

    def score(self, sequences: list[tuple[list[int], list[int]]]) -> list[Scored]:
        """See `programs.Program`."""
        return [Scored(**self._ask("score", prompt=prompt, answer=answer)) for prompt, answer in sequences]

    def generate(self, prompts: list[list[int]], max_new_tokens: int, stop: list[int]) -> list[list[int]]:
        """See `programs.Program`."""
        return [self._ask("generate", prompt=prompt, most=max_new_tokens, stop=stop) for prompt in prompts]

    def extend(self, ids: list[int], most: int, room: int, stop: list[int], temperature: float) -> list[int]:
        """The next tokens of a text that grows from call to call, and is not read again from its beginning.

        Args:
            ids: all of it so far.
            most: that are wanted now.
            room: the most that the text will have in the end, which has to be within the model's context.
            stop: tokens that end it; the one that did is the last.
            temperature: 0 for the likeliest token each time.
        """
        return self._ask("extend", ids=ids, most=most, room=room, stop=stop, temperature=temperature)

    def peak_memory(self) -> int:
        """See `programs.Program`; node's own share of some 100 MB is in it."""
        return self._ask("peak")

    def close(self) -> None:
        """End the child."""
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        try:
            self._child.wait(KILLED)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._errors.close()

    def _ask(self, action: str, **request: Any) -> Any:
        with contextlib.suppress(BrokenPipeError):  # then what it says last tells more
            self._child.stdin.write(json.dumps({"action": action} | request) + "\n")
            self._child.stdin.flush()
        return self._read()["answer"]

    def _read(self) -> dict[str, Any]:
        """The child's next line.

        Raises:
            UserError: it refuses the request, or ended.
        """
        line = self._child.stdout.readline()
        if not line:
            status = self._child.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or [f"exit status {status}"]
            self.close()
            raise UserError("program-failed", str(self._file), f"llama.cpp ended: {said[-1]}", "see its message")
        found = json.loads(line)
        if "error" in found:
            if "version" not in self.__dict__:
                self.close()
            raise UserError(
                "program-failed", str(self._file), f"llama.cpp refuses it: {found['error']}", "see its message"
            )
        return found


def _template(file: Path) -> tuple[dict[str, str], dict[str, str], str | None]:
    """The chat templates in a GGUF file, by name, the texts of special tokens that they are given, and the date of training."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    start = "tokenizer.chat_template"
    found = {
        key.removeprefix(start).removeprefix(".") or "default": fields[key] for key in fields if key.startswith(start)
    }
    templates = {key: field.contents() for key, field in found.items() if key != "s"}
    special = {}
    for key in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        special[f"{key}_token"] = fields["tokenizer.ggml.tokens"].contents(number.contents()) if number else ""
    return templates, special, fields[DATE].contents() if DATE in fields else None


def with_date(template: str, today: str | None) -> str:
    """A template that prints this day as today's, where it prints a date.

    A template asks for the date by `strftime_now(FORMAT)`, and an engine may have no way to set the clock.
    """
    if today is None or "strftime_now" not in template:
        return template
    formats = {text for _, text in re.findall(r"strftime_now\(\s*(['\"])(.*?)\1", template)}
    day = date.fromisoformat(today)
    cases = "".join(f"{{%- if format == {text!r} -%}}{day.strftime(text)}{{%- endif -%}}" for text in sorted(formats))
    return f"{{%- macro strftime_now(format) -%}}{cases}{{%- endmacro -%}}\n{template}"
