"""Every shipped chat template for text, TRL's and ours: what is trained is what the assistant says, thinks and calls, and its turn's end.

The expected texts are written by hand from the templates; what stands before an answer is what transformers renders to ask for it.
"""

# ruff: noqa: RUF001  (DeepSeek writes its tokens with these characters)

import importlib.util
import json
import re
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import refused
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from posttrain.data import conversations, thoughts
from posttrain.data.conversations import DATE
from posttrain.data.tokens import IGNORED, preference_tokens, prompt_tokens, sft_tokens, stops, tokenise, turn_end
from posttrain.metrics import tool_calls
from posttrain.models.chat_templates import shipped
from posttrain.runtime.errors import UserError

FOLDER = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
# Of models that see images or that write by diffusion; not trained here.
OTHERS = r"(_vl|idefics3|llava_next|smolvlm|diffusion_gemma)(_training)?$"
SPECIAL = re.compile(
    r"<\|[\w▁]+\|?>|<\w+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>|</?think>|</?tool_call>|\[gMASK\]|<sop>"
)


class Family(NamedTuple):
    """The texts that are trained under a template, of an answer {a}, and of a thought {t} and an answer."""

    said: str
    thought: str | None = None
    """None where the template drops reasoning_content"""
    call: str | None = None
    """of the call weather(city="Seoul"); None where the template drops or refuses it"""
    rewrites: bool = False
    """whether each turn has a training row of its own"""
    after_tool: str | None = None
    """an answer after a tool's, where it is another"""
    stops: tuple[str, ...] = ()


IM = "{a}<|im_end|>"
JSON_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Seoul"}}\n</tool_call><|im_end|>'
XML_CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nSeoul\n</parameter>\n</function>\n</tool_call>"
LFM_CALL = "<|tool_call_start|>[weather(city='Seoul')]<|tool_call_end|><|im_end|>"
GEMMA_CALL = '<|tool_call>call:weather{city:<|"|>Seoul<|"|>}<tool_call|><|tool_response>'
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Seoul"}}<|eot_id|>'
MUSE_CALL = (
    ' to=weather<|message|><atem:function_calls>\n<atem:invoke name="weather">\n<atem:parameter name="city">Seoul</atem:parameter>\n'
    "</atem:invoke>\n</atem:function_calls><|eot|>"
)
DEEPSEEK = ("\n</think>\n\n{a}<｜end▁of▁sentence｜>", "{t}\n</think>\n\n{a}<｜end▁of▁sentence｜>")
DEEPSEEK_CALL = (
    '\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Seoul"}\n```'
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
)
GPT_OSS = "<|channel|>analysis<|message|>{t}<|end|><|start|>assistant<|channel|>final<|message|>{a}<|return|>"
MUSE = " to=self<|message|>{t}<|eom|><|start|>assistant to=user<|message|>{a}<|eot|>"
NEMOTRON = ("</think>{a}<|im_end|>", "{t}\n</think>\n{a}<|im_end|>", f"</think>\n{XML_CALL}\n<|im_end|>", True)
NEMOTRON_TIGHT = NEMOTRON[0], "{t}</think>{a}<|im_end|>", *NEMOTRON[2:]
EMPTY = "<think>\n\n</think>\n\n"
QWEN3_5 = ("\n</think>\n\n{a}<|im_end|>", "{t}\n</think>\n\n{a}<|im_end|>", f"\n</think>\n\n{XML_CALL}<|im_end|>")
GEMMA4 = ("{a}<turn|>", None, GEMMA_CALL)
REFUSED = "refused"

FAMILIES = {
    "cohere": Family("{a}<|END_OF_TURN_TOKEN|>"),
    "cohere2": Family("{a}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "deepseek_r1_distill": Family(*DEEPSEEK, rewrites=True),
    "deepseekv3": Family(*DEEPSEEK, DEEPSEEK_CALL, rewrites=True, after_tool="{a}<｜end▁of▁sentence｜>"),
    "gemma": Family("{a}<end_of_turn>"),
    "gemma3": Family("{a}<end_of_turn>"),
    "gemma4": Family(*GEMMA4),
    "gemma4_v2": Family("{a}<turn|>", None, GEMMA_CALL.replace("<|tool_response>", "<turn|>")),
    "gemma4_v3": Family(*GEMMA4),
    "gemma4_v4": Family(*GEMMA4),
    "gemma4_v5": Family("{a}<turn|>", "<|channel>thought\n{t}\n<channel|>{a}<turn|>", GEMMA_CALL),
    "glm4moe": Family(
        "\n<think></think>\n{a}<|user|>",
        "\n<think>{t}</think>\n{a}<|user|>",
        "\n<think></think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Seoul</arg_value>\n</tool_call><|observation|>",
        stops=("<|user|>", "<|observation|>"),
    ),
    "gptoss": Family(
        "<|channel|>final<|message|>{a}<|return|>",
        GPT_OSS,
        ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Seoul"}<|call|>',
        rewrites=True,
    ),
    "hermes": Family(IM, None, JSON_CALL),
    "lfm2": Family(IM),
    "lfm2_2_5": Family(IM, "<think>{t}</think>{a}<|im_end|>", LFM_CALL),
    "lfm2_2_5_v2": Family(IM, "<think>{t}</think>{a}<|im_end|>", LFM_CALL),
    "lfm2_v2": Family(IM, None, LFM_CALL),
    "llama3": Family("{a}<|eot_id|>"),
    "llama3_1": Family("{a}<|eot_id|>", None, LLAMA_CALL),
    "llama3_2": Family("{a}<|eot_id|>", None, LLAMA_CALL),
    "muse_glimmer": Family(" to=user<|message|>{a}<|eot|>", MUSE, MUSE_CALL),
    "nemotron_3_5_lightning": Family(*NEMOTRON_TIGHT),
    "nemotron_3_nano": Family(*NEMOTRON),
    "nemotron_3_super": Family(*NEMOTRON),
    "nemotron_3_ultra": Family(*NEMOTRON_TIGHT),
    "phi3": Family("{a}<|end|>", rewrites=True),
    "phi3_5": Family("{a}<|end|>", rewrites=True),
    "qwen2_5": Family(IM, None, JSON_CALL),
    "qwen3": Family(EMPTY + IM, "<think>\n{t}\n</think>\n\n{a}<|im_end|>", EMPTY + JSON_CALL, rewrites=True),
    "qwen3_5_nothink": Family(IM, REFUSED, f"{XML_CALL}<|im_end|>", rewrites=True),
    "qwen3_5_think": Family(*QWEN3_5, rewrites=True),
    "qwen3_6": Family(*QWEN3_5, rewrites=True),
    "qwen3_8": Family(*QWEN3_5),
    "qwen3_instruct_2507": Family(IM, None, JSON_CALL),
}
# Templates that raise an error of their own: for a system message, for tools. And those that drop calls without a word.
NO_SYSTEM = {"gemma"}
NO_TOOLS = {"cohere", "cohere2", "gemma", "gemma3"}
DROP_TOOLS = {"deepseek_r1_distill", "lfm2", "llama3", "phi3", "phi3_5"}
TOOLS = json.dumps([
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "its name"}}},
        },
    }
])  # fmt: skip
CALL = [{"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Seoul"}'}}]


def load(template: str, special: str = "") -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes with the template and its special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    tokenizer.add_special_tokens({"extra_special_tokens": sorted(set(SPECIAL.findall(template + special)))})
    tokenizer.chat_template = template or None
    return tokenizer


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A template's tokenizer, the stop tokens of its models, and what is trained under it."""
    known = FAMILIES[request.param]
    tokenizer = load(shipped()[request.param].read_text())
    texts = [text for text in (known.said, known.call) if text]
    ends = known.stops or [SPECIAL.findall(text)[-1] for text in texts]
    return request.param, tokenizer, tokenizer.convert_tokens_to_ids(list(ends)), known


def turns(*contents: str, system: str = "", thoughts: bool = False) -> list[dict]:
    said = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    if thoughts:
        said = [
            turn | {"reasoning_content": f"Of {turn['content']}."} if i % 2 else turn for i, turn in enumerate(said)
        ]
    return [{"role": "system", "content": system}, *said] if system else said


def segments(tokenizer, ids: list[int], labels: list[int]) -> list[tuple[str, str]]:
    """Each trained piece of text, with all the text before it."""
    found, at = [], 0
    for is_trained, group in groupby(labels, key=lambda label: label != IGNORED):
        end = at + len(list(group))
        if is_trained:
            found.append((tokenizer.decode(ids[:at]), tokenizer.decode(ids[at:end])))
            assert labels[at:end] == ids[at:end]
        at = end
    return found


def trained(tokenizer, ends, messages: list[dict], tools: str | None = None, **settings) -> list[list[tuple[str, str]]]:
    rows = sft_tokens(tokenizer, [{"messages": messages, "tools": tools}], ends, **settings)
    return [segments(tokenizer, *row) for row in rows]


def asked(tokenizer, messages: list[dict], tools: str | None = None) -> str:
    """What transformers renders to ask for the next turn."""
    known = json.loads(tools) if tools else None
    return tokenizer.apply_chat_template(messages, tools=known, tokenize=False, add_generation_prompt=True)


def as_objects(messages: list[dict], name: str) -> list[dict]:
    """Calls as the template takes them: with arguments as objects, as text for DeepSeek's."""
    calls = [call | {"function": call["function"] | {"arguments": {"city": "Seoul"}}} for call in CALL]
    calls = CALL if name == "deepseekv3" else calls
    return [turn | {"tool_calls": calls} if "tool_calls" in turn else turn for turn in messages]


def test_each_template_for_text_has_its_texts_here():
    for_text = {name for name in shipped() if not re.search(OTHERS, name)}
    assert {name for name in for_text if not name.endswith("_training")} == FAMILIES.keys()


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("answers", [1, 3])
def test_all_that_the_assistant_says_is_trained_after_what_asks_for_it(family, answers, system):
    name, tokenizer, ends, known = family
    messages = turns(*["Q1", "A1", "Q2", "A2", "Q3", "A3"][: 2 * answers], system=system)
    if system and name in NO_SYSTEM:
        with pytest.raises(
            UserError, match="System role not supported; give the base another one with `chat_template:`"
        ):
            trained(tokenizer, ends, messages)
        return
    rows = trained(tokenizer, ends, messages)
    at = [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
    expected = [(asked(tokenizer, messages[:i]), known.said.format(a=messages[i]["content"])) for i in at]
    assert rows == ([[part] for part in expected] if known.rewrites else [expected])
    assert trained(tokenizer, ends, messages, assistant_turns="last") == [expected[-1:]]


def test_thoughts_are_trained_where_the_template_prints_them_and_masked_on_request(family):
    _, tokenizer, ends, known = family
    messages = turns("Q1", "A1", "Q2", "A2", thoughts=True)
    if known.thought == REFUSED:
        with pytest.raises(UserError, match=r"the rows have thoughts; .* such as {enable_thinking: true}"):
            trained(tokenizer, ends, messages)
        return
    text = known.thought or known.said
    expected = [text.format(a=a, t=f"Of {a}.") for a in ("A1", "A2")]
    rows = trained(tokenizer, ends, messages)
    assert [said for row in rows for _, said in row] == expected
    assert [before for row in rows for before, _ in row] == [asked(tokenizer, messages[:i]) for i in (1, 3)]
    silent = trained(tokenizer, ends, messages, train_thoughts=False)
    said = ["".join(said for _, said in row) for row in silent]
    assert all("Of A" not in text for text in said) and "".join(said).count("A1") == 1
    ids = [[ids for ids, _ in sft_tokens(tokenizer, [{"messages": messages}], ends, train_thoughts=t)] for t in (0, 1)]
    assert ids[0] == ids[1]  # what is not trained is still read


SILENT = [
    ("<think>\nHm.\n</think>\n\nA <think> tag </think>.", "A <think> tag </think>."),
    ("  <think></think>A", "A"),
    ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant", "<|start|>assistant"),
    ("[THINK]Hm.[/THINK]A", "A"),
    ("No thoughts.", "No thoughts."),
    ("A word, <think>Hm.</think>", "A word, <think>Hm.</think>"),
    ("<think>never closed", "<think>never closed"),
]


@pytest.mark.parametrize(("answer", "said"), SILENT)
def test_only_thoughts_before_an_answer_are_masked(answer, said):
    for before, after in (("Q: ", ""), ("", "<eos>"), ("<think>\nHm.\n</think>\n", "")):
        text = before + answer + after
        end = len(before) + len(answer)
        assert text[conversations.thoughts(text, len(before), end) : end] == said
    text = f"Q: <think>\nHm.\n</think>\n\n{answer}"
    at = text.index("Hm.")
    assert text[conversations.thoughts(text, at, len(text)) :] == said  # what asks has opened it


def test_thoughts_inside_the_text_are_those_beside_it(family):
    name, tokenizer, ends, known = family
    if not known.thought or known.thought == REFUSED:
        return
    if name.startswith("deepseek"):  # an answer as it is generated after `<think>`
        begun = turns("Q1", "Of A1.\n</think>\n\nA1")
        assert trained(tokenizer, ends, begun) == trained(tokenizer, ends, turns("Q1", "A1", thoughts=True))
    inside = turns("Q1", "<think>\nOf A1.\n</think>\n\nA1")
    assert trained(tokenizer, ends, inside) == trained(tokenizer, ends, turns("Q1", "A1", thoughts=True))


def test_a_call_of_a_tool_is_trained_and_the_tools_answer_is_not(family):
    name, tokenizer, ends, known = family
    call = {"role": "assistant", "content": "", "tool_calls": json.dumps(CALL)}
    result = {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "30"}
    messages = [*turns("Q1"), call, result, {"role": "assistant", "content": "A1"}]
    if name in NO_TOOLS:
        with pytest.raises(UserError, match="roles must alternate"):
            trained(tokenizer, ends, messages, TOOLS)
        return
    rows = [part for row in trained(tokenizer, ends, messages, TOOLS) for part in row]
    if name in DROP_TOOLS:  # the preflight refuses them, see test_checks
        assert "weather" not in "".join(said for _, said in rows)
        return
    plain = as_objects(messages, name)
    assert rows == [
        (asked(tokenizer, plain[:1], TOOLS), known.call),
        (asked(tokenizer, plain[:3], TOOLS), (known.after_tool or known.said).format(a="A1")),
    ]


def test_a_call_that_a_template_writes_is_read_again(family):
    _, tokenizer, ends, known = family
    if not known.call:
        return
    call = {"role": "assistant", "content": "", "tool_calls": json.dumps(CALL)}
    *_, (ids, labels) = sft_tokens(tokenizer, [{"messages": [*turns("Q1"), call], "tools": TOOLS}], ends)
    said = [token for token in labels if token not in (IGNORED, *ends)]  # as it is generated, up to the stop token
    opening = thoughts.opened(tokenizer, [i for i, label in zip(ids, labels, strict=True) if label == IGNORED])
    text = thoughts.answer(opening + thoughts.decode(tokenizer, said))
    assert tool_calls.calls(text) == [tool_calls.Call("weather", frozenset({("city", ("str", "Seoul"))}))]
    assert tool_calls.tool_arguments(text, '{"name": "weather", "arguments": {"city": "Seoul"}}') == 1


def test_a_pair_and_a_labelled_answer_begin_with_the_prompt_of_generation(family):
    _, tokenizer, ends, known = family
    prompt = turns("Q1", "A1", "Q2")
    answers = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    before, chosen, rejected = next(preference_tokens(tokenizer, [{"prompt": prompt, **answers}], ends))
    shared = before + chosen[: len(prompt_tokens(tokenizer, prompt)) - len(before)]
    assert shared == prompt_tokens(tokenizer, prompt)
    for side, ids in (("chosen", chosen), ("rejected", rejected)):
        assert tokenizer.decode(before + ids) == asked(tokenizer, prompt) + known.said.format(a=side)
        assert ids[-1] == turn_end(tokenizer, ends)
    row = {"id": "x", "prompt": prompt, "completion": answers["chosen"], "label": True}
    kept, _ = tokenise(tokenizer, [row], "unpaired_preference", 10_000, ends)
    assert kept[0]["prompt_ids"] == prompt_tokens(tokenizer, prompt)
    assert kept[0]["prompt_ids"] + kept[0]["completion_ids"] == before + chosen


# ---- TRL's own masks

TRAINING = sorted(file.stem for file in FOLDER.glob("*_training.jinja") if not re.search(OTHERS, file.stem))


@pytest.mark.parametrize("name", TRAINING)
def test_training_templates_train_the_answers_that_they_mark(name):
    """Theirs may begin earlier, at a role or at a thought that generation is asked with; gpt-oss ends earlier turns as
    history; Phi ends later, at an EOS that is never generated; GLM trains the next role only where there is one.
    """
    known = FAMILIES[name.removesuffix("_training")]
    tokenizer = load((FOLDER / f"{name}.jinja").read_text())
    ends = tokenizer.convert_tokens_to_ids([SPECIAL.findall(known.said)[-1]])
    messages = turns("Q1", "A1", "Q2", "A2", "Q3", "A3")
    marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(marked["input_ids"], marked["assistant_masks"], strict=True)
    theirs = [
        said for _, said in segments(tokenizer, marked["input_ids"], [i if mask else IGNORED for i, mask in pairs])
    ]
    ours = [said for row in trained(tokenizer, ends, messages) for _, said in row]
    for answer, mine, their in zip(("A1", "A2", "A3"), ours, theirs, strict=True):
        end = their[their.index(answer) :].rstrip("\n")
        end = end.replace("<|end|>", "<|return|>") if name == "gptoss_training" else end
        mine = mine[mine.index(answer) :]
        assert mine == end or {mine.removeprefix(end), end.removeprefix(mine)} & {"<|user|>", "\n<eos>"}


# ---- settings of a template

HEAD = "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"


def test_without_thinking_the_empty_thought_is_asked_with_and_not_trained():
    tokenizer = load(HEAD + (FOLDER / "qwen3.jinja").read_text())
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>"])
    rows = trained(tokenizer, ends, turns("Q1", "A1", "Q2", "A2"))
    assert [[said for _, said in row] for row in rows] == [["A1<|im_end|>"], ["A2<|im_end|>"]]
    assert all(before.endswith(f"assistant\n{EMPTY}") for row in rows for before, _ in row)
    with refused("unusable-chat-template"):
        trained(tokenizer, ends, turns("Q1", "A1", thoughts=True))


@pytest.mark.parametrize(("name", "shown"), [("llama3_2", "03 Feb 2024"), ("gptoss", "2024-02-03")])
def test_the_date_that_a_template_prints_is_the_bases(name, shown):
    tokenizer = load((FOLDER / f"{name}.jinja").read_text())
    assert DATE[:4] in conversations.render(tokenizer, turns("Q1"))
    tokenizer.init_kwargs["chat_template_date"] = "2024-02-03"
    assert shown in conversations.render(tokenizer, turns("Q1"))
    assert shown in tokenizer.decode(prompt_tokens(tokenizer, turns("Q1")))


def test_a_template_without_a_generation_prompt_trains_no_role():
    template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    tokenizer = load(template, "<|user|><|assistant|>")
    messages = turns("Q1", "A1", "Q2", "A2")
    asks = "<|user|>\nQ1<eos>\n<|assistant|>\n"
    rows = trained(tokenizer, [], messages)
    assert rows == [[(asks, "A1<eos>"), (f"{asks}A1<eos>\n<|user|>\nQ2<eos>\n<|assistant|>\n", "A2<eos>")]]
    assert tokenizer.decode(prompt_tokens(tokenizer, messages[:1])) == asks


def test_white_space_before_a_text_is_the_texts_where_there_is_no_generation_prompt():
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
        "{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = load(template)
    assert trained(tokenizer, [], turns("Q1", "A1")) == [[("[INST] Q1 [/INST]", " A1<eos>")]]
    assert tokenizer.decode(prompt_tokens(tokenizer, turns("Q1"))) == "[INST] Q1 [/INST]"


def test_a_template_that_cannot_be_masked_is_refused_with_the_keys_that_help():
    tokenizer = load("{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}")
    with refused("unusable-chat-template"):
        trained(tokenizer, [], turns("Q1", "A1"))


# ---- BOS and stops


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    return tokenizer


def test_without_a_template_every_text_begins_with_the_bos_that_the_tokenizer_adds():
    tokenizer = with_bos(load(""))
    bos, prompt = tokenizer.bos_token_id, turns("Q1")
    ids, labels = next(sft_tokens(tokenizer, [{"messages": turns("Q1", "A1", "Q2", "A2")}]))
    assert tokenizer.decode(ids) == "<bos>Q1\nA1<eos>Q2\nA2<eos>"
    assert [said for _, said in segments(tokenizer, ids, labels)] == ["A1<eos>", "A2<eos>"]
    pair = {"prompt": prompt, "chosen": turns("", "good")[1:], "rejected": turns("", "bad")[1:]}
    before, chosen, _ = next(preference_tokens(tokenizer, [pair]))
    assert before == prompt_tokens(tokenizer, prompt) == tokenizer("Q1\n")["input_ids"]
    assert tokenizer.decode(chosen) == "good<eos>"
    for text in ("Text.", "<bos>Text."):
        ids, labels = next(sft_tokens(tokenizer, [{"text": text}]))
        assert tokenizer.decode(ids) == "<bos>Text.<eos>" and ids.count(bos) == 1 and ids == labels


def test_a_template_prints_the_only_bos():
    template = (FOLDER / "llama3.jinja").read_text()
    for text, count in ((template, 1), (template.replace("bos_token", "''"), 0)):
        tokenizer = with_bos(load(text))
        ids, _ = next(sft_tokens(tokenizer, [{"messages": turns("Q1", "A1")}]))
        assert ids.count(tokenizer.bos_token_id) == count
        assert prompt_tokens(tokenizer, turns("Q1")).count(tokenizer.bos_token_id) == count


def test_an_answer_ends_where_its_turn_does_even_if_other_stops_follow():
    tokenizer = load((FOLDER / "phi3.jinja").read_text())
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    for ends, said in (([end], "A1<|end|>"), ([], "A1<|end|>\n<eos>")):
        assert [text for _, text in trained(tokenizer, ends, turns("Q1", "A1"))[0]] == [said]
    assert turn_end(tokenizer, [end, tokenizer.eos_token_id]) == end
    assert turn_end(load(""), [end]) == tokenizer.eos_token_id


def test_the_stops_are_the_tokenizers_and_the_generation_configurations(tmp_path):
    tokenizer = load("")
    eos = tokenizer.eos_token_id
    assert stops(tmp_path, tokenizer) == [eos]
    for ends in (7, [7, eos]):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        assert stops(tmp_path, tokenizer) == sorted([7, eos])


def test_rows_of_a_template_that_rewrites_are_named_for_their_answers():
    tokenizer = load((FOLDER / "qwen3.jinja").read_text())
    rows = [{"id": "a", "messages": turns("Q1", "A1", "Q2", "A2")}, {"id": "b", "messages": turns("Q1", "A1")}]
    kept, counts = tokenise(tokenizer, rows, "messages", 1000, tokenizer.convert_tokens_to_ids(["<|im_end|>"]))
    assert [row["id"] for row in kept] == ["a.0", "a.1", "b"]
    assert counts["rows"] == 3
    for row in kept:
        answer = conversations.up_to(next(whole for whole in rows if whole["id"] == row["id"][0]), row["id"])[
            "messages"
        ]
        assert tokenizer.decode(row["input_ids"]).endswith(f"{answer[-1]['content']}<|im_end|>\n")
        assert answer == rows[0]["messages"][: len(answer)]
    last, _ = tokenise(tokenizer, rows, "messages", 1000, assistant_turns="last")
    assert [row["id"] for row in last] == ["a", "b"]
    assert last[0]["input_ids"] == kept[1]["input_ids"]
