"""What is not read of a row is counted by its name; what is read, or empty, is not."""

from collections import Counter

import pytest

from posttrain.data import unknown_keys


def unknown(row, format, columns=None):
    counts = Counter()
    unknown_keys.count(row, format, columns or {}, counts)
    return dict(counts)


CHAT = [
    {"role": "user", "content": "q", "name": "bob", "weight": 0},
    {"role": "assistant", "content": "a", "weight": 1, "reasoning": "r", "score": 3, "audio": None},
    {"role": "tool", "content": "1", "name": "f", "tool_call_id": "1"},
    {"from": "gpt", "value": "a2", "train": True},
    {"role": "user", "content": "q", "train": True},
]


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        ("messages", {"messages": CHAT, "tools": [{"x": 1}]}, {"messages[].name": 1, "messages[].score": 1, "messages[].train": 1}),
        ("messages", {"messages": [], "label": "x", "source": "", "url": None, "meta": {}}, {"label": 1}),
        ("messages", {"messages": '[{"role": "user", "content": "q", "id": 3}]'}, {"messages[].id": 1}),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": "b", "messages": CHAT, "input": "x"}, {"messages": 1, "input": 1}),
        ("preference", {"prompt": "q", "chosen": {"role": "assistant", "content": "a", "by": 1}, "rejected": "b"}, {"chosen[].by": 1}),
        ("prompts", {"prompt": "q", "completion": "a"}, {"completion": 1}),
        ("prompts", {"instruction": "q", "input": "a"}, {}),
        ("unpaired_preference", {"messages": CHAT[2:4], "label": True, "completion": "x"}, {"completion": 1}),
        ("segments", {"segments": [{"label": True, "text": "a", "lang": "en"}]}, {"segments[].lang": 1}),
        (
            "preference",
            {"prompt": {"messages": CHAT[2:4], "tools": [], "parallel_tool_calls": True}, "chosen": "a", "rejected": "b"},
            {"prompt[].parallel_tool_calls": 1},
        ),
        ("text", {"text": "a", "te\ud800xt": 1}, {"te\\ud800xt": 1}),
    ],
)  # fmt: skip
def test_keys_that_are_not_read_are_named(format, row, expected):
    assert unknown(row, format) == expected


def test_a_renamed_column_is_read():
    assert unknown({"q": "q", "a": "a", "prompt": "x"}, "prompt_completion", {"prompt": "q", "completion": "a"}) == {
        "prompt": 1
    }


def test_a_key_that_may_be_what_the_rows_are_about_has_advice():
    assert unknown_keys.advice("prompts", {"expected": 3}) == (
        "the rows are prompts alone, and not read is expected (3); if that is their answer, write `columns: {completion: NAME}`"
    )
    assert "write `format: unpaired_preference`" in unknown_keys.advice("messages", {"label": 3})
    assert unknown_keys.advice("prompts", {}) == unknown_keys.advice("messages", {"source": 1}) == ""


def test_many_names_are_counted_up_to_a_number(monkeypatch):
    monkeypatch.setattr(unknown_keys, "MAX_KEYS", 3)
    counts = Counter()
    for i in range(5):
        unknown_keys.count({"text": "a", "source": 1, f"k{i}": 1}, "text", {}, counts)
    assert counts == {"source": 5, "k0": 1, "k1": 1}
    unknown_keys.add(counts, Counter(source=2, k9=1))
    assert counts == {"source": 7, "k0": 1, "k1": 1}
    assert unknown_keys.in_words(counts, most=2) == "source (7), k0 (1) and 1 more"
