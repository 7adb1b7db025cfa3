"""Label masks on hand-written conversations: exactly what the assistant says, and its stop token, is trained."""

import random
from bisect import bisect_left, bisect_right
from operator import itemgetter

import pytest
from conftest import refused
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from posttrain.data import encoding, tokens
from posttrain.data.encoding import _said
from posttrain.data.rows import normalise
from posttrain.data.tokens import IGNORED, preference_tokens, prompt_tokens, questions, render, sft_tokens, tokenise

STOP = "<|im_end|>"
LAST_ONLY = "{% for message in messages %}{% if loop.last %}{{ message['content'] }}{% endif %}{% endfor %}"


def turns(*contents: str, system: str | None = None) -> list[dict]:
    """A conversation in which the user begins."""
    said = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *said] if system else said


def pair(prompt: list[dict], chosen: str, rejected: str) -> dict:
    return normalise({"prompt": prompt, "chosen": chosen, "rejected": rejected}, "preference", {}, "row")


@pytest.fixture
def tokenizer(random_tiny_tokenizer):
    return random_tiny_tokenizer


@pytest.fixture
def without_template(tokenizer):
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture
def with_bos(tokenizer):
    """A tokenizer that begins every text with a BOS, whose template prints one as well, as Llama's."""
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    return tokenizer


def trained(tokenizer, row: dict) -> str:
    """The text of the trained tokens, which must be the row's own tokens at their own places."""
    ids, labels = next(sft_tokens(tokenizer, [row]))
    assert len(ids) == len(labels)
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    return tokenizer.decode([label for label in labels if label != IGNORED])


CONVERSATIONS = [
    (turns("q", "An answer."), f"An answer.{STOP}"),
    (turns("q", "one", "and?", "two"), f"one{STOP}two{STOP}"),
    (turns("q", "An answer.", system="Be brief."), f"An answer.{STOP}"),
    (turns("An answer.", "An answer."), f"An answer.{STOP}"),
    (turns("q", "  spaces  "), f"  spaces  {STOP}"),
    (turns("q", "\n\n lines \n\n"), f"\n\n lines \n\n{STOP}"),
    (turns("häufig 😀", "😀 ünïcödé"), f"😀 ünïcödé{STOP}"),
    (turns("q", f"a{STOP}b"), f"a{STOP}b{STOP}"),
    ([*turns("q", "one"), {"role": "assistant", "content": "two"}], f"one{STOP}two{STOP}"),
]


@pytest.mark.parametrize(("messages", "expected"), CONVERSATIONS)
def test_exactly_the_assistants_words_and_stop_tokens_are_trained(tokenizer, messages, expected):
    assert trained(tokenizer, {"messages": messages}) == expected


def test_many_rows_have_the_tokens_that_each_has_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "AT_ONCE", 4)
    rows = [{"messages": messages} for messages, _ in CONVERSATIONS]
    assert list(sft_tokens(tokenizer, rows)) == [next(sft_tokens(tokenizer, [row])) for row in rows]
    texts = [{"text": text} for text in ("one", "two three", "ünïcödé 😀", "", "a", "b")]
    assert list(sft_tokens(tokenizer, texts)) == [next(sft_tokens(tokenizer, [row])) for row in texts]
    pairs = [pair(turns(text), text * 3, text * 2) for text in ("one", "two", "ünïcödé 😀", "x", "y")]
    assert list(preference_tokens(tokenizer, pairs)) == [next(preference_tokens(tokenizer, [row])) for row in pairs]


@pytest.mark.parametrize(("messages", "expected"), CONVERSATIONS)
def test_the_same_is_trained_without_a_chat_template(without_template, messages, expected):
    assert trained(without_template, {"messages": messages}) == expected


@pytest.mark.parametrize(("messages", "expected"), CONVERSATIONS)
def test_the_same_is_trained_where_the_tokenizers_offsets_leave_spaces_out(tokenizer, messages, expected):
    processor = tokenizer.backend_tokenizer.post_processor
    processor.trim_offsets = True
    tokenizer.backend_tokenizer.post_processor = processor
    assert trained(tokenizer, {"messages": messages}) == expected


@pytest.mark.parametrize("messages", [turns("q", "one")[1:], [*turns("q", "hello")[1:], *turns("q", "one")]])
def test_a_conversation_may_begin_with_the_assistant(tokenizer, messages):
    assert trained(tokenizer, {"messages": messages}).endswith(f"one{STOP}")


def test_a_first_word_of_the_assistants_that_the_template_contains_too_is_found_where_it_is_said(tokenizer):
    messages = [{"role": "assistant", "content": "art"}, *turns("q", "one")]
    assert trained(tokenizer, {"messages": messages}) == f"art{STOP}one{STOP}"


def test_the_ids_are_the_rendered_text_tokenised_whole(tokenizer):
    messages = turns("q", "one", "and?", "two", system="Be brief.")
    ids, _ = next(sft_tokens(tokenizer, [{"messages": messages}]))
    assert ids == tokenizer(render(tokenizer, messages), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n")


def test_what_is_not_trained_before_an_answer_is_what_asks_for_it(tokenizer):
    ids, labels = next(sft_tokens(tokenizer, [{"messages": turns("How many?", "72 clips.")}]))
    asked = prompt_tokens(tokenizer, turns("How many?"))
    first = next(i for i, label in enumerate(labels) if label != IGNORED)
    assert ids[:first] == asked
    assert tokenizer.decode(asked) == "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"


def test_a_text_is_trained_whole_and_closed_by_one_stop_token(tokenizer):
    for text in ("An apple.", f"An apple.{STOP}"):
        ids, labels = next(sft_tokens(tokenizer, [{"text": text}]))
        assert ids == labels
        assert tokenizer.decode(ids) == f"An apple.{STOP}"


@pytest.mark.parametrize("row", [{"messages": turns("q", "one", "and?", "two")}, {"text": "An apple."}])
def test_there_is_one_bos_where_template_and_tokenizer_both_add_it(with_bos, row):
    ids, _ = next(sft_tokens(with_bos, [row]))
    assert ids[0] == with_bos.bos_token_id
    assert ids.count(with_bos.bos_token_id) == 1


def test_a_prompt_and_a_pair_have_one_bos_as_well(with_bos):
    prompt, chosen, rejected = next(preference_tokens(with_bos, [pair(turns("q"), "good", "bad")]))
    for ids in (prompt_tokens(with_bos, turns("q")), prompt + chosen, prompt + rejected):
        assert ids.count(with_bos.bos_token_id) == 1


def test_a_template_that_does_not_only_append_is_refused(tokenizer):
    tokenizer.chat_template = LAST_ONLY
    with refused("unusable-chat-template"):
        next(sft_tokens(tokenizer, [{"messages": turns("q", "one", "and?", "two")}]))


def test_what_a_template_prints_after_the_stop_token_is_not_trained(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|im_end|>\n'", "'<|im_end|>\n---\n'")
    assert render(tokenizer, turns("q", "one")).endswith(f"one{STOP}\n---\n")
    assert trained(tokenizer, {"messages": turns("q", "one", "and?", "two")}) == f"one{STOP}two{STOP}"


# ---- preference

PAIRS = [
    (turns("q"), "good", "bad"),
    (turns("q", "one", "and?", system="Be brief."), "72 clips.", "71 clips."),
    (turns("q"), "the same beginning, good", "the same beginning, bad"),
    (turns("q"), "  good", "\nbad"),
    (turns("q"), "good", "good and more"),
]


@pytest.mark.parametrize(("prompt", "chosen", "rejected"), PAIRS)
def test_a_pair_is_split_into_prompt_and_answers_with_their_stop_tokens(tokenizer, prompt, chosen, rejected):
    ids = next(preference_tokens(tokenizer, [pair(prompt, chosen, rejected)]))
    asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    assert [tokenizer.decode(part) for part in ids] == [asked, f"{chosen}{STOP}", f"{rejected}{STOP}"]


@pytest.mark.parametrize(("prompt", "chosen", "rejected"), PAIRS)
def test_a_pair_is_split_without_a_chat_template(without_template, prompt, chosen, rejected):
    prompt_ids, chosen_ids, rejected_ids = next(preference_tokens(without_template, [pair(prompt, chosen, rejected)]))
    asked = render(without_template, prompt)
    assert without_template.decode(prompt_ids + chosen_ids) == f"{asked}{chosen}{STOP}"
    assert without_template.decode(prompt_ids + rejected_ids) == f"{asked}{rejected}{STOP}"
    assert prompt_ids


# ---- cutting


def test_rows_keep_their_ids_and_lengths_and_are_counted(tokenizer, chats):
    kept, counts = tokenise(tokenizer, chats, "messages", 1024)
    assert [row["id"] for row in kept] == [row["id"] for row in chats]
    assert [row["length"] for row in kept] == [len(row["input_ids"]) for row in kept]
    assert counts == {
        "rows": 4,
        "tokens": sum(len(row["input_ids"]) for row in kept),
        "trained_tokens": sum(label != IGNORED for row in kept for label in row["labels"]),
        "cut": 0,
        "dropped": 0,
        "unknown": 0,
        "fallback": counts["fallback"],
        "lengths": [row["length"] for row in kept],
    }
    assert counts["fallback"] > 0  # of ä and 😀, in 384 tokens


def test_a_long_row_is_cut_at_the_end_and_dropped_where_nothing_trained_is_left(tokenizer):
    short, long = (
        {"id": name, "messages": turns(text, "An answer.")} for name, text in (("short", "q"), ("long", "q " * 50))
    )
    prompt = len(prompt_tokens(tokenizer, short["messages"][:1]))
    kept, counts = tokenise(tokenizer, [short, long], "messages", prompt + 2)
    assert [row["id"] for row in kept] == ["short"]
    assert kept[0]["length"] == len(kept[0]["input_ids"]) == len(kept[0]["labels"]) == prompt + 2
    assert (counts["rows"], counts["trained_tokens"], counts["cut"], counts["dropped"]) == (1, 2, 2, 1)


def test_a_row_of_exactly_max_length_is_not_cut(tokenizer):
    row = {"id": "x", "text": "An apple is a fruit."}
    length = len(next(sft_tokens(tokenizer, [row]))[0])
    assert tokenise(tokenizer, [row], "text", length)[1]["cut"] == 0
    assert tokenise(tokenizer, [row], "text", length - 1)[1]["cut"] == 1


def test_a_pair_is_cut_in_its_answers_never_in_its_prompt(tokenizer):
    row = pair(turns("q"), "abcdefgh", "hgfedcba")
    prompt, chosen, rejected = next(preference_tokens(tokenizer, [row]))
    kept, counts = tokenise(tokenizer, [row], "preference", len(prompt) + 3)
    assert kept == [{
        "id": row["id"], "length": len(prompt) + 3, "prompt_ids": prompt, "chosen_ids": chosen[:3], "rejected_ids": rejected[:3],
    }]  # fmt: skip
    assert counts.items() >= {"rows": 1, "tokens": len(prompt) + 3, "trained_tokens": 6, "cut": 1, "dropped": 0}.items()
    assert counts["lengths"] == [len(prompt) + max(len(chosen), len(rejected))]


@pytest.mark.parametrize("room", [0, 2])
def test_a_pair_whose_answers_are_cut_to_the_same_is_dropped(tokenizer, room):
    row = pair(turns("q"), "the same beginning, good", "the same beginning, bad")
    prompt, chosen, rejected = next(preference_tokens(tokenizer, [row]))
    assert chosen[:2] == rejected[:2]
    kept, counts = tokenise(tokenizer, [row], "preference", len(prompt) + room)
    assert (kept, counts["rows"], counts["dropped"]) == ([], 0, 1)


def test_a_pair_is_as_long_as_the_longer_of_its_sequences(tokenizer):
    row = pair(turns("q"), "short", "a much longer answer than the other")
    kept, _ = tokenise(tokenizer, [row], "preference", 1024)
    assert kept[0]["length"] == len(kept[0]["prompt_ids"]) + len(kept[0]["rejected_ids"])


# ---- answers one by one


def labelled(prompt: list[dict], answer: str, label: bool) -> dict:
    return normalise({"prompt": prompt, "completion": answer, "label": label}, "unpaired_preference", {}, "row")


@pytest.mark.parametrize("label", [True, False])
def test_an_answer_with_a_label_has_the_tokens_that_it_has_in_a_pair(tokenizer, label):
    prompt = turns("q", "one", "and?", system="Be brief.")
    kept, counts = tokenise(tokenizer, [labelled(prompt, "good", label)], "unpaired_preference", 1024)
    asked, chosen, _ = next(preference_tokens(tokenizer, [pair(prompt, "good", "bad")]))
    assert [kept[0][name] for name in ("prompt_ids", "completion_ids", "label")] == [asked, chosen, label]
    assert kept[0]["length"] == len(asked) + len(chosen)
    assert counts.items() >= {"rows": 1, "trained_tokens": len(chosen), "cut": 0, "dropped": 0}.items()
    assert counts["lengths"] == [counts["tokens"]] == [kept[0]["length"]]


def test_an_answer_is_cut_and_dropped_where_nothing_of_it_is_left(tokenizer):
    row = labelled(turns("q"), "abcdefgh", True)
    prompt, completion, _ = next(preference_tokens(tokenizer, [pair(turns("q"), "abcdefgh", "x")]))
    kept, counts = tokenise(tokenizer, [row], "unpaired_preference", len(prompt) + 3)
    assert (kept[0]["completion_ids"], kept[0]["length"]) == (completion[:3], len(prompt) + 3)
    assert (counts["cut"], counts["dropped"]) == (1, 0)
    for limit in (len(prompt), len(prompt) - 2):
        kept, counts = tokenise(tokenizer, [row], "unpaired_preference", limit)
        assert (kept, counts["cut"], counts["dropped"]) == ([], 1, 1)


# ---- questions


def test_what_a_model_is_asked_ends_before_the_last_answer(tokenizer):
    rows = [
        normalise({"messages": turns("q", "one", "and?", "two")}, "messages", {}, "row"),
        pair(turns("How many?"), "72", "71"),
        normalise({"messages": turns("x", "only the assistant speaks")[1:]}, "messages", {}, "row"),
    ]
    asked = questions(tokenizer, rows)
    assert [row["reference"] for row in asked] == ["two", "72"]
    assert [row["prompt_ids"] for row in asked] == [
        prompt_tokens(tokenizer, turns("q", "one", "and?")),
        prompt_tokens(tokenizer, turns("How many?")),
    ]


def test_a_question_is_what_is_not_trained_before_the_answer(tokenizer, chats):
    for row, asked in zip(chats, questions(tokenizer, chats), strict=True):
        ids, labels = next(sft_tokens(tokenizer, [row]))
        assert ids[: len(asked["prompt_ids"])] == asked["prompt_ids"]
        assert labels[len(asked["prompt_ids"]) - 1 : len(asked["prompt_ids"]) + 1] == [
            IGNORED,
            ids[len(asked["prompt_ids"])],
        ]


# ---- tools

TOOLS = """{% if tools %}tools: {% for tool in tools %}{{ tool.function.name }} {% endfor %}
{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls is defined %}{% for c in m.tool_calls %}call \
{{ c.function.name }} {{ c.function.arguments.city }}{% endfor %}{% endif %}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""


def test_a_call_of_a_tool_is_trained_as_the_template_writes_it(tokenizer):
    tokenizer.chat_template = TOOLS
    call = '[{"type": "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Seoul\\"}"}}]'
    asked, answer = turns("Is it warm?", "Yes.")
    row = {
        "messages": [
            asked,
            {"role": "assistant", "content": "", "tool_calls": call},
            {"role": "tool", "content": "30"},
            answer,
        ]
    }
    row["tools"] = '[{"type": "function", "function": {"name": "weather"}}]'
    ids, labels = next(sft_tokens(tokenizer, [row]))
    assert tokenizer.decode(ids).startswith("tools: weather")
    trained = tokenizer.decode([label for label in labels if label != IGNORED])
    assert trained == f"call weather Seoul{tokenizer.eos_token}Yes.{tokenizer.eos_token}"
    assert tokenizer.decode(prompt_tokens(tokenizer, row["messages"][:1], row["tools"])).startswith("tools: weather")


# Bytes and whole characters, spaces that are lost, a normaliser that makes one character of several.
SPLITS = {
    "metaspace": (pre_tokenizers.Metaspace(), None),
    "words": (pre_tokenizers.Whitespace(), normalizers.NFKC()),
    "bytes": (pre_tokenizers.ByteLevel(add_prefix_space=True), normalizers.Strip()),
}


@pytest.mark.parametrize("name", SPLITS)
def test_the_tokens_of_some_characters_are_those_that_end_after_the_first_and_begin_before_the_last(name):
    backend = Tokenizer(BPE(byte_fallback=True))
    backend.pre_tokenizer, normaliser = SPLITS[name]
    if normaliser:
        backend.normalizer = normaliser
    special = [STOP, *(f"<0x{i:02X}>" for i in range(256))]
    backend.train_from_iterator(["abab ab a é 한글 漢字 abc"], BpeTrainer(vocab_size=300, special_tokens=special))
    chance = random.Random(name)
    for _ in range(500):
        text = "".join(chance.choices(["a", "b", "ab", " ", "\n", "é", "e\u0301", "한", "漢", "🙂", "ﬁ", "z"], k=12))
        encoding = backend.encode(text, add_special_tokens=False)
        start, end = sorted(chance.choices(range(len(text) + 1), k=2))
        first = bisect_right(encoding.offsets, start, key=itemgetter(1))
        last = bisect_left(encoding.offsets, end, key=itemgetter(0))
        said = _said(encoding, start, end)
        assert (said.start, said.stop) == (first, last)


# ---- turns and parts that are not trained, and prompts alone


def test_a_turn_that_is_not_trained_is_read_and_has_no_label(tokenizer):
    chat = [*turns("q", "bad"), *turns("q2", "good")]
    marked = [chat[0], chat[1] | {"train": False}, *chat[2:]]
    (ids, labels), (other, _) = (next(sft_tokens(tokenizer, [{"messages": some}])) for some in (marked, chat))
    assert ids == other
    assert trained(tokenizer, {"messages": marked}) == f"good{STOP}"
    assert labels.count(IGNORED) > ids.index(tokenizer("bad", add_special_tokens=False)["input_ids"][0])


def test_where_a_template_rewrites_turns_each_trained_one_has_its_row(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last or m.role == 'user' else 'cut' }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = [*turns("q", "one"), *turns("q2", "two"), *turns("q3", "three")]
    chat[3]["train"] = False
    rows, _ = tokens.tokenise(tokenizer, [{"id": "x", "messages": chat}], "messages", 500)
    said = [tokenizer.decode([label for label in row["labels"] if label != IGNORED]) for row in rows]
    assert [row["id"] for row in rows] == ["x.0", "x.1"]
    assert said == [f"one{STOP}", f"three{STOP}"]
    assert [tokens.up_to({"messages": chat}, row["id"])["messages"][-1]["content"] for row in rows] == ["one", "three"]


def test_of_a_text_only_its_trained_parts_have_labels(tokenizer):
    row = {"text": "Q: apple\nA: orange\nQ: plum\nA: pear", "trained": [[12, 19], [30, 34]]}
    ids, labels = next(sft_tokens(tokenizer, [row]))
    whole, _ = next(sft_tokens(tokenizer, [{"text": row["text"]}]))
    assert ids == whole
    assert labels[-1] == tokenizer.eos_token_id
    assert trained(tokenizer, row).replace(" ", "") == f"orange\npear{STOP}"
    ends_before = row | {"trained": row["trained"][:1]}
    assert next(sft_tokens(tokenizer, [ends_before]))[1][-1] == IGNORED


def test_prompts_alone_are_whole_or_left_out_and_nothing_of_them_is_trained(tokenizer):
    rows = [{"id": name, "prompt": turns(name)} for name in ("short", "long " * 50)]
    found, counts = tokens.tokenise(tokenizer, rows, "prompts", 60)
    assert [row["id"] for row in found] == ["short"]
    assert found[0]["prompt_ids"] == tokens.prompt_tokens(tokenizer, turns("short"))
    assert (counts["rows"], counts["dropped"], counts["cut"], counts["trained_tokens"]) == (1, 1, 1, 0)
    asked = tokens.questions(tokenizer, rows[:1])
    assert asked == [{"id": "short", "prompt_ids": found[0]["prompt_ids"], "reference": None}]


@pytest.mark.parametrize("length", [*range(2, 30), 64])
def test_a_long_text_is_split_into_rows_that_train_each_of_its_tokens_once(without_template, length):
    row = normalise({"text": "One apple, two pears, three plums and 14 figs: " * 3}, "text", {}, "row")
    (whole,), _ = tokenise(without_template, [row], "text", 10_000)
    found, counts = tokenise(without_template, [row], "text", length, long_rows="split")
    assert [one["id"] for one in found] == [f"{row['id']}.{k}" for k in range(len(found))]
    assert [token for one in found for token in one["labels"][1:]] == whole["labels"][1:]
    assert [one["length"] for one in found[:-1]] == [length] * (len(found) - 1) and found[-1]["length"] > 1
    assert (counts["cut"], counts["dropped"]) == (0, 0)
    assert counts["trained_tokens"] == len(whole["input_ids"]) - 1


def test_a_text_that_fits_stays_one_row(without_template):
    row = normalise({"text": "One apple."}, "text", {}, "row")
    assert tokenise(without_template, [row], "text", 100, long_rows="split") == tokenise(
        without_template, [row], "text", 100
    )
