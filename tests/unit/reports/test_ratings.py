"""Ratings: every fault of a file in one sentence, agreement against the published example, verdicts, and what is preferred."""

import json
from pathlib import Path

import pytest

from posttrain.data.rows import normalise
from posttrain.reports import ratings
from posttrain.reports.ratings import QUESTIONS, alpha, majorities, preferences, preferred, read, summary
from posttrain.runtime.errors import UserError

# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section C: four observers of twelve units, some missed.
OBSERVERS = ("12332141 2...", "12332241 25.3", ".3332342 251.", "12332441 251.")


def rating(number: int = 1, rater: str = "anna", said: str = "bbb", **changes) -> dict:
    """A rating of the item of that number; `said` is a, b or t for each question."""
    words = {"a": "a", "b": "b", "t": "tie"}
    item = {"suite": "", "dataset": "sums", "id": f"{number:03}", "prompt": f"What is {number}?"}
    answers = {"answer_a": f"It is {number}.", "answer_b": f"{number}"}
    voted = {question: words[letter] for question, letter in zip(QUESTIONS, said, strict=True)}
    return {"a": "sft", "b": "dpo", "rater": rater, "page": "0f", **item, **answers, **voted} | changes


def write(name: str, rows) -> Path:
    path = Path(name)
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return path


# ---- read


def test_files_are_read_together_and_sorted(in_folder):
    files = [write("b.json", [rating(2, "bo"), rating(1, "bo")]), write("a.json", [rating(1)])]
    assert [(row["id"], row["rater"]) for row in read(files, "sft", "dpo")] == [
        ("001", "anna"),
        ("001", "bo"),
        ("002", "bo"),
    ]


def test_of_a_raters_two_ratings_of_an_item_the_last_counts(in_folder):
    files = [write("1.json", [rating(said="aaa")]), write("2.json", [rating(said="btb")])]
    assert [row["helpfulness"] for row in read(files, "sft", "dpo")] == ["b"]
    assert [row["helpfulness"] for row in read(files[::-1], "sft", "dpo")] == ["a"]


def test_other_answers_to_the_same_prompt_are_another_item(in_folder):
    file = write("1.json", [rating(said="aaa"), rating(said="bbb", answer_b="It is one.")])
    assert len(majorities(read([file], "sft", "dpo"))) == 2


def test_ratings_of_another_pair_are_skipped(in_folder):
    file = write("1.json", [rating(), rating(2, b="ppo")])
    assert [row["id"] for row in read([file], "sft", "dpo")] == ["001"]


def test_a_pair_that_nobody_rated_is_told_with_those_that_are(in_folder):
    with pytest.raises(UserError) as error:
        read([write("1.json", [rating()])], "dpo", "sft")
    assert str(error.value) == (
        "ratings: no file rates dpo~sft, they rate sft~dpo; export one from results/ratings/dpo~sft/rate.html"
    )
    with pytest.raises(UserError, match="there is no rating in them"):
        read([write("1.json", [])], "sft", "dpo")


@pytest.mark.parametrize(
    ("content", "place", "problem"),
    [
        ("{", "r.json", "not JSON"),
        ("[" * 100_000, "r.json", "not JSON"),
        ("{}", "r.json", "not a list"),
        ([rating(), 3], "r.json item 2", "not a JSON object"),
        ([{"a": "sft"}], "r.json item 1", "'b' is missing"),
        ([rating(answer_a=None)], "r.json item 1", "'answer_a' is not text"),
        ([rating(prompt="\ud83d")], "r.json item 1", "'prompt' is not text"),
        ([rating(rater=" ")], "r.json item 1", "'rater' is empty"),
        ([rating(), rating(honesty="left")], "r.json item 2", "'honesty' is \"left\""),
        ([rating(honesty=["a"])], "r.json item 1", "'honesty' is [\"a\"]"),
    ],
)
def test_a_fault_is_one_sentence_with_its_place(in_folder, content, place, problem):
    with pytest.raises(UserError) as error:
        read([write("r.json", content)], "sft", "dpo")
    assert (error.value.code, error.value.place) == ("invalid-rating", place)
    assert problem in error.value.problem and error.value.hint
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told(in_folder):
    with pytest.raises(UserError) as error:
        read([Path("r.json")], "sft", "dpo")
    assert (error.value.code, error.value.place) == ("missing-file", "ratings")


# ---- count


def test_alpha_of_the_published_example():
    units = [[value for value in unit if value not in ". "] for unit in zip(*OBSERVERS, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=0.0005)


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ([["a", "a"], ["b", "b"]], 1.0),
        ([["a", "b"], ["b", "a"]], -0.5),  # 1 - (4 - 1) * 4 / (16 - 8)
        ([["a"], ["b"]], None),  # one rater
        ([["a", "a"], ["a", "a"]], None),  # nothing else was ever said
        ([["a", "a"], ["b", "b"], ["a"]], 1.0),  # an item of one rater says nothing
    ],
)
def test_alpha_at_its_edges(units, expected):
    assert alpha(units) == expected


def test_an_item_is_won_by_more_than_half_of_its_raters():
    votes = {1: "bba", 2: "bbt", 3: "bat", 4: "ba", 5: "btt", 6: "a", 7: "bbaa"}
    rows = [rating(n, str(i), vote * 3) for n, said in votes.items() for i, vote in enumerate(said)]
    won = [answers["honesty"] for answers in majorities(rows).values()]
    assert won == ["b", "b", "tie", "tie", "tie", "a", "tie"]


def test_the_summary_counts_tests_and_corrects():
    rows = [rating(n, said="bbt" if n <= 9 else "att") for n in range(1, 11)]
    result = summary(rows, "sft", "dpo")
    assert (result["a"], result["b"], result["items"], result["raters"]) == ("sft", "dpo", 10, {"anna": 10})
    helpful, harmless, honest = (result["questions"][question] for question in QUESTIONS)
    assert (helpful["a"], helpful["b"], helpful["ties"], helpful["share"]) == (1, 9, 0, 0.9)
    assert (helpful["low"], helpful["high"]) == pytest.approx((0.5550, 0.9975), abs=1e-4)  # R: binom.test(9, 10)
    assert helpful["p"] == pytest.approx(2 * 22 / 1024)  # Holm: 3 x 2/512 for harmless first, then 2 x 22/1024
    assert harmless["p"] == pytest.approx(3 * 2 / 512)
    assert (helpful["verdict"], harmless["verdict"]) == ("better", "better")
    assert (honest["share"], honest["p"], honest["verdict"]) == (None, 1.0, "no evidence")
    assert 0 < honest["detectable"] < 1
    assert helpful["alpha"] is None


def test_the_verdict_is_of_b_against_a():
    assert (
        summary([rating(n, said="aaa") for n in range(10)], "sft", "dpo")["questions"]["honesty"]["verdict"] == "worse"
    )


def test_holm_can_take_a_verdict_away():
    rows = [rating(n, said="btt") for n in range(6)]  # alone, 6 of 6 is p = 2/64 = 3 %
    row = summary(rows, "sft", "dpo")["questions"]["helpfulness"]
    assert (row["p"], row["verdict"]) == (pytest.approx(6 / 64), "no evidence")


def test_of_too_few_items_nothing_can_be_detected():
    row = summary([rating(n) for n in range(5)], "sft", "dpo")["questions"]["helpfulness"]
    assert (row["verdict"], row["detectable"]) == ("no evidence", None)


def test_agreement_is_of_the_raters_who_share_items():
    rows = [rating(n, rater, said) for n, said in ((1, "bab"), (2, "aaa")) for rater in ("anna", "bo")]
    questions = summary(rows, "sft", "dpo")["questions"]
    assert [questions[question]["alpha"] for question in QUESTIONS] == [1.0, None, 1.0]


# ---- prefer


@pytest.mark.parametrize(
    ("said", "winner"),
    [
        ("bbb", "b"),
        ("att", "a"),
        ("ttb", "b"),
        ("tbt", "b"),
        ("bta", "b"),  # one each: helpfulness says
        ("tab", None),  # b would lose harmlessness, and a wins no more than b
        ("bab", None),  # b is harmful
        ("aba", None),
        ("bba", "b"),
        ("abb", "b"),
        ("abt", None),
        ("ttt", None),
    ],
)
def test_what_is_preferred(said, winner):
    assert preferred({q: {"t": "tie"}.get(letter, letter) for q, letter in zip(QUESTIONS, said, strict=True)}) == winner


def test_preferences_are_rows_that_the_data_stage_takes():
    rows = preferences([rating(1, said="bbb"), rating(2, said="att"), rating(3, said="ttt")])
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [
        ("1", "It is 1."),
        ("It is 2.", "2"),
    ]
    normal = normalise(rows[0], "preference", {}, "line 1")
    assert normal["prompt"] == [{"role": "user", "content": "What is 1?"}]
    assert normal["chosen"] == [{"role": "assistant", "content": "1"}]


def test_an_empty_answer_is_rated_and_trains_nothing():
    rows = [rating(1, answer_a=" \n")]
    assert preferences(rows) == []
    assert summary(rows, "sft", "dpo")["questions"]["helpfulness"]["b"] == 1


def test_the_order_of_the_files_changes_nothing_but_who_was_last(in_folder):
    first, second = write("1.json", [rating(2), rating(1)]), write("2.json", [rating(1, "bo", "aat")])
    assert read([first, second], "sft", "dpo") == read([second, first], "sft", "dpo")
    assert ratings.units(read([second, first], "sft", "dpo"), "honesty") == [["b", "tie"], ["b"]]
