"""A base's folder after `make_base`: its template, special tokens, stops and date, in every file that says them."""

import importlib.util
from pathlib import Path

import pytest
import tiny_bases
from transformers import AutoModelForCausalLM

from posttrain.models import base_folder, loading
from posttrain.models.chat_templates import shipped
from posttrain.runtime import atomic, hashes

pytestmark = pytest.mark.usefixtures("in_folder")
DATED = "{{ strftime_now('%d %b %Y') }}" + tiny_bases.CHATML


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What is told at the terminal."""
    lines = []
    monkeypatch.setattr(base_folder, "say", lines.append)
    return lines


def edit(file: str, **changes) -> None:
    """Change keys of a JSON file in `base`; `...` takes one out."""
    values = atomic.read_json(Path("base", file)) | changes
    atomic.write_json(Path("base", file), {key: value for key, value in values.items() if value is not ...})


def ids(folder: Path) -> list:
    """eos of config.json; bos, eos and pad of generation_config.json."""
    generation = atomic.read_json(folder / "generation_config.json")
    return [atomic.read_json(folder / "config.json")["eos_token_id"]] + [
        generation[f"{key}_token_id"] for key in ("bos", "eos", "pad")
    ]


def test_the_users_own_files_stay_as_they_are():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    before = hashes.folder_hashes(Path("base"))
    folder = tiny_bases.build(
        chat_template={"name": "qwen3"}, chat_template_kwargs={"enable_thinking": False}, pad_token="<|im_start|>"
    )
    assert hashes.folder_hashes(Path("base")) == before
    assert hashes.sha256(folder / "chat_template.jinja") != before["chat_template.jinja"]
    assert (folder / "model.safetensors").samefile("base/model.safetensors")  # not copied


def test_a_turn_end_that_is_not_eos_ends_generation():
    tiny_bases.save(Path("base"), tiny_bases.gemma(), "gemma3_text", eos_token_id=1, bos_token_id=2)
    Path("base/generation_config.json").unlink()
    assert ids(tiny_bases.build()) == [1, 2, [1, 4], 0]
    model = AutoModelForCausalLM.from_pretrained("results/bases/b/model")
    assert model.generation_config.eos_token_id == [1, 4]


def test_every_stop_of_the_models_files_is_kept_and_eos_comes_first():
    special = ["<a>", "<b>", "<c>", "<|im_start|>", "<|im_end|>"]
    tiny_bases.save(Path("base"), tiny_bases.tokenizer(special, eos_token="<c>"), eos_token_id=[0, 2])
    edit("generation_config.json", eos_token_id=[1, 2, 9999], temperature=0.6, do_sample=True, _from_model_config=...)
    folder = tiny_bases.build()
    assert ids(folder) == [2, None, [2, 0, 1, 4], None]
    assert atomic.read_json(folder / "generation_config.json")["temperature"] == 0.6


def test_an_eos_that_is_a_piece_of_a_word_is_the_default_of_a_class(said):
    tiny_bases.save(Path("base"), tiny_bases.chatml(), eos_token_id=40, bos_token_id=1)
    assert atomic.read_json(Path("base/generation_config.json"))["_from_model_config"]
    folder = tiny_bases.build()
    assert ids(folder) == [2, None, [2], 0]
    assert "_from_model_config" not in atomic.read_json(folder / "generation_config.json")
    assert len(said) == 1 and "it is not a special token of the tokenizer; texts end with <|im_end|>" in said[0]


def test_tokens_by_key_are_in_every_file():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    atomic.write_json(
        Path("base/special_tokens_map.json"), {"eos_token": {"content": "<|im_end|>"}}
    )  # of older versions
    folder = tiny_bases.build(eos_token="<|endoftext|>", pad_token="<|im_start|>")
    assert ids(folder) == [0, None, [0, 2], 1]
    tokenizer = loading.tokenizer(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|im_start|>")


def test_a_pad_token_that_only_the_models_files_name_is_the_tokenizers():
    tiny_bases.save(Path("base"), tiny_bases.chatml(), pad_token_id=0)
    edit("tokenizer_config.json", pad_token=...)
    assert loading.tokenizer(Path("base")).pad_token == "<|im_end|>"
    assert loading.tokenizer(tiny_bases.build()).pad_token == "<|endoftext|>"


def test_a_tokenizer_without_eos_takes_the_models_or_is_refused():
    tiny_bases.save(Path("base"), tiny_bases.chatml(), eos_token_id=2)
    edit("tokenizer_config.json", eos_token=...)
    assert loading.tokenizer(tiny_bases.build()).eos_token == "<|im_end|>"
    for file in ("config.json", "generation_config.json"):
        edit(file, eos_token_id=None)
    atomic.shutil.rmtree("results")
    assert (
        "its tokenizer has no eos_token, so that a model cannot learn to stop; write eos_token:" in tiny_bases.refusal()
    )


@pytest.mark.parametrize("key", ["eos_token", "pad_token"])
def test_a_token_that_the_tokenizer_does_not_have_is_refused_with_the_nearest(key):
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    said = tiny_bases.refusal(**{key: "<|imend|>"})
    assert said.startswith(f"base b: {key}: '<|imend|>' is not a token of its tokenizer; did you mean '<|im_end|>'?")


def test_a_template_by_trls_name_is_in_force():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    folder = tiny_bases.build(chat_template={"name": "qwen3"})
    assert loading.tokenizer(folder).chat_template == shipped()["qwen3"].read_text()
    folder = tiny_bases.build(chat_template={"name": "qwen3"}, chat_template_kwargs={"enable_thinking": False})
    turns = [{"role": "user", "content": "Question"}]
    text = loading.tokenizer(folder).apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text.endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_template_of_ones_own_replaces_all_and_names_what_is_no_token(said):
    named = {"default": tiny_bases.CHATML, "tool_use": "{{ tools }}"}
    tiny_bases.save(Path("base"), tiny_bases.tokenizer(["<e>", "<|im_end|>"], named, eos_token="<e>"), eos_token_id=0)
    Path("mine.jinja").write_text(tiny_bases.CHATML)
    folder = tiny_bases.build(chat_template={"name": "mine.jinja"})
    assert loading.tokenizer(folder).chat_template == tiny_bases.CHATML
    assert ids(folder)[2] == [0, 1]
    assert said[0] == "b: chat_template replaces all templates of the base, also those by the names tool_use"
    assert said[1].startswith("b: WARNING: the chat template writes <|im_start|>, which the tokenizer does not know")


def test_arguments_reach_every_named_template():
    named = {"default": "{{ level }}" + tiny_bases.CHATML, "tool_use": "{{ messages }}{{ level }}"}
    tiny_bases.save(Path("base"), tiny_bases.tokenizer(["<e>"], named, eos_token="<e>"))
    templates = loading.tokenizer(tiny_bases.build(chat_template_kwargs={"level": 7})).chat_template
    assert templates.keys() == named.keys()
    assert all(
        text == "{%- if level is not defined %}{%- set level = 7 %}{%- endif %}\n" + named[key]
        for key, text in templates.items()
    )


@pytest.mark.parametrize(
    ("text", "keys", "sentence"),
    [
        ("{% if %}", {}, "base b: chat_template: mine.jinja is not a Jinja template: line 1:"),
        (
            "{{ raise_exception('no') }}",
            {},
            "base b: chat_template: mine.jinja: it fails on a conversation of two turns: no",
        ),
        (
            "{{ messages }}{{ a }}",
            {"b": 1, "c": 2},
            "chat_template_kwargs: the chat template never reads b, c; its variables are a",
        ),
        ("{{ messages }}", {"b": 1}, "the chat template never reads b; it has no variables of its own"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(text, keys, sentence):
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    Path("mine.jinja").write_text(text)
    assert sentence in tiny_bases.refusal(chat_template={"name": "mine.jinja"}, chat_template_kwargs=keys)


def test_a_template_of_the_bases_own_that_wants_other_conversations_is_told(said):
    tiny_bases.save(
        Path("base"),
        tiny_bases.tokenizer(["<e>"], "{{ raise_exception('tools only') }}", eos_token="<e>"),
        eos_token_id=0,
    )
    tiny_bases.build()
    assert said == ["b: its chat template was not tried: it fails on a conversation of two turns: tools only"]


def test_a_date_that_a_template_prints_is_pinned():
    tiny_bases.save(Path("base"), tiny_bases.tokenizer(["<e>"], DATED, eos_token="<e>"))
    for key, date in (({}, "2025-01-01"), ({"date": "2026-02-03"}, "2026-02-03")):
        folder = tiny_bases.build(**key)
        assert atomic.read_json(folder / "tokenizer_config.json")["chat_template_date"] == date
        assert loading.tokenizer(folder).init_kwargs["chat_template_date"] == date
    loading.tokenizer(folder).save_pretrained("run")
    assert atomic.read_json(Path("run/tokenizer_config.json"))["chat_template_date"] == "2026-02-03"


def test_a_date_that_no_template_prints_is_refused():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    assert "date: its chat template does not print today's date" in tiny_bases.refusal(date="2026-02-03")
    assert "chat_template_date" not in atomic.read_json(tiny_bases.build() / "tokenizer_config.json")


def test_a_base_without_a_template_has_its_stops():
    tokens = tiny_bases.tokenizer(["<e>"], None, eos_token="<e>")
    tiny_bases.save(Path("base"), tokens, "gpt2", n_embd=32, n_head=2, n_layer=2, vocab_size=300)
    folder = tiny_bases.build()
    assert ids(folder) == [0, None, [0], None] and not (folder / "chat_template.jinja").exists()


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="then it can be loaded")
def test_a_tokenizer_that_needs_sentencepiece_says_so():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    Path("base/tokenizer.json").rename("base/tokenizer.model")
    config = atomic.read_json(Path("base/tokenizer_config.json"))
    atomic.write_json(Path("base/tokenizer_config.json"), config | {"tokenizer_class": "LlamaTokenizer"})
    said = tiny_bases.refusal()
    assert said.startswith("base b: its tokenizer is only in tokenizer.model") and "`pip install sentencepiece`" in said


def test_a_size_that_a_nested_configuration_leaves_out_is_its_classs():
    Path("base").mkdir()
    atomic.write_json(Path("base/config.json"), {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})
    assert base_folder.embeddings(Path("base")) == 262_208


def test_a_tokenizer_that_cannot_be_loaded_is_refused():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    Path("base/tokenizer.json").write_text("{}")
    assert "base b: its tokenizer cannot be loaded" in tiny_bases.refusal()
