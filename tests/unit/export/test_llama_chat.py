"""A conversation with a GGUF file: llama.cpp's answers, a few tokens at a time, are those that it gives at once."""

import os
import signal

import pytest
import tiny_bases
from conftest import refused

from posttrain.data import tokens
from posttrain.export import gguf_file
from posttrain.export.llama_chat import STEP, LlamaPartner
from posttrain.export.llama_cpp import LlamaCpp

TURNS = [{"role": "user", "content": "the cat 한국 sat"}]
LONGER = [*TURNS, {"role": "assistant", "content": "on the mat"}, {"role": "user", "content": "and?"}]


@pytest.fixture
def folder(tmp_path, with_llama_cpp):
    """A tiny model and its GGUF file."""
    tiny_bases.save(tmp_path, tiny_bases.chatml(), hidden_size=64, head_dim=32)
    gguf_file.write(tmp_path, tmp_path, "F16")
    return tmp_path


@pytest.fixture
def program(folder):
    found = LlamaCpp(next(folder.glob("*.gguf")))
    yield found
    found.close()


@pytest.mark.slow
def test_a_conversation_with_a_gguf_file(folder, program):
    shown = []
    partner = LlamaPartner(program, folder, 0.0, 3 * STEP - 2)
    for turns in (TURNS, LONGER, TURNS):
        reply = partner.reply(turns, shown.append)
        prompt = tokens.prompt_tokens(partner.tokenizer, turns)
        (ids,) = program.generate([prompt], 3 * STEP - 2, partner.ends)
        assert reply.text == partner.tokenizer.decode([i for i in ids if i not in partner.ends])
    assert len(shown) >= 3

    def stop(text: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    stopped = partner.reply(TURNS, stop)  # Ctrl-C after the first tokens
    assert stopped.note == "stopped" and reply.text.startswith(stopped.text[:-1])
    assert partner.reply(TURNS, shown.append) == reply  # and llama.cpp goes on
    with refused("context-full"):
        partner.reply([{"role": "user", "content": "word " * 300}], shown.append)
