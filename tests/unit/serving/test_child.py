"""The command lines and requests of servers that are programs of their own. vLLM is installed nowhere here: its line is all there is."""

from pathlib import Path

import pytest

from posttrain.runtime.errors import UserError
from posttrain.serving import child
from posttrain.serving.backends import Options

GREEDY = Options(16, 0, 1, None, None)
SCHEMA = {"type": "object"}


def test_llama_servers_command_line(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    program = child.llama_server("/bin/llama-server", Path("m.gguf"), 512, ["<think>"])
    assert program.command == [
        *("/bin/llama-server", "--model", "m.gguf", "--ctx-size", "2048", "--parallel", "4"),
        *("--no-ui", "--no-slots", "--offline", "--threads", "3"),
    ]
    assert program.extra(GREEDY) == {"top_k": 0, "min_p": 0, "repeat_penalty": 1, "preserved_tokens": ["<think>"]}
    assert program.extra(GREEDY._replace(schema=SCHEMA))["json_schema"] == SCHEMA


def test_vllms_command_line():
    plain = child.vllm(Path("model"), "sft", 512, [2, 5], {}, 0)
    line = "vllm serve model --served-model-name sft --max-model-len 512 --generation-config vllm"
    assert plain.command == line.split()
    assert plain.key_variable == "VLLM_API_KEY"
    several = child.vllm(Path("base"), "base", 512, [2], {"a": Path("x/a"), "b": Path("x/b")}, 16)
    assert several.command[-6:] == "--enable-lora --max-lora-rank 16 --lora-modules a=x/a b=x/b".split()
    assert plain.extra(GREEDY) == {"stop_token_ids": [2, 5]}
    assert plain.extra(GREEDY._replace(schema=SCHEMA))["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("false", "the program ended with status 1; its output is in .*program"),
        ("kill -ILL $$", "the program was ended by SIGILL; it was built for another .* LLAMA_ARG_REPACK=0.*program"),
    ],
)
def test_a_program_that_ends_at_once_is_told_with_its_log(tmp_path, command, told):
    import asyncio

    async def start():
        program = child.Program("the program", ["sh", "-c", command + " #"], "NO_KEY", lambda options: {})
        backend = child.Child(program, 512, tmp_path / "logs/program.log")
        try:
            await backend.ready()
        finally:
            await backend.close()

    with pytest.raises(UserError, match=told) as error:
        asyncio.run(start())
    assert error.value.code == "server-failed"
