"""The HTTP server: OpenAI's /v1/models and /v1/chat/completions, and /health, in front of the program that computes.

Conversations are rendered and cut into tokens here, with the tokenizer and the template that the model was trained with, so a request
is refused before anything is computed, and all programs are asked the same.
"""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from posttrain.data import thoughts
from posttrain.data.conversations import render
from posttrain.data.encoding import prompt_tokens
from posttrain.data.left_out import left_out
from posttrain.data.messages import Turns
from posttrain.runtime.errors import UserError
from posttrain.serving.answers import Answer, offered
from posttrain.serving.backends import Backend, Ended, Options
from posttrain.serving.requests import MAX_BODY, SHOWN, ChatRequest, Refused, conversation, parse


class Served(NamedTuple):
    """A model as clients name it."""

    tokenizer: Any
    system: str | None
    """the system prompt of training, for conversations without one"""
    stops: tuple[str, ...] = ()
    """texts that end its answers, of its generation configuration"""


class Prompt(NamedTuple):
    """A request that is accepted, ready for the program that computes."""

    request: ChatRequest
    ids: list[int]
    options: Options
    answer: Answer


class Server:
    """The routes, for some models of one backend."""

    def __init__(self, backend: Backend, models: dict[str, Served], key: str | None) -> None:
        """A server that is not listening yet.

        Args:
            key: the one that clients have to send; None for none.
        """
        self.backend, self.models, self._key = backend, models, key
        self.failure: str | None = None  # why the backend is not there any more
        self._started = int(time.time())
        self._renderer = ThreadPoolExecutor(1, "render")  # a tokenizer is no place for several threads
        self.app = Starlette(
            routes=[
                Route("/health", self._guarded(self.health, key=False)),
                Route("/v1/models", self._guarded(self.list_models)),
                Route("/v1/chat/completions", self._guarded(self.chat), methods=["POST"]),
                Route("/{path:path}", self._guarded(self.unknown), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    # ---- routes

    async def health(self, _: Request) -> Response:
        """200 while requests are answered."""
        return JSONResponse({"status": "ok"})

    async def list_models(self, _: Request) -> Response:
        """The names that a request may have as its model."""
        rows = [
            {"id": name, "object": "model", "created": self._started, "owned_by": "posttrain"} for name in self.models
        ]
        return JSONResponse({"object": "list", "data": rows})

    async def unknown(self, request: Request) -> Response:
        """Everything else."""
        there = "GET /v1/models, POST /v1/chat/completions and GET /health"
        raise Refused(404, f"there is no {request.method} {request.url.path[:SHOWN]} here; there are {there}")

    async def chat(self, request: Request) -> Response:
        """Continue a conversation."""
        asked = parse(await _body(request))
        prompt = await asyncio.get_running_loop().run_in_executor(self._renderer, self._prompt, asked)
        identity = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        if asked.stream:
            pieces = self._pieces(prompt)
            first = await _while_connected(
                request, anext(pieces)
            )  # a backend that is not there is an error, and no stream
            return _Events(self._events(prompt, identity, first, pieces), media_type="text/event-stream")
        message, end, usage = await _while_connected(request, self._whole(prompt))
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end}
        return JSONResponse(identity | {"object": "chat.completion", "choices": [choice], "usage": usage})

    # ---- what a request asks for

    def _prompt(self, asked: ChatRequest) -> Prompt:
        """The tokens that a request asks to continue.

        Raises:
            Refused: an unknown model, a conversation that its template refuses, or that its context does not hold.
        """
        if asked.model not in self.models:
            names = ", ".join(self.models)
            raise Refused(
                404, f"there is no model '{asked.model[:SHOWN]}'; there is {names}", "model", "model_not_found"
            )
        served = self.models[asked.model]
        turns = conversation(asked, served.system)
        schema = asked.response_format.constraint()
        if schema is not None and not self.backend.follows_schemas:
            problem = "this server cannot keep an answer within a JSON schema; a GGUF export's server can"
            raise Refused(400, problem, "response_format")
        try:
            tools = _tools(asked)
            ids = prompt_tokens(served.tokenizer, turns, asked.functions)
            of_tools = tools or any(turn["role"] == "tool" or "tool_calls" in turn for turn in turns)
            text = render(served.tokenizer, turns, asked.functions, generate=True) if of_tools else ""
        except UserError as error:
            raise Refused(400, error.problem, "messages") from None
        if of_tools:
            _check_tools(turns, tools, text)
        room = self.backend.context - len(ids)
        if (asked.limit or 1) > room:
            more = f", and {asked.limit} of the answer" if asked.limit else ""
            problem = (
                f"the prompt has {len(ids)} tokens{more}, and the context of this server is {self.backend.context}"
            )
            raise Refused(400, problem, "messages" if room < 1 else "max_tokens", "context_length_exceeded")
        options = Options(asked.limit or room, asked.temperature, asked.top_p, asked.seed, schema)
        opening = thoughts.opened(served.tokenizer, ids)
        return Prompt(asked, ids, options, Answer(opening, (*asked.stop, *served.stops), tools))

    # ---- answers

    async def _pieces(self, prompt: Prompt) -> AsyncIterator[tuple[str, str | None, int]]:
        """Text for the client, why the answer ends, and the number of its tokens, as they come.

        Raises:
            Refused: the backend ended.
        """
        count, end, answer = 0, None, prompt.answer
        found = self.backend.complete(prompt.request.model, prompt.ids, prompt.options)
        try:
            async for piece in found:
                count += piece.tokens
                text, end = answer.add(piece.text), piece.end
                if answer.stopped:
                    break
                if text:
                    yield text, None, count
        except Ended as error:
            raise Refused(502, str(error)) from None
        finally:
            await found.aclose()
        text = answer.finish()
        yield text, "tool_calls" if answer.calls else "stop" if answer.stopped else end, count

    async def _whole(self, prompt: Prompt) -> tuple[dict[str, Any], str | None, dict[str, int]]:
        """The message, why it ends, and the numbers of tokens."""
        found = [piece async for piece in self._pieces(prompt)]
        _, end, count = found[-1]
        text = "".join(part for part, _, _ in found)
        message = {"role": "assistant", "content": text or None, "refusal": None}
        if prompt.answer.calls:
            message["tool_calls"] = _calls(prompt.answer)
        else:
            message["content"] = text
        return message, end, _usage(prompt, count)

    async def _events(
        self, prompt: Prompt, identity: dict[str, Any], first: tuple, pieces: AsyncIterator[tuple]
    ) -> AsyncIterator[str]:
        """The answer as server-sent events."""

        def event(choices: list[dict], **more: Any) -> str:
            chunk = identity | {"object": "chat.completion.chunk", "choices": choices} | more
            return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

        def delta(end: str | None = None, **values: Any) -> str:
            return event([{"index": 0, "delta": values, "logprobs": None, "finish_reason": end}])

        yield delta(role="assistant", content="")
        try:
            text, end, count = first
            while True:
                if text:
                    yield delta(content=text)
                if end:
                    break
                text, end, count = await anext(pieces)
        except Refused as error:
            yield f"data: {json.dumps(error.body())}\n\n"
            return
        finally:
            await pieces.aclose()
        if prompt.answer.calls:
            calls = _calls(prompt.answer)
            yield delta(tool_calls=[{"index": i} | call for i, call in enumerate(calls)])
        yield delta(end)
        if prompt.request.stream_options.include_usage:
            yield event([], usage=_usage(prompt, count))
        yield "data: [DONE]\n\n"

    # ---- around every route

    def _guarded(
        self, route: Callable[[Request], Awaitable[Response]], key: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        """A route that answers a refusal with OpenAI's form of errors, and only to clients with the key."""

        async def guarded(request: Request) -> Response:
            try:
                if key and self._key is not None and not _has_key(request, self._key):
                    raise Refused(401, "the key is missing or wrong", code="invalid_api_key")
                if self.failure is not None:
                    raise Refused(503, self.failure)
                return await route(request)
            except Refused as refused:
                return JSONResponse(refused.body(), refused.status)
            except ClientDisconnect:
                return Response(status_code=499)

        return guarded


def _has_key(request: Request, key: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), key.encode())


async def _body(request: Request) -> bytes:
    """A request's body.

    Raises:
        Refused: it is too large, or not announced as JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a web page can send other types to this machine without asking
        raise Refused(415, "the content type of a request is application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refused(413, f"the body has more than {MAX_BODY:,} bytes")
    return bytes(body)


async def _while_connected(request: Request, work: Coroutine) -> Any:
    """What `work` returns; it is cancelled when the client goes away.

    Raises:
        ClientDisconnect: the client went away.
    """

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    done, gone = asyncio.ensure_future(work), asyncio.create_task(disconnected())
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        return done.result()
    finally:
        gone.cancel()
        done.cancel()


class _Events(StreamingResponse):
    """A stream whose generator is closed with it, so that the work ends when the client goes away."""

    async def __call__(self, *connection: Any) -> None:
        try:
            await super().__call__(*connection)
        finally:
            await self.body_iterator.aclose()


def _tools(asked: ChatRequest) -> dict[str, frozenset[str]]:
    """See `answers.offered`.

    Raises:
        Refused: a tool is no function with a name.
    """
    try:
        return offered(json.loads(asked.functions or "[]"))
    except ValueError:
        raise Refused(400, "a tool is {type: function, function: {name: ..., parameters: ...}}", "tools") from None


def _check_tools(turns: Turns, tools: dict[str, frozenset[str]], text: str) -> None:
    """Refuse what the chat template would leave out in silence.

    Raises:
        Refused: a tool, a call or a tool's result is not in the `text` of the conversation.
    """
    for name in tools:
        if name not in text:
            problem = f"the model's chat template has no place for tools, and no message names '{name[:SHOWN]}'"
            raise Refused(400, problem, "tools")
    if lost := left_out(turns, None, text):
        raise Refused(400, f"the model's chat template leaves out {lost[0]}", "messages")


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": call._asdict()} for call in answer.calls
    ]


def _usage(prompt: Prompt, count: int) -> dict[str, int]:
    return {"prompt_tokens": len(prompt.ids), "completion_tokens": count, "total_tokens": len(prompt.ids) + count}
