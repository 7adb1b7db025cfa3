"""Which rows repeat an earlier one, equal or nearly so, and which only look like it."""

import random

import numpy as np
import pytest

from posttrain import duplicates
from posttrain.recognition import recognise
from posttrain.rows import normalise
from unit.test_prepare_data import assistant, contents, dropped, image, lines, prepare, read, system, texts, user, write

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
    original, similarity = duplicates.originals(ids, None, None, None)
    assert original.tolist() == [-1, -1, 0, -1, 1, 0]
    assert similarity.tolist() == [1] * 6


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
def test_an_edited_row_of_any_shape_is_found(in_folder, kind):
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
    ) == [0]


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
        one, two = duplicates.signatures([row({"text": text}), row({"text": other})])[:, : duplicates.PERMUTATIONS]
        assert (one == two).mean() == pytest.approx(jaccard(text, other), abs=0.13)  # three standard errors


def test_a_signature_depends_on_nothing_but_its_row():
    some = [row({"text": words(n, n)}) for n in range(1, 50)] + [row({"text": "?"})]
    together = duplicates.signatures(some)
    assert together.shape == (50, duplicates.WIDTH)
    alone = np.concatenate([duplicates.signatures([one]) for one in some])
    assert (together == alone).all()
    assert (together == duplicates.signatures(some[::-1])[::-1]).all()


def test_no_rows_have_no_bands():
    assert duplicates.bands(np.empty((0, duplicates.WIDTH), np.uint16)).shape == (0, duplicates.BANDS)


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
