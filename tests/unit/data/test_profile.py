"""What is counted of a dataset's rows, against the same counted by hand or row by row."""

import math
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data import profile, rows
from posttrain.data.dataset_types import of
from posttrain.data.profile import answers_in_prompts, columns_of, language

ALPHABET = "aab c\nÄ한€😀"


def chat(*turns: str, **fields) -> dict:
    """A row whose turns are such as `user: Hello`."""
    return {"messages": [said(turn) for turn in turns], **fields}


def said(turn: str) -> dict:
    role, content = turn.split(": ", 1)
    return {"role": role, "content": content}


def pair(prompt: str, chosen: str, rejected: str) -> dict:
    return {"prompt": [said(f"user: {prompt}")], **_answers(chosen=chosen, rejected=rejected)}


def _answers(**answers: str) -> dict:
    return {name: [said(f"assistant: {content}")] for name, content in answers.items()}


def table(shape: str, content: list[dict]) -> pa.Table:
    named = [{"id": f"{i:04x}", "place": f"x.jsonl line {i}"} | row for i, row in enumerate(content, 1)]
    return pa.Table.from_pylist(named, schema=rows.schema(shape))


@pytest.fixture
def measured(tmp_path: Path):
    """Profile rows that lie in one file or several."""

    def of(shape: str, *files: list[dict]) -> dict:
        paths = [tmp_path / f"{i}.parquet" for i, _ in enumerate(files)]
        for path, content in zip(paths, files, strict=True):
            pq.write_table(table(shape, content), path, row_group_size=100)
        return profile.profile(paths)

    return of


def bins(histogram: dict) -> dict[tuple[int, int], int]:
    return {(bin["at_least"], bin["below"]): bin["n"] for bin in histogram["bins"]}


# ---- lengths


def test_turns_are_counted_in_characters_by_role_in_bins_that_double(measured):
    lengths = measured(
        "messages", [chat("system: 한국어", "user: ab", "assistant: 😀" + "b" * 6, "assistant: " + "c" * 8)]
    )
    by_role = lengths["lengths"]["characters"]
    assert list(by_role) == ["system", "user", "assistant"]
    assert by_role["system"] == {"n": 1, "mean": 3, "most": 3, "bins": [{"at_least": 2, "below": 4, "n": 1}]}
    assert by_role["assistant"]["mean"] == 7.5
    assert bins(by_role["assistant"]) == {(4, 8): 1, (8, 16): 1}
    assert bins(lengths["lengths"]["turns"]) == {(4, 5): 1}


def test_bins_without_turns_stand_between_those_with_some(measured):
    rows = [chat("user: a", "assistant: "), chat("user: abcd", "assistant: a", "user: a", "assistant: a")]
    lengths = measured("messages", rows)["lengths"]
    assert bins(lengths["characters"]["user"]) == {(1, 2): 2, (2, 4): 0, (4, 8): 1}
    assert bins(lengths["characters"]["assistant"]) == {(0, 1): 1, (1, 2): 2}
    assert bins(lengths["turns"]) == {(2, 3): 1, (3, 4): 0, (4, 5): 1}


def test_answers_of_a_preference_go_by_their_own_names_and_the_longer_is_counted(measured):
    report = measured(
        "preference", [pair("ab", "abc", "abcd"), pair("ab", "한국어", "abc"), pair("a", "abcd", "b")] * 2
    )
    by_name = report["lengths"]["characters"]
    assert {name: lengths["most"] for name, lengths in by_name.items()} == {"user": 2, "chosen": 4, "rejected": 4}
    assert report["pairs"] == {"chosen_longer": 2, "same_length": 2, "rejected_longer": 2}
    assert bins(report["lengths"]["turns"]) == {(2, 3): 6}
    assert report["labels"] is None


def test_labels_are_counted(measured):
    rows = [{"prompt": [said("user: a")], **_answers(completion="b"), "label": label} for label in (True, False, True)]
    report = measured("unpaired_preference", rows)
    assert report["labels"] == {"true": 2, "false": 1}
    assert list(report["lengths"]["characters"]) == ["user", "completion"]
    assert report["pairs"] is None


def test_a_text_is_one_turn_and_no_conversation(measured):
    report = measured("text", [{"text": "abc"}, {"text": "ab"}], [])
    assert report["lengths"]["characters"]["text"]["mean"] == 2.5
    assert report["lengths"]["turns"]["bins"] == []
    assert report["answer_in_prompt"] == {"rows": 0, "first": None}


# ---- rows that stand out


def test_longest_and_shortest_are_five_each_in_order_with_the_first_of_equals_first(measured):
    sizes = [7, 3, 9, 3, 1, 9, 4, 2]
    found = measured("text", [{"text": "a" * size} for size in sizes[:4]], [{"text": "a" * size} for size in sizes[4:]])
    extremes = found["extremes"]
    assert [(row["characters"], row["place"]) for row in extremes["longest"]] == [
        (9, "x.jsonl line 3"),
        (9, "x.jsonl line 2"),
        (7, "x.jsonl line 1"),
        (4, "x.jsonl line 3"),
        (3, "x.jsonl line 2"),
    ]
    assert [row["characters"] for row in extremes["shortest"]] == [1, 2, 3, 3, 4]
    assert extremes["strangest"] == []  # all are too short


def test_only_the_beginning_of_a_long_row_is_shown(measured):
    row = measured("messages", [chat("user: " + "한" * 150, "assistant: " + "b" * 150)])["extremes"]["longest"][0]
    assert row == {"characters": 300, "place": "x.jsonl line 1", "text": "한" * 150 + "\n" + "b" * 49}


def test_a_row_of_rare_bytes_is_the_strangest(measured):
    rows = [chat("user: " + "e" * 40, "assistant: " + "e" * 40) for _ in range(1200)]
    rows[700] = chat("user: " + "e" * 40, "assistant: " + "§" * 20)
    found = measured("messages", rows)["extremes"]["strangest"]
    assert (found[0]["place"], found[0]["text"]) == ("x.jsonl line 701", "e" * 40 + "\n" + "§" * 20)
    assert found[1]["bits"] < 0.01 < found[0]["bits"]


@pytest.mark.parametrize("shape", ["text", "messages", "preference"])
def test_the_numbers_are_those_of_a_count_row_by_row(measured, shape):
    draw = random.Random(0)
    some = lambda: "".join(draw.choices(ALPHABET, k=draw.randrange(60)))  # noqa: E731
    talk = lambda: ("user", "assistant") * draw.randrange(1, 4)  # noqa: E731
    make = {
        "text": lambda: {"text": some()},
        "messages": lambda: chat(*(f"{role}: {some()}" for role in talk())),
        "preference": lambda: pair(some(), some(), some()),
    }
    rows = [make[shape]() for _ in range(1300)]  # three batches, in row groups of 100
    extremes = measured(shape, rows[:900], rows[900:])["extremes"]
    contents = [row.get("text") or "".join(turn["content"] for turn in of(row).all_turns(row)) for row in rows]
    sizes = sorted(map(len, contents))
    assert [row["characters"] for row in extremes["longest"]] == sizes[:-6:-1]
    assert [row["characters"] for row in extremes["shortest"]] == sizes[:5]
    counts = Counter(byte for content in contents for byte in content.encode())
    bits = {byte: -math.log2(count / counts.total()) for byte, count in counts.items()}
    encoded = [content.encode() for content in contents if len(content.encode()) >= 32]
    means = sorted((sum(map(bits.get, content)) / len(content) for content in encoded), reverse=True)
    assert [row["bits"] for row in extremes["strangest"]] == pytest.approx(means[:5], abs=0.0011)


# ---- answers that are given away

GIVEN_AWAY = [
    ("messages", chat("user: Say: one two three four five.", "assistant: one two three four five"), True),
    ("messages", chat("system: one two three four five", "user: Hm?", "assistant:  one two three four five\n"), True),
    ("messages", chat("user: 답: 사과는 빨갛고 아주 맛있는 과일 이다", "assistant: 사과는 빨갛고 아주 맛있는 과일"), True),
    ("messages", chat("user: 答案是一二三四五吗", "assistant: 一二三四五"), True),  # a character is a word
    ("messages", chat("user: Say: one two three four.", "assistant: one two three four"), False),  # four words
    ("messages", chat("user: One two three four five", "assistant: one two three four five"), False),  # not verbatim
    ("messages", chat("user: one two three", "user:  four five", "assistant: one two three four five"), False),
    ("messages", chat("user: Hi", "assistant: I am not able to", "user: Hi", "assistant: I am not able to"), False),
    ("messages", chat("assistant: I open with these five words"), False),
    ("messages", chat("user: call it", "assistant: "), False),  # a tool call has no content
    ("preference", pair("Say: one two three four five.", "one two three four five", "no"), True),
    ("preference", pair("Say: one two three four five.", "no", "one two three four five"), False),
    ("text", {"text": "one two three four five"}, False),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "row", "given_away"), GIVEN_AWAY)
def test_an_answer_of_five_words_that_stands_in_its_prompt(shape, row, given_away):
    other = {"messages": chat("user: a", "assistant: b"), "preference": pair("a", "b", "c"), "text": {"text": "a"}}[
        shape
    ]
    batch = table(shape, [other, row, other, row]).to_batches()[0]
    assert answers_in_prompts(columns_of(batch)) == ([1, 3] if given_away else [])
    assert answers_in_prompts(columns_of(batch.slice(1, 2))) == ([0] if given_away else [])


def test_given_away_answers_are_counted_with_the_place_of_the_first(measured):
    fine, bad = chat("user: a", "assistant: b"), GIVEN_AWAY[0][1]
    report = measured("messages", [fine] * 600 + [bad, fine, bad], [bad])
    assert report["answer_in_prompt"] == {"rows": 3, "first": "x.jsonl line 601"}


# ---- languages


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (chat("user: How many apples does she have?", "assistant: She has three apples and a pear."), "en"),
        (chat("system: You are helpful; answer in full.", "user: Was ist das?", "assistant: Das ist ein Haus."), "de"),
        (chat("user: 오늘 날씨는 어떤가요?", "assistant: 오늘은 맑습니다."), "ko"),
        ({"text": "Il était une fois un roi qui avait trois fils."}, "fr"),
        ({"text": "x = [i ** 2 for i in range(n)]\nfor j in x:\n    y[j] += np.sum(x[j:])"}, "undetermined"),
        (chat("user: 17 * 3", "assistant: 51"), "undetermined"),
        (chat("user: a", "assistant: b"), "undetermined"),
        ({"text": "  \n"}, "undetermined"),
    ],
)  # fmt: skip
def test_the_language_is_told_or_undetermined(row, expected):
    assert language(row) == expected


def test_languages_are_those_of_evenly_spaced_rows(measured, monkeypatch):
    monkeypatch.setattr(profile, "SAMPLE", 8)
    english, german = (
        {"text": "There is nothing here to see at all."},
        {"text": "Hier gibt es überhaupt nichts zu sehen."},
    )
    languages = measured("text", [english] * 1500, [german] * 500)["languages"]
    assert languages == {"sampled": 8, "shares": {"en": 0.75, "de": 0.25}}


def test_turns_that_are_not_trained_are_counted(tmp_path):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]
    raw = [
        {"messages": [*chat, *chat, *chat[:1], {"role": "assistant", "content": "b"}]},
        {"messages": [*chat[:1], {"role": "assistant", "content": "c"}]},
    ]
    table = [rows.normalise(row, "messages", {}, "x") for row in raw]
    pq.write_table(pa.Table.from_pylist(table, schema=rows.schema("messages")), tmp_path / "rows.parquet")
    assert profile.profile([tmp_path / "rows.parquet"])["untrained_turns"] == 2
