"""llama.cpp as a child process: what it refuses and how it ends is told in a sentence, and nothing of it is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_bases
import zoo
from transformers import AutoTokenizer

from posttrain.export import gguf_file, llama_cpp
from posttrain.export.llama_cpp import LlamaCpp
from posttrain.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("with_llama_cpp")
TOOL = {
    "type": "function",
    "function": {
        "name": "날씨",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_bases.save(folder, tiny_bases.chatml(), eos_token_id=2)
    return gguf_file.write(folder, folder, "F16")


def ended(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def test_its_answers_memory_and_end(file):
    program = LlamaCpp(file)
    assert (program.name, program.load_seconds > 0, program.version[:1]) == ("llama.cpp", True, "v")
    prompt = program.encode(["<|im_start|>the cat"])[0]
    written = program.generate([prompt, prompt], 6, [])
    assert written[0] == written[1] and len(written[0]) == 6
    assert program.generate([prompt], 6, written[0][2:3])[0] == written[0][: written[0].index(written[0][2]) + 1]
    assert program.score([(prompt, written[0])])[0].greedy == written[0]
    assert program.score([(prompt, written[0])]) == program.score([(prompt, written[0])])
    assert program.peak_memory() > 20e6
    child = program._child.pid
    program.close()
    assert ended(child)


def test_a_text_beyond_the_context_is_refused_and_the_next_is_not(file):
    with contextlib.closing(LlamaCpp(file)) as program:
        with pytest.raises(
            UserError, match=r"refuses it: a text of 301 tokens is longer than the model's context of 256"
        ):
            program.score([([5] * 300, [5])])
        assert len(program.score([([5] * 200, [5])])[0].log_probs) == 1
        assert len(program.generate([[5] * 254], 100, [])[0]) == 2  # to the end of the context


def test_a_child_that_is_killed(file):
    program = LlamaCpp(file)
    os.kill(program._child.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"llama\.cpp ended: exit status -9") as error:
        program.encode(["a"])
    assert error.value.code == "program-failed"


@pytest.mark.slow
def test_a_child_ends_with_its_parent(file):
    program = "import os, sys; from pathlib import Path; from posttrain.export.llama_cpp import LlamaCpp; "
    program += "print(LlamaCpp(Path(sys.argv[1]))._child.pid, flush=True); os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", program, file]
    child = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300).stdout)
    status = Path(f"/proc/{child}/stat")
    with contextlib.suppress(FileNotFoundError):  # it ends while it is read
        for _ in range(600):
            if status.read_text().split()[2] == "Z":
                return
            time.sleep(0.1)
    assert not status.exists()


@pytest.mark.parametrize("length", [60_000, pytest.param(100, marks=pytest.mark.slow)])
def test_a_file_that_is_cut_is_refused(file, length, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match=r"cut\.gguf: llama\.cpp (refuses it|ended)"):
        LlamaCpp(cut)


def test_without_node_a_sentence_says_what_to_install(file, monkeypatch, tmp_path):
    monkeypatch.setenv(llama_cpp.MODULES, str(tmp_path))
    with pytest.raises(UserError, match=r"node-llama-cpp is not there .*; install node 20 or newer") as error:
        LlamaCpp(file)
    assert error.value.code == "missing-package"


@pytest.mark.parametrize("name", ["qwen3", pytest.param("qwen2_5", marks=pytest.mark.slow)])
def test_tools_are_rendered_as_by_transformers(name, tmp_path):
    folder = zoo.build(name, tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    talk = [{"role": "system", "content": "도우미"}, {"role": "user", "content": '서울 날씨 "지금" <b>?'}]
    talks = [[*talk], [*talk, {"role": "assistant", "content": "잠시만"}, {"role": "user", "content": "응"}]]
    tools = [[TOOL], None]
    with contextlib.closing(LlamaCpp(gguf_file.write(folder, folder, "F16"))) as program:
        rendered = program.render(talks, tools)
    expected = [
        tokenizer.apply_chat_template(turns, tools=functions, tokenize=False, add_generation_prompt=True)
        for turns, functions in zip(talks, tools, strict=True)
    ]
    assert rendered == expected
    assert '"날씨"' in rendered[0] and "날씨" not in rendered[1].replace("서울 날씨", "")


def test_a_template_that_prints_today_prints_the_day_of_training(file, tmp_path):
    template = (
        "{% if strftime_now is defined %}{{ strftime_now('%d %B %Y') }}|{{ strftime_now(\"%Y\") }}|{% endif %}"
        "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    )
    tokens = tiny_bases.tokenizer(["<a>", "<b>"], template, eos_token="<b>", chat_template_date="2024-07-26")
    tiny_bases.save(tmp_path, tokens, eos_token_id=1)
    with contextlib.closing(LlamaCpp(gguf_file.write(tmp_path, tmp_path, "F16"))) as program:
        assert program.render([[{"role": "user", "content": "오늘"}]]) == ["26 July 2024|2024|오늘"]


@pytest.mark.slow
def test_a_template_that_refuses_a_conversation_is_told(tmp_path):
    tokens = tiny_bases.tokenizer(["<a>", "<b>"], "{{ raise_exception('no system') }}", eos_token="<b>")
    tiny_bases.save(tmp_path, tokens, eos_token_id=1)
    with contextlib.closing(LlamaCpp(gguf_file.write(tmp_path, tmp_path, "F16"))) as program:
        with pytest.raises(UserError, match="no system"):
            program.render([[{"role": "user", "content": "a"}]])
        assert program.encode(["a"])
