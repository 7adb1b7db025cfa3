"""The server on the loopback, asked by the public `openai` client: a real tiny model, and a program of which each text is known."""

import asyncio
import contextlib
import json
import time

import httpx2
import openai
import pytest
import tiny_bases
from loopback import running

from posttrain.data.tokens import prompt_tokens
from posttrain.inference import scoring
from posttrain.models import loading
from posttrain.models.chat_templates import shipped
from posttrain.runtime.errors import UserError
from posttrain.serving import in_process, listening
from posttrain.serving.app import Served, Server
from posttrain.serving.backends import Ended, Options, Piece
from posttrain.serving.requests import MAX_BODY

SYSTEM = "You are a cat."
KEY = "secret"
TOOL = {"type": "function", "function": {"name": "play", "parameters": {"type": "object"}}}


def client(url: str, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


def asked(text: str, **options) -> dict:
    return {"model": "cat", "messages": [{"role": "user", "content": text}], "max_tokens": 12} | options


# ---- a real model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """URL, model and tokenizer of a tiny random model that is served."""
    folder = tmp_path_factory.mktemp("model")
    tiny_bases.save(folder, tiny_bases.chatml(), max_position_embeddings=512)
    backend = in_process.load(folder, None)
    tokenizer = loading.tokenizer(folder)
    with running(Server(backend, {"cat": Served(tokenizer, SYSTEM)}, KEY)) as url:
        yield url, loading.load(folder, arithmetic="fp32").eval(), tokenizer
    asyncio.run(backend.close())


@pytest.fixture(scope="module")
def url(tiny):
    return tiny[0]


def batch(tiny, text: str, most: int = 12, system: str = SYSTEM) -> str:
    """The answer of batch inference."""
    _, model, tokenizer = tiny
    turns = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return scoring.generate(model, tokenizer, [prompt_tokens(tokenizer, turns)], most)[0]


def text(answer) -> str:
    return answer.choices[0].message.content


def test_the_models_are_listed_and_the_server_is_healthy(url):
    assert [model.id for model in client(url).models.list()] == ["cat"]
    assert httpx2.get(url.replace("/v1", "/health")).json() == {"status": "ok"}


def test_the_default_is_batch_inference_with_the_system_prompt_of_training(tiny, url):
    answer = client(url).chat.completions.create(**asked("what time is it"))
    assert text(answer) == batch(tiny, "what time is it")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    with_own = asked("Hi", messages=[{"role": "system", "content": "A mat."}, {"role": "user", "content": "Hi"}])
    assert text(client(url).chat.completions.create(**with_own)) == batch(tiny, "Hi", system="A mat.")


def test_a_stream_has_the_text_of_the_whole_answer_and_its_usage(tiny, url):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client(url).chat.completions.create(**asked("the cat sat", **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == batch(tiny, "the cat sat")
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) > 3
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage.completion_tokens == 12


def test_a_stop_text_is_not_in_the_answer(tiny, url):
    whole = batch(tiny, "on the mat")
    stop = whole[4:7]
    answer = client(url).chat.completions.create(**asked("on the mat", stop=[stop]))
    assert text(answer) == whole.split(stop)[0]
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_gives_the_same_sample_again(url):
    def sampled(seed):
        return text(client(url).chat.completions.create(**asked("Answer", temperature=1.5, seed=seed)))

    assert sampled(1) == sampled(1) != sampled(2)


def test_each_of_32_clients_gets_its_own_answer(tiny, url):
    async def ask():
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as many:
            questions = [f"the cat {i} sat on {i * 7}" for i in range(32)]
            answers = [many.chat.completions.create(**asked(question)) for question in questions]
            return questions, [text(answer) for answer in await asyncio.gather(*answers)]

    questions, answers = asyncio.run(ask())
    assert answers == [batch(tiny, question) for question in questions]
    assert len(set(answers)) > 4


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_the_work(tiny, url, stream, monkeypatch):
    requests = []
    before = in_process.Request.__init__

    def kept(self, *arguments):
        before(self, *arguments)
        requests.append(self)

    monkeypatch.setattr(in_process.Request, "__init__", kept)
    long = asked("the cat", max_tokens=400, temperature=2, seed=5, stream=stream)
    with pytest.raises(httpx2.TimeoutException) if not stream else contextlib.nullcontext():
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx2.stream("POST", f"{url}/chat/completions", json=long, headers=headers, timeout=0.2) as answer:
            next(answer.iter_lines())
    (request,) = requests
    for _ in range(200):
        if request.cancelled:
            break
        time.sleep(0.05)
    left = request.left
    assert request.cancelled
    client(url).chat.completions.create(**asked("Answer"))
    assert request.left in (left, left - 1)  # the step that was being computed


def post(url: str, body: bytes, kind: str = "application/json") -> httpx2.Response:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
    return httpx2.post(f"{url}/chat/completions", content=body, headers=headers)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"model": "cat"}', "application/json", 400),
        (b" " * (MAX_BODY + 1), "application/json", 413),
        (json.dumps(asked("Hi")).encode(), "text/plain", 415),
    ],
)
def test_a_wrong_body_is_refused_in_openais_form(url, body, kind, status):
    answer = post(url, body, kind)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_what_is_not_served_is_refused(url):
    ask = client(url).chat.completions.create
    with pytest.raises(openai.NotFoundError, match="there is no model '/etc'; there is cat"):
        ask(**asked("Hi", model="/etc"))
    with pytest.raises(openai.BadRequestError, match="JSON schema"):
        ask(**asked("Hi", response_format={"type": "json_object"}))
    with pytest.raises(openai.BadRequestError, match="no place for tools, and no message names 'play'"):
        ask(**asked("Hi", tools=[TOOL]))
    with pytest.raises(openai.BadRequestError, match="a tool is"):
        ask(**asked("Hi", tools=[{"type": "function"}]))
    with pytest.raises(openai.NotFoundError, match="there is no POST /v1/completions here"):
        client(url).completions.create(model="cat", prompt="Hi")


def test_a_prompt_that_the_context_does_not_hold_is_refused_before_it_is_computed(url):
    with pytest.raises(openai.BadRequestError, match="the context of this server is 512") as error:
        client(url).chat.completions.create(**asked("cat " * 1000))
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="and 600 of the answer"):
        client(url).chat.completions.create(**asked("cat", max_tokens=600))


@pytest.mark.parametrize("key", ["wrong", "", "secret2"])
def test_a_wrong_key_is_refused(url, key):
    for path in ("/models", "/chat/completions", "/other"):
        answer = httpx2.get(url + path, headers={"Authorization": f"Bearer {key}"} if key else {})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"


def test_an_export_is_loaded_as_its_proof_loads_it(tmp_path):
    tiny_bases.save(tmp_path, tiny_bases.chatml(), dtype="bfloat16")
    backend = in_process.load_export(tmp_path, 64)
    assert str(backend._engine.model.dtype) == "torch.bfloat16"
    assert backend.context == 64

    async def answer() -> int:
        return sum([piece.tokens async for piece in backend.complete("cat", [5, 6, 7], Options(9, 0, 1, None, None))])

    assert asyncio.run(answer()) == 9
    asyncio.run(backend.close())


# ---- a program that says what it is told


class Script:
    """A backend that answers with these pieces, and then, perhaps, ends."""

    context, follows_schemas = 1000, True

    def __init__(self, pieces, failure=None) -> None:
        self.pieces, self.failure, self.options, self.prompt = pieces, failure, None, None

    async def complete(self, model, prompt, options):
        self.options, self.prompt = options, prompt
        for piece in self.pieces:
            yield Piece(piece, 1)
        if self.failure:
            raise Ended(self.failure)
        yield Piece("", 0, "stop")


@contextlib.contextmanager
def scripted(*pieces, template=None, **options):
    script, tokenizer = Script(pieces, **options), tiny_bases.chatml()
    tokenizer.chat_template = template or tokenizer.chat_template
    with running(Server(script, {"cat": Served(tokenizer, "Tools: play")}, None)) as url:
        yield client(url).chat.completions.create, script


RESULT = {"role": "tool", "content": '{"playing": true}'}


def test_a_conversation_goes_on_with_the_results_of_tools():
    hermes = shipped()["hermes"].read_text()
    with scripted("Now ", "<tool_call>\n", '{"name": "play", "arguments": {}}\n</tool_call>', template=hermes) as (
        ask,
        script,
    ):
        first = ask(**asked("Hi", tools=[TOOL]))
        message = first.choices[0].message
        (call,) = message.tool_calls
        assert message.content == "Now "
        turns = [
            {"role": "user", "content": "Hi"},
            message.model_dump(exclude_none=True),
            RESULT | {"tool_call_id": call.id},
        ]
        ask(**asked("", messages=turns, tools=[TOOL]))
        read = tiny_bases.chatml().decode(script.prompt)
    assert '<tools>\n{"type": "function", "function": {"name": "play"' in read
    assert read.endswith(
        'assistant\nNow \n<tool_call>\n{"name": "play", "arguments": {}}\n</tool_call><|im_end|>\n<|im_start|>tool\n'
        '<tool_response>\n{"playing": true}\n</tool_response><|im_end|>\n<|im_start|>assistant\n'
    )


def test_a_call_that_the_template_would_leave_out_is_refused():
    called = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "play", "arguments": '{"by": "Bach"}'}}],
    }
    with (
        scripted("Yes.") as (ask, _),
        pytest.raises(openai.BadRequestError, match="template leaves out a call of a function"),
    ):
        ask(**asked("", messages=[{"role": "user", "content": "Hi"}, called, RESULT]))


def test_a_call_comes_back_as_tool_calls():
    with scripted('{"name": "play", ', '"arguments": {"by": "Bach"}}') as (ask, _):
        answer = ask(**asked("Hi", tools=[TOOL]))
        chunks = list(ask(**asked("Hi", tools=[TOOL], stream=True)))
        plain = ask(**asked("Hi", tools=[TOOL], tool_choice="none"))
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("play", {"by": "Bach"})
    assert (answer.choices[0].finish_reason, text(answer)) == ("tool_calls", None)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [call.function.name for delta in deltas for call in delta.tool_calls or []] == ["play"]
    assert not any(delta.content for delta in deltas)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert plain.choices[0].message.tool_calls is None
    assert text(plain).startswith('{"name"')


def test_a_schema_reaches_a_program_that_follows_it():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    with scripted("{}") as (ask, script):
        ask(**asked("Hi", response_format=form))
        assert script.options.schema == schema


def test_a_program_that_ends_is_told_in_a_sentence():
    with scripted("one", failure="llama-server was ended by SIGKILL") as (ask, _):
        with pytest.raises(openai.APIStatusError, match="llama-server was ended by SIGKILL") as error:
            ask(**asked("Hi"))
        assert error.value.status_code == 502
        with pytest.raises(openai.APIError, match="llama-server was ended by SIGKILL"):
            list(ask(**asked("Hi", stream=True)))


# ---- the address


def test_an_address_that_cannot_be_listened_on():
    with contextlib.closing(listening.bind("127.0.0.1", 0, None)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="address already in use") as error:
            listening.bind("127.0.0.1", port, None)
    assert error.value.code == "address-in-use"
    with pytest.raises(UserError, match="POSTTRAIN_API_KEY") as error:
        listening.bind("0.0.0.0", 0, None)
    assert error.value.code == "unprotected-address"
    listening.bind("0.0.0.0", 0, "key").close()
    for host, port in (("no.such.host.invalid", 0), ("127.0.0.1", 70000)):
        with pytest.raises(UserError):
            listening.bind(host, port, None)
