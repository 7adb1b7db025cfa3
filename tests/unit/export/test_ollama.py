"""The Modelfile of a GGUF export: Go renders its template to the very text that training rendered, or there is none."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import refused
from tiny_bases import GEMMA, chatml, gemma

from posttrain.data.conversations import render
from posttrain.export import ollama
from posttrain.models.chat_templates import shipped

MISTRAL = (  # the system prompt stands in the last user's message
    "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{%- else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for turn in turns %}"
    "{%- if turn.role == 'user' %}[INST] {% if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}"
    "{{ turn.content }}[/INST]{% else %} {{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_2 = (  # the system prompt stands in the first user's message
    "{%- if messages[0].role == 'system' %}{% set first = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}{% for turn in turns %}"
    "{%- if turn.role == 'user' %}{{ bos_token + '[INST] ' + (first if loop.first else '') + turn.content + ' [/INST]' }}"
    "{%- elif turn.role == 'assistant' %}{{ ' ' + turn.content + ' ' + eos_token }}"
    "{%- else %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
)
COUNTED = "{% for turn in messages %}{{ loop.index }} {{ turn.role }}: {{ turn.content }}\n{% endfor %}"
SHOUTED = "{% for turn in messages %}{{ turn.role }}: {{ turn.content | upper }}\n{% endfor %}"
DEFAULT = (  # SmolLM2's way: a system prompt of its own where there is none
    "{% for turn in messages %}{% if loop.first and turn.role != 'system' %}{{ '<|im_start|>system\nYou are Tiny.<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_template(template: str):
    tokens = chatml(bos_token="<|endoftext|>")
    tokens.chat_template = template
    return tokens


@pytest.mark.parametrize("template", [MISTRAL, LLAMA_2, DEFAULT, None])
def test_a_form_makes_the_text_that_the_template_makes(template):
    tokens = with_template(template)
    form = ollama.form(tokens)
    for codes in ("U", "SU", "UAUAUAU", "SUAUAU"):
        turns = [{"role": ollama.ROLES[code], "content": f"text {i} 한국어"} for i, code in enumerate(codes)]
        assert form.text(turns) == render(tokens, turns, generate=True)


def test_where_a_system_prompt_stands_is_seen():
    assert ollama.form(with_template(MISTRAL)).in_last == ("", "\n\n")
    assert ollama.form(with_template(LLAMA_2)).between["system", "user"] == "\n<</SYS>>\n\n"
    assert "You are Tiny." in ollama.form(with_template(DEFAULT)).between["start", "user"]
    refuses = GEMMA.replace(
        "{{ bos_token }}", "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    )
    assert ("start", "system") not in ollama.form(with_template(refuses)).between


@pytest.mark.parametrize("template", [COUNTED, SHOUTED, "{{ messages[-1].content }}"])
def test_a_template_that_depends_on_more_than_neighbours_is_refused(template):
    with refused("unfit-template", "Modelfile"):
        ollama.form(with_template(template))


def test_the_file_has_the_system_prompt_stops_and_greedy_decoding():
    tokens = chatml()
    lines = ollama.modelfile(tokens, "model.gguf", [0, tokens.eos_token_id], 'Say "hello".', 4096).splitlines()
    assert lines[1] == "FROM ./model.gguf"
    assert lines[lines.index('{{- end }}"""') + 1 :] == [
        'SYSTEM """Say "hello"."""',
        'PARAMETER stop "<|endoftext|>"',
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
        "PARAMETER num_ctx 4096",
    ]
    assert "num_ctx 8192" in ollama.modelfile(tokens, "model.gguf", [0], None, 131_072)


@pytest.mark.parametrize("system", ['a """ b', "a\u00a0b"])
def test_a_system_prompt_that_a_modelfile_cannot_hold_is_refused(system):
    with refused("unfit-template"):
        ollama.modelfile(chatml(), "model.gguf", [0], system)


def adding_bos():
    """Gemma's tokenizer, with the BOS that it puts before every text."""
    from tokenizers.processors import TemplateProcessing

    tokens = gemma()
    bos = (tokens.bos_token, tokens.bos_token_id)
    tokens._tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return tokens


def test_the_bos_that_llama_cpp_adds_is_not_in_the_template_as_well():
    assert "<bos>" in ollama.modelfile(gemma(), "model.gguf", [0])
    assert "<bos>" not in ollama.modelfile(adding_bos(), "model.gguf", [0])
    tokens = adding_bos()
    tokens.chat_template = GEMMA.replace("{{ bos_token }}", "")
    with refused("unfit-template"):
        ollama.modelfile(tokens, "model.gguf", [0])


def test_what_ollama_cannot_do_is_told_in_the_file():
    trims = GEMMA.replace("message['content']", "message['content'] | trim")
    assert "white space" in ollama.modelfile(with_template(trims), "model.gguf", [0])
    assert "white space" not in ollama.modelfile(chatml(), "model.gguf", [0])


def test_characters_that_ollama_drops_are_escaped_in_the_template():
    odd = "{% for turn in messages %}{{ '\u3000\x7fé' + turn.role + '\u00a0\"' + turn.content }}{% endfor %}"
    text = ollama.form(with_template(odd)).go()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert r"\U00003000\U0000007féuser\U000000a0\"" in text and '"""' not in text


def test_a_template_that_does_not_fit_leaves_no_file_and_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(ollama, "say", said.append)
    export = tmp_path / "export"
    for folder in (tmp_path, export):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text('{"max_position_embeddings": 256}')
    (export / "model.gguf").touch()
    with_template(COUNTED).save_pretrained(tmp_path)
    ollama.write(export, tmp_path, None)
    assert said[0].startswith("no Modelfile for Ollama: Modelfile: the chat template cannot") and len(said) == 1
    chatml().save_pretrained(tmp_path)
    ollama.write(export, tmp_path, "S")
    assert "PARAMETER num_ctx 256" in (export / "Modelfile").read_text() and len(said) == 1


# ---- with Go itself


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    """A function of requests, each a template and messages, to the texts that Go makes of them."""
    if shutil.which("go") is None:
        pytest.skip("Go is not here (Debian: apt install golang-go)")
    program = tmp_path_factory.mktemp("go") / "ollama"
    source = Path(__file__).with_name("ollama.go")
    subprocess.run(
        ["go", "build", "-o", program, source],
        check=True,
        env=os.environ | {"GO111MODULE": "off", "HOME": str(program.parent)},
    )

    def texts(requests: list[dict]) -> list[str]:
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return texts


@pytest.mark.slow
@pytest.mark.parametrize("name", [*shipped(), "mistral", "llama_2", "default"])
def test_go_renders_what_the_template_renders(go, name):
    own = {"mistral": MISTRAL, "llama_2": LLAMA_2, "default": DEFAULT}
    tokens = with_template(own.get(name) or shipped()[name].read_text())
    if re.match("idefics|llava|smolvlm", name):
        with refused("unfit-template"):  # of images: contents are lists
            ollama.form(tokens)
        return
    template = re.search('TEMPLATE """(.*?)"""', ollama.modelfile(tokens, "m.gguf", [0]), re.DOTALL)[1]
    asked, expected = [], []
    for codes in (*ollama.PLAIN, *ollama.WITH_SYSTEM):
        for shift in range(len(ollama.CONTENTS)):
            contents = [ollama.CONTENTS[(i + shift) % len(ollama.CONTENTS)] for i in range(len(codes))]
            turns = [{"role": ollama.ROLES[code], "content": text} for code, text in zip(codes, contents, strict=True)]
            text = ollama._optional(tokens, codes, contents)
            if text is not None:
                asked.append({"template": template, "messages": turns})
                expected.append(text)
    assert go(asked) == expected and len(asked) >= 15


@pytest.mark.slow
def test_go_refuses_nothing_that_clients_send(go):
    """Two users in turn, a late system prompt, an answer begun, a tool's result: rendered as far as the template knows it."""
    template = ollama.form(chatml()).go()
    conversations = (
        ["user", "user"], ["user", "assistant", "system", "user"], ["user", "assistant"], ["system"], ["user", "tool"], [],
    )  # fmt: skip
    asked = [
        {"template": template, "messages": [{"role": role, "content": role} for role in roles]}
        for roles in conversations
    ]
    texts = go(asked)
    assert texts[0].count("user\n\nuser") == 1 and texts[0].endswith("<|im_start|>assistant\n")
    assert texts[2].endswith("<|im_start|>assistant\nassistant") and texts[5] == ""
