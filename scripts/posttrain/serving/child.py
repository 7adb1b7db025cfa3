"""Servers that are programs of their own, llama.cpp's and vLLM's: started, asked and ended by this process.

Both have OpenAI's /v1/completions, which continues a prompt given as token ids. They listen on the loopback, with a key that only this
process knows.
"""

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import openai

from posttrain.runtime.errors import UserError
from posttrain.runtime.processes import PR_SET_PDEATHSIG, free_port
from posttrain.serving.backends import Ended, Options, Piece
from posttrain.serving.requests import Refused

GRACE = 10  # seconds that a program has to end after SIGTERM


class Program(NamedTuple):
    """A server and how it is asked."""

    name: str
    command: list[str]
    """without host and port"""
    key_variable: str
    """of the environment, where it reads its key"""
    extra: Callable[[Options], dict[str, Any]]
    """what a request has beside OpenAI's options"""


class Child:
    """The backend of a program."""

    follows_schemas = True

    def __init__(self, program: Program, context: int, log: Path) -> None:
        """Start the program.

        Args:
            context: the most tokens of a prompt and its answer.
            log: gets what it prints.
        """
        self._program, self.context, self._log = program, context, log
        port, key, parent = free_port(), secrets.token_hex(16), os.getpid()

        def with_parent() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*program.command, "--host", "127.0.0.1", "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(os.environ) | {program.key_variable: key},
                preexec_fn=with_parent,
                process_group=0,  # Ctrl-C is for this process, which ends it
            )
        self._client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)

    async def ready(self) -> None:
        """Wait until the program answers.

        Raises:
            UserError: it ended instead.
        """
        while True:
            with contextlib.suppress(openai.APIError):
                await self._client.models.list()
                return
            if self._process.poll() is not None:
                hint = f"its output is in {self._log}"
                if (
                    self._process.returncode == -signal.SIGILL
                ):  # seen with AMX, which a virtual machine named and had not
                    hint = f"it was built for another processor: try LLAMA_ARG_REPACK=0, or install another build of it; {hint}"
                raise UserError("server-failed", "", self._said(), hint)
            await asyncio.sleep(0.05)

    async def complete(self, model: str, prompt: list[int], options: Options) -> AsyncIterator[Piece]:
        """See `Backend.complete`."""
        count = 0
        try:
            chunks = await self._client.completions.create(
                model=model,
                prompt=prompt,
                max_tokens=options.most,
                temperature=options.temperature,
                top_p=options.top_p,
                seed=options.seed,
                stream=True,
                stream_options={"include_usage": True},
                timeout=None,
                extra_body=self._program.extra(options),
            )
            async with chunks:
                end = "stop"
                async for chunk in chunks:
                    if chunk.choices and not chunk.choices[0].finish_reason:
                        count += 1
                        yield Piece(chunk.choices[0].text, 1)
                    elif chunk.choices:
                        end = chunk.choices[0].finish_reason
                        yield Piece(chunk.choices[0].text, 0)
                    if chunk.usage:
                        yield Piece("", chunk.usage.completion_tokens - count, end)
                        return
        except openai.BadRequestError as error:
            raise Refused(400, f"{self._program.name}: {_first_line(error.message)}") from None
        except (openai.APIError, httpx2.HTTPError, ValueError) as error:
            # A process that was killed may be there a moment longer than its connections.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended(), 1)
            gone = self._process.poll() is not None
            raise Ended(self._said() if gone else f"{self._program.name}: {_first_line(str(error))}") from None
        raise Ended(f"{self._program.name} broke off the answer")

    async def ended(self) -> str:
        """See `Backend.ended`."""
        while self._process.poll() is None:
            await asyncio.sleep(0.05)
        return self._said()

    async def close(self) -> None:
        """End the program."""
        self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended(), GRACE)
        self._process.kill()
        self._process.wait()

    def _said(self) -> str:
        """How the program ended."""
        status = self._process.wait()
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"{self._program.name} {how}"


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0]


# ---- the programs


SLOTS = 4  # of llama-server, answers that are computed at once; each has its own context


def llama_server(program: str, file: Path, context: int, markers: list[str]) -> Program:
    """llama.cpp's server of a GGUF file.

    Args:
        markers: special tokens that the text of an answer has.
    """
    command = [program, "--model", str(file), "--ctx-size", str(context * SLOTS), "--parallel", str(SLOTS)]
    command += ["--no-ui", "--no-slots", "--offline"]
    if threads := os.environ.get("OMP_NUM_THREADS"):
        command += ["--threads", threads]

    def extra(options: Options) -> dict[str, Any]:
        schema = {} if options.schema is None else {"json_schema": options.schema}
        # Its defaults are samplers that nobody asked for.
        return {"top_k": 0, "min_p": 0, "repeat_penalty": 1, "preserved_tokens": markers} | schema

    return Program("llama-server", command, "LLAMA_API_KEY", extra)


def vllm(folder: Path, name: str, context: int, stops: list[int], adapters: dict[str, Path], rank: int) -> Program:
    """vLLM's server of a model in safetensors.

    Args:
        name: the model's name in requests.
        stops: tokens that end an answer.
        adapters: folders of LoRA adapters, by the names that requests have.
        rank: the largest of theirs.
    """
    # Sampling is the requests' alone: no defaults of the model's generation_config.json.
    command = ["vllm", "serve", str(folder), "--served-model-name", name, "--max-model-len", str(context)]
    command += ["--generation-config", "vllm"]
    if adapters:
        modules = [f"{adapter}={path}" for adapter, path in adapters.items()]
        command += ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", *modules]

    def extra(options: Options) -> dict[str, Any]:
        if options.schema is None:
            return {"stop_token_ids": stops}
        schema = {"name": "answer", "schema": options.schema}
        return {"stop_token_ids": stops, "response_format": {"type": "json_schema", "json_schema": schema}}

    return Program("vllm", command, "VLLM_API_KEY", extra)
