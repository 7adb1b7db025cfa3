"""Chat templates of a base: TRL's by name, defaults at the head, what a template reads, and the token that ends a turn."""

import json
from pathlib import Path

import pytest
import tiny_bases
from conftest import refused
from transformers.utils import chat_template_utils

from posttrain.models import chat_templates
from posttrain.workflow.project import Project

TURNS = [
    {"role": "user", "content": "What is half of 48?"},
    {"role": "assistant", "content": "24"},
    {"role": "user", "content": "And of 24?"},
    {"role": "assistant", "content": "12"},
]
SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}


@pytest.fixture(autouse=True)
def fresh_templates():
    """No compiled template of an earlier test, whose date may be pinned."""
    chat_template_utils._compile_jinja_template.cache_clear()


def rendered(template: str, **kwargs) -> str:
    [text], _ = chat_template_utils.render_jinja_template(
        conversations=[TURNS], chat_template=template, **(SPECIAL | kwargs)
    )
    return text


TEXT = sorted(name for name in chat_templates.shipped() if not name.startswith("llava"))  # which takes parts only


@pytest.mark.parametrize("name", TEXT)
def test_a_head_that_says_nothing_new_changes_no_text_of_any_template(name):
    template = chat_templates.shipped()[name].read_text()
    headed = chat_templates.with_defaults(template, {"a_name_of_nobody": {"a": [1, None, True, "it's {% x %}\n"]}})
    assert rendered(headed) == rendered(template)
    assert chat_templates.variables(template, name)


@pytest.mark.parametrize(
    "name", ["qwen3", "qwen3_5_think", "glm4moe", "nemotron_3_nano", "deepseekv3", "gptoss", "lfm2"]
)
def test_a_default_at_the_head_is_what_the_argument_would_be(name):
    template = chat_templates.shipped()[name].read_text()
    variables = chat_templates.variables(template, name)
    wanted = {"enable_thinking": False, "thinking": True, "reasoning_effort": "high", "keep_past_thinking": True}
    for key in sorted(wanted.keys() & variables):
        headed = chat_templates.with_defaults(template, {key: wanted[key]})
        for generate in (False, True):
            options = {"add_generation_prompt": generate}
            assert rendered(headed, **options) == rendered(template, **options | {key: wanted[key]}), key
            other = {key: "low" if key == "reasoning_effort" else not wanted[key]}
            assert rendered(headed, **options | other) == rendered(template, **options | other)  # an argument wins


def test_qwen3s_thinking_is_off_by_the_head():
    template = chat_templates.shipped()["qwen3"].read_text()
    headed = chat_templates.with_defaults(template, {"enable_thinking": False})
    assert rendered(headed, add_generation_prompt=True).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert rendered(template, add_generation_prompt=True).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("start", ["", "\n", "\n\n", "  ", " \n "])
def test_white_space_at_the_templates_beginning_stays(start):
    template = start + "{% if messages %}{{ level }}{% endif %}"
    assert rendered(chat_templates.with_defaults(template, {"level": 1})) == rendered(template, level=1)


def test_values_of_every_kind_reach_the_template():
    value = {"n": -1.5e-7, "b": [True, None], "s": 'it\'s "{%- x -%}" }} #} \\ \n é 😀', "z": 2**40}
    headed = chat_templates.with_defaults("{{ settings | tojson }}", {"settings": value})
    assert json.loads(rendered(headed)) == value


def test_a_macro_sees_the_default():
    template = "{%- macro show() %}{{ level }}{% endmacro %}{{ show() }}{% for m in messages %}{{ level }}{% endfor %}"
    assert rendered(chat_templates.with_defaults(template, {"level": 3})) == "33333"


def test_a_variable_that_a_template_always_sets_is_not_read():
    template = "{% set a = 1 %}{{ a }}{% if b is not defined %}{% set b = 2 %}{% endif %}{{ b }}{{ messages }}"
    assert chat_templates.variables(template, "t") == {"b", "messages"}


def test_what_is_not_jinja_is_told_with_its_line():
    with refused("unusable-chat-template"):
        chat_templates.parsed("{{ a }}\n{% for x %}", "base b: t")


def test_a_template_that_is_nested_too_deeply_is_told():
    with refused("unusable-chat-template"):
        chat_templates.parsed("{{ " + "(" * 100_000, "base b: t")


# The tokens that close an answer, by the published models' templates and generation configurations.
DEEPSEEK = "<\uff5cend\u2581of\u2581sentence\uff5c>"
ENDS = {
    "qwen3": ("<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
    "gemma3": ("<end_of_turn>", ["<start_of_turn>", "<end_of_turn>"]),
    "phi3": ("<|end|>", ["<|user|>", "<|end|>", "<|assistant|>"]),
    "llama3": ("<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "deepseekv3": (DEEPSEEK, ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", DEEPSEEK]),
    "gptoss": ("<|return|>", ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"]),
    "lfm2": ("<|im_end|>", ["<|im_start|>", "<|im_end|>"]),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_token_that_ends_a_turn_is_the_published_one(name):
    end, tokens = ENDS[name]
    tokenizer = tiny_bases.tokenizer(["<eos>", "<bos>", *tokens], None, eos_token="<eos>", bos_token="<bos>")
    text = chat_templates.probe(tokenizer, chat_templates.shipped()[name].read_text())
    assert tokenizer.convert_ids_to_tokens(chat_templates.turn_end(tokenizer, text, {0})) == end


def test_of_several_tokens_at_the_end_a_known_stop_is_meant():
    tokenizer = tiny_bases.tokenizer(["<|END_RESPONSE|>", "<|END_OF_TURN|>"], None, eos_token="<|END_OF_TURN|>")
    text = "…Answer<|END_RESPONSE|><|END_OF_TURN|>\n"
    assert chat_templates.turn_end(tokenizer, text, {1}) == 1
    assert chat_templates.turn_end(tokenizer, text, set()) == 0
    assert chat_templates.turn_end(tokenizer, "…Answer and more<|END_OF_TURN|>", {1}) is None
    assert chat_templates.turn_end(tokenizer, "…Answer", {1}) is None


def test_what_is_no_token_of_the_tokenizer_is_found():
    tokenizer = tiny_bases.tokenizer(["<|im_end|>"], None, eos_token="<|im_end|>")
    assert chat_templates.in_pieces(tokenizer, "<|im_start|>user\n2 < 3<|im_end|>\n<|im_start|>") == ["<|im_start|>"]


# ---- the configuration


def test_a_name_that_trl_does_not_ship_is_told_with_the_nearest(configuration):
    with refused("missing-file", "bases.base.chat_template"):
        Project(configuration({"bases.base.chat_template": "qwen33"}))
    with refused("missing-file"):
        Project(configuration({"bases.base.chat_template": "templates/mine.jinja"}))


def test_the_spec_has_a_templates_hash_and_only_what_differs_from_the_defaults(configuration, in_folder):
    plain = json.loads(Project(configuration()).spec("bases/base"))
    assert not plain.keys() & {*chat_templates.KEYS}
    keys = {
        "chat_template": None,
        "chat_template_kwargs": {},
        "new_tokens": [],
        "date": "2025-01-01",
        "eos_token": None,
    }
    same = Project(configuration({f"bases.base.{key}": value for key, value in keys.items()}))
    assert json.loads(same.spec("bases/base")) == plain
    Path("mine.jinja").write_text("one")
    changes = {"bases.base.chat_template": "mine.jinja", "bases.base.date": "2026-02-01"}
    project = Project(configuration(changes))
    first = json.loads(project.spec("bases/base"))
    assert first["chat_template"]["name"] == "mine.jinja" and first["date"] == "2026-02-01"
    assert project.inputs.template("base") == ["mine.jinja"]
    Path("mine.jinja").write_text("two")
    assert json.loads(Project(configuration(changes)).spec("bases/base")) != first
    shipped = Project(configuration({"bases.base.chat_template": "qwen3"}))
    assert (
        shipped.inputs.template("base") == []
        and len(json.loads(shipped.spec("bases/base"))["chat_template"]["sha256"]) == 64
    )


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("new_tokens", ["<a>", "<a>"], "invalid-value"),
        ("new_tokens", ["<a>", " "], "invalid-value"),
        ("date", "2025-02-30", "invalid-value"),
        ("date", "20250201", "invalid-value"),
        ("pad_token", "", "invalid-value"),
        ("eos_token", "", "invalid-value"),
        ("chat_template_kwargs", {"messages": 1}, "conflicting-keys"),
        ("chat_template_kwargs", {"bos_token": "x"}, "conflicting-keys"),
        ("chat_template_kwargs", {"a b": 1}, "invalid-value"),
    ],
)
def test_value_of_a_key_that_cannot_be_meant_is_refused(configuration, key, value, code):
    with refused(code, f"bases.base.{key}"):
        Project(configuration({f"bases.base.{key}": value}))
