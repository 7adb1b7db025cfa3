"""Models of images and sounds: no export, since a proof asks in words alone; they talk, and are served, in text."""

import asyncio
import json
from argparse import Namespace
from pathlib import Path

import pytest
import tiny_vision
from conftest import refused

import ask_reference
import export_model
from posttrain.data.tokens import prompt_tokens
from posttrain.exports import EXPORTS
from posttrain.inference import scoring
from posttrain.inference.chat import Partner
from posttrain.models import loading
from posttrain.runtime import atomic
from posttrain.serving import in_process
from posttrain.serving.backends import Options
from posttrain.serving.requests import Refused, conversation, parse

FAMILIES = (*tiny_vision.FAMILIES, "qwen2_audio")
TURNS = [{"role": "user", "content": "How many red circles?"}]


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory) -> Path:
    return tiny_vision.base(tmp_path_factory.mktemp(request.param) / "base", request.param)


def test_no_kind_of_export_is_written(base, in_folder):
    spec = Path("results/sft/spec.json")
    atomic.write_json(spec, {"method": "lora", "objective": "sft", "model": {"name": "sft"}})
    names = ("manifest", "trained", "parent", "before", "stages", "rows")
    rest = dict.fromkeys(names, Path())
    for kind in EXPORTS:
        output = Path("results/sft/export", kind)
        with refused("unsupported-export", "sft"):
            export_model.main(Namespace(spec=spec, model=base, kind=kind, output=output, **rest))
    with refused("unsupported-export", "sft"):
        ask_reference.main(Namespace(spec=spec, model=base, data=[], output=Path("results/sft/export/r.parquet")))
    assert not Path("results/sft/export").exists()


def test_it_answers_in_a_chat_and_when_served_as_batch_inference_does(base):
    model, tokenizer = loading.for_inference(base, "fp32"), loading.tokenizer(base)
    ids = prompt_tokens(tokenizer, TURNS)
    wanted = scoring.generate(model, tokenizer, [ids], 6)[0]
    assert Partner(model, tokenizer, 0, 6).reply(TURNS, lambda text: None).text == wanted
    backend = in_process.load(base, 128)

    async def answer() -> str:
        found = backend.complete("it", ids, Options(6, 0, 1, None, None))
        return "".join([piece.text async for piece in found])

    assert asyncio.run(answer()) == wanted
    asyncio.run(backend.close())


@pytest.mark.parametrize("kind", ["image_url", "input_audio"])
def test_a_request_with_a_picture_or_a_sound_is_refused(kind):
    asked = {"model": "it", "messages": [{"role": "user", "content": [{"type": kind, kind: {"data": "x"}}]}]}
    with pytest.raises(Refused) as error:
        conversation(parse(json.dumps(asked).encode()), None)
    assert error.value.status == 400
    assert str(error.value) == f"part 1 of the content of message 1 of the type {kind} has no text"
