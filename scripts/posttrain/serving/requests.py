"""A request to /v1/chat/completions: what is accepted, and what is refused in one sentence.

An option that would be ignored is refused. Options at the value that means nothing, as some clients send them, are accepted.
"""

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from posttrain.data import messages
from posttrain.runtime.errors import UserError, nearest, printable

MAX_BODY = 4 << 20  # bytes
MAX_STOPS = 4  # texts, as at OpenAI
SHOWN = 200  # characters of what a client sent that an answer repeats

Text = Annotated[str, Field(min_length=1)]


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: one sentence.
        param: the option that is at fault, if one is.
        code: OpenAI's identifier of the kind of mistake, where it has one.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, printable(message), param, code

    def body(self) -> dict[str, Any]:
        """The answer, in the form of OpenAI's errors."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def _listed(stop: Any) -> Any:
    """One stop text as a list of it."""
    return [stop] if isinstance(stop, str) else stop


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Closed):
    """What a stream says beside the text."""

    include_usage: bool = False


class Schema(_Closed):
    """The JSON schema that an answer has to follow."""

    name: str
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Closed):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None

    def constraint(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for free text."""
        if self.type == "json_schema" and self.json_schema:
            return self.json_schema.json_schema
        return {"type": "object"} if self.type == "json_object" else None


class ChatRequest(_Closed):
    """The options of OpenAI's chat completions that have an effect here, and the neutral values of others."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0, ge=0, le=2)
    top_p: float = Field(1, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**32)
    stop: Annotated[list[Text], Field(max_length=MAX_STOPS), BeforeValidator(_listed)] = []
    tools: list[dict[str, Any]] = []
    tool_choice: Literal["auto", "none"] = "auto"
    response_format: ResponseFormat = ResponseFormat(type="text")
    # Of no effect on an answer.
    user: str = ""
    metadata: dict[str, str] = {}
    # Not served: accepted at the value that means nothing.
    n: Literal[1] = 1
    logprobs: Literal[False] = False
    top_logprobs: Literal[0] = 0
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0
    logit_bias: Annotated[dict, Field(max_length=0)] = {}
    parallel_tool_calls: Literal[True] = True
    store: Literal[False] = False

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer, if the client sets it."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def functions(self) -> str | None:
        """The tools that may be called, as JSON."""
        return json.dumps(self.tools, ensure_ascii=False) if self.tools and self.tool_choice == "auto" else None


def parse(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        Refused: it is not JSON, an option is unknown or has no effect here, or a value is outside its range.
    """
    try:
        values = json.loads(body, parse_constant=_not_a_number)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(values, dict):
        raise Refused(400, "the body is no JSON object")
    values = {key: value for key, value in values.items() if value is not None}
    try:
        return ChatRequest.model_validate(values)
    except ValidationError as error:
        raise _refusal(error.errors()[0]) from None


def _not_a_number(_: str) -> NoReturn:
    raise ValueError


def _refusal(error: Any) -> Refused:
    """What pydantic found first, as a sentence."""
    name = str(error["loc"][0])[:SHOWN]
    place = ".".join(str(part)[:SHOWN] for part in error["loc"])
    if error["type"] == "missing":
        return Refused(400, f"'{place}' is missing", name)
    if error["type"] == "extra_forbidden":
        known = ChatRequest.model_fields if len(error["loc"]) == 1 else []
        hint = f"; {nearest(name, known)}" if known else ""
        return Refused(400, f"'{place}' is no option of this server{hint}", name)
    return Refused(400, f"'{place}' is not accepted: {error['msg'][0].lower()}{error['msg'][1:]}", name)


def conversation(request: ChatRequest, system: str | None) -> messages.Turns:
    """The turns that the model reads.

    Args:
        system: the system prompt of training, for a conversation without one. A client's own replaces it, also an empty one.

    Raises:
        Refused: a message is wrong, holds something else than text, or the last is the assistant's.
    """
    given = [{key: value for key, value in one.items() if value is not None} for one in request.messages]
    for number, message in enumerate(given, 1):
        role = messages.ALIASES.get(message.get("role"), "") if isinstance(message.get("role"), str) else ""
        unknown = [key for key in message if role and key not in messages.FIELDS[role] - set(messages.TRAINED)]
        if unknown:
            raise Refused(400, f"message {number} has the field '{unknown[0][:SHOWN]}', which is not read", "messages")
    begins = given[0].get("role") in ("system", "developer")
    if begins and given[0].get("content") == "":
        given = given[1:]
    try:
        turns = messages.turns(given, "messages", "")
        if not begins and system is not None:
            turns = [{"role": "system", "content": system}, *turns]
        messages.ends_with(turns, "user", "messages", "")
    except UserError as error:
        raise Refused(400, error.problem, "messages") from None
    return turns
