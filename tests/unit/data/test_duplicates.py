"""Which rows repeat an earlier one, equal or nearly so, and which only look like it."""

import random

import numpy as np
import pytest

from posttrain.data import duplicates
from posttrain.data.recognition import recognise
from posttrain.data.rows import normalise
from unit.scripts.test_prepare_data import (
    assistant,
    contents,
    dropped,
    image,
    lines,
    prepare,
    read,
    system,
    texts,
    user,
    write,
)

VOCABULARY = [
    first + middle + last for first in "bdfgklmnprst" for middle in "aeiou" for last in ("n", "s", "lo", "mi")
]


def words(n: int, seed: int) -> str:
    """A text of n words."""
    return " ".join(random.Random(seed).choices(VOCABULARY, k=n))


def edited(text: str, changes: int, seed: int) -> str:
    """The text with some of its words replaced, at random places."""
    found, draw = text.split(), random.Random(seed)
    for place in draw.sample(range(len(found)), changes):
        found[place] = f"changed{draw.randrange(10**6)}"
    return " ".join(found)


def jaccard(one: str, other: str) -> float:
    """Similarity of the sets of three words in a row."""
    sets = [{tuple(some[i : i + 3]) for i in range(len(some) - 2)} for some in (one.split(), other.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def row(fields: dict) -> dict:
    return normalise(fields, recognise(fields, {})[0], {}, "row")


def signatures(rows: list[dict], shared: tuple = ()) -> np.ndarray:
    """The signatures of normalised rows."""
    said = duplicates.row_hashes(rows)
    return duplicates.minima(*said[:3], np.array(shared, np.uint32))


def kept(*fields: dict, threshold: float | None = 0.8, validation: float = 0.0) -> list[int]:
    """Which of the rows are kept, from 0."""
    write("rows.jsonl", lines(*fields))
    prepare(near_duplicates=threshold, validation=validation)
    return sorted(int(row["place"].rsplit(" ", 1)[1]) - 1 for split in ("train", "validation") for row in read(split))


# ---- equal rows


def test_rows_are_equal_by_what_they_say_and_not_by_how_it_is_written(in_folder):
    same = [
        {"prompt": "q", "completion": "a", "source": "x"},
        {"prompt": [user("q")], "completion": [assistant("a")]},
        {"completion": {"role": "Assistant", "content": "a"}, "prompt": "q", "system": None},
    ]
    assert kept(*same, {"prompt": "q", "completion": "a "}, threshold=None) == [0, 3]
    assert [line["kind"] for line in dropped()] == ["repeated", "repeated"]


def test_a_repeat_is_of_the_first_of_all_equal_rows():
    ids = np.array([b"a", b"b", b"a", b"c", b"b", b"a"], "V16")
    assert duplicates.equal(ids).tolist() == [-1, -1, 0, -1, 1, 0]


# ---- nearly equal rows


def test_edited_rows_are_found_and_others_are_not(in_folder):
    """Of texts of 120 words with 1 to 3 changed, all are at least 0.85 alike; found are nearly all, and nothing else."""
    texts_ = [words(120, seed) for seed in range(200)]
    changed = [edited(text, 1 + seed % 3, seed) for seed, text in enumerate(texts_)]
    assert min(map(jaccard, texts_, changed)) >= 0.85
    found = kept(*({"text": text} for text in texts_ + changed), threshold=0.8)
    assert found[:200] == list(range(200))
    assert len(found) - 200 <= 4  # of 200; a band of 8 minima is missed with 0.3 ** 16
    assert {line["kind"] for line in dropped()} == {"near duplicate"}
    for line in dropped():
        number = int(line["place"].rsplit(" ", 1)[1]) - 200
        assert line["reason"].endswith(f"% like rows.jsonl line {number}")


def test_rows_that_are_half_alike_are_kept(in_folder):
    texts_ = [words(100, seed) for seed in range(100)]
    changed = [edited(text, 20, seed) for seed, text in enumerate(texts_)]
    assert max(map(jaccard, texts_, changed)) <= 0.6
    assert len(kept(*({"text": text} for text in texts_ + changed), threshold=0.8)) == 200


@pytest.mark.parametrize("kind", ["messages", "preference", "unpaired", "alpaca"])
def test_an_edited_row_of_any_shape_is_found_and_one_with_another_answer_is_kept(in_folder, kind):
    def fields(question: str, answer: str) -> dict:
        return {
            "messages": {"messages": [system("Be brief."), user(question), assistant(answer)]},
            "preference": {"prompt": question, "chosen": answer, "rejected": words(20, 7)},
            "unpaired": {"prompt": question, "completion": answer, "label": False},
            "alpaca": {"instruction": question, "output": answer},
        }[kind]

    question, answer = words(60, 1), words(60, 2)
    assert kept(
        fields(question, answer), fields(edited(question, 1, 3), answer), fields(question, edited(answer, 1, 4))
    ) == [0, 2]


def test_case_and_signs_make_no_difference(in_folder):
    text = words(30, 1)
    assert kept({"text": text}, {"text": text.upper() + "!"}, {"text": text.replace(" ", "  ") + " ..."}) == [0]
    assert {line["reason"] for line in dropped()} == {"99% like rows.jsonl line 1"}


LONG, ANSWER, OTHER = words(300, 1), words(12, 2), words(12, 3)
DIFFERENT = {
    "numbers": [
        {"prompt": "What is 2+3?", "completion": "5"},
        {"prompt": "What is 2+4?", "completion": "6"},
        {"prompt": "What is 1+4?", "completion": "5"},
    ],
    "numbers in a long problem": [
        {
            "prompt": f"{words(100, 1)} If there are {n} of them, how many are left?",
            "completion": f"{n} - 2 = {n - 2}, and so {n - 2} are left.",
        }
        for n in (17, 18)
    ],
    "swapped answers": [
        {"prompt": LONG, "chosen": ANSWER, "rejected": OTHER},
        {"prompt": LONG, "chosen": OTHER, "rejected": ANSWER},
    ],
    "another label": [{"prompt": LONG, "completion": ANSWER, "label": label} for label in (True, False)],
    "another answer": [{"prompt": LONG, "completion": answer} for answer in (ANSWER, OTHER)],
    "another sign": [{"prompt": LONG, "completion": answer} for answer in ("5", "-5", "x + y", "x - y", "+", "-")],
    "another thought": [
        {"messages": [user(LONG), assistant("5") | {"reasoning_content": words(12, n)}]} for n in (1, 2)
    ],
    "a shared system prompt": [
        {"messages": [system(LONG), user(words(8, n)), assistant(words(8, -n))]} for n in (1, 2, 3)
    ],
    "other calls": [
        {
            "messages": [
                user("What is the weather in this town today?"),
                {"role": "assistant", "tool_calls": [{"name": name, "arguments": {"town": name}}]},
            ]
        }
        for name in ("ulm", "rome")
    ],
    "signs only": [{"text": sign} for sign in ("?!", "...", "😀", "🙂")],
    "short texts": [{"text": text} for text in ("yes", "no", "yes no", "no yes")],
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_rows_that_only_look_alike_are_kept(in_folder, case):
    assert kept(*DIFFERENT[case]) == list(range(len(DIFFERENT[case])))


def test_what_is_said_about_another_image_is_kept(in_folder):
    write("red.png", image())
    write("blue.png", image("blue"))
    rows = [
        {"image": name, "messages": [user("<image> Is it a colour that people like?"), assistant("Yes, they do.")]}
        for name in ("red.png", "blue.png")
    ]
    assert kept(*rows) == [0, 1]


def test_the_similarity_that_counts_is_the_dataset_s(in_folder):
    text = words(100, 1)
    rows = [{"text": text}, {"text": edited(text, 2, 2)}]
    assert 0.85 < jaccard(text, rows[1]["text"]) < 0.9
    assert kept(*rows, threshold=0.97) == [0, 1]
    assert kept(*rows, threshold=0.75) == [0]


def test_the_estimate_is_the_jaccard_similarity():
    text = words(400, 1)
    for changes in (2, 10, 30):
        other = edited(text, changes, changes)
        one, two = signatures([row({"text": text}), row({"text": other})])
        assert (one == two).mean() == pytest.approx(jaccard(text, other), abs=0.13)  # three standard errors


def test_a_signature_depends_on_nothing_but_its_row():
    some = [row({"text": words(n, n)}) for n in range(1, 50)] + [row({"text": "?"})]
    together = signatures(some)
    assert together.shape == (50, duplicates.PERMUTATIONS)
    alone = np.concatenate([signatures([one]) for one in some])
    assert (together == alone).all()
    assert (together == signatures(some[::-1])[::-1]).all()


def test_what_many_rows_say_does_not_count(tmp_path):
    """Rows of 100 shared words, system prompt included, and 12 of their own: nothing of the former is left to compare."""
    rows = [row({"messages": [system(LONG), user(words(12, n)), assistant("Yes.")]}) for n in range(30)]
    said = duplicates.row_hashes(rows)
    said.triples.tofile(tmp_path / "triples")
    shared = duplicates.shared_triples(tmp_path / "triples", said.counts, said.words)
    assert len(shared) == 298 + 1  # the prompt's, and that of the answer's one word with nothing after it
    one, two = signatures(rows[:2])
    assert (one == two).mean() > 0.8
    one, two = signatures(rows[:2], tuple(shared))
    assert (one == two).mean() < 0.1
    assert len(duplicates.shared_triples(tmp_path / "triples", said.counts[:10], said.words[:10])) == 0


def test_no_rows_have_no_bands():
    assert duplicates.bands(np.empty((0, duplicates.PERMUTATIONS), np.uint16)).shape == (0, duplicates.BANDS)


# ---- rows of one template: reviews, questions, classes under one instruction

INSTRUCTION = words(153, 11)
CLASSES = ("positive", "negative", "neutral")


def reviews(count: int, own: int) -> list[dict]:
    """Distinct reviews under one system prompt and instruction, in three equal classes."""
    return [
        {
            "messages": [
                system(LONG),
                user(f"{INSTRUCTION} Review: {words(own, n)} {n}."),
                assistant(CLASSES[n % 3]),
            ]
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("threshold", [None, 0.5, 0.8])
def test_1200_reviews_under_one_instruction_stay_1200(in_folder, threshold):
    assert kept(*reviews(1200, own=15), threshold=threshold, validation=0.1) == list(range(1200))
    said = [row["messages"][-1]["content"] for split in ("train", "validation") for row in read(split)]
    assert [said.count(name) for name in CLASSES] == [400] * 3
    assert len(read("validation")) == 120
    assert dropped() == []


def test_near_rows_are_counted_and_kept_where_nothing_is_asked(in_folder):
    question = words(60, 1)
    rows = [
        {"prompt": question, "completion": "yes"},
        {"prompt": edited(question, 1, 2), "completion": "yes"},
        {"prompt": edited(question, 1, 3), "completion": "no"},
    ]
    write("rows.jsonl", lines(*rows, {"prompt": words(60, 4), "completion": "yes"}))
    data = prepare()
    assert data["train"] == 4
    near = data["near"]
    assert (near["rows"], near["same_answer"], near["left_out"], near["similarity"]) == (2, 1, False, 0.8)
    assert [example["place"] for example in near["examples"]] == ["rows.jsonl line 2", "rows.jsonl line 3"]
    assert {example["like"] for example in near["examples"]} == {"rows.jsonl line 1"}
    data = prepare(near_duplicates=0.8)
    assert (data["train"], data["dropped"]["near duplicate"], data["near"]["left_out"]) == (3, 1, True)


def test_a_row_is_left_out_for_one_that_is_kept():
    """Each of three rows is near the one before, and the last is not near the first: it goes only where the second stays."""
    some = [duplicates.Links(np.array(a), np.array(b), np.array(c)) for a, b, c in [([1, 2], [0, 1], [0.9, 0.9])]]
    found = duplicates.repeats(some[0], np.zeros(3))
    assert (found.rows.tolist(), found.earlier.tolist()) == ([1], [0])
    found = duplicates.repeats(some[0], np.array([1, 0, 0]))
    assert (found.rows.tolist(), found.earlier.tolist()) == ([2], [1])


# ---- what is held out


def test_near_duplicates_of_held_out_rows_are_taken_out_of_training(in_folder):
    held_out = [words(60, seed) for seed in range(5)]
    write("held_out.jsonl", lines(*({"text": text} for text in held_out)))
    write("rows.jsonl", lines(*({"text": edited(text, 1, 1)} for text in held_out), {"text": words(60, 99)}))
    data = prepare(validation="held_out.jsonl", near_duplicates=0.8)
    assert (texts("validation"), texts()) == (held_out, [words(60, 99)])
    assert data["dropped"]["also held out"] == 5
    assert {line["place"] for line in dropped()} == {f"rows.jsonl line {number}" for number in range(1, 6)}


def test_near_duplicates_are_never_on_both_sides_of_a_split(in_folder):
    some = [words(60, seed) for seed in range(100)]
    everything = [text for seed, text in enumerate(some) for text in (text, edited(text, 1, seed))]
    write("rows.jsonl", lines(*({"text": text} for text in everything)))
    prepare(validation=0.5, near_duplicates=0.8)
    assert len(contents()) + len(contents("validation")) <= 102
    assert min(len(contents()), len(contents("validation"))) > 30
    train, validation = set(texts()), set(texts("validation"))
    both = [seed for seed, text in enumerate(some) if {text, edited(text, 1, seed)} <= train | validation]
    assert len(both) <= 2  # not found at all
