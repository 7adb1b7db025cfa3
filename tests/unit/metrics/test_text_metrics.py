"""What answers are worth: each metric beside its definition, and the metrics of a corpus beside sacrebleu's own."""

import json
import random
import warnings

import numpy as np
import pytest
import sacrebleu
from conftest import REPOSITORY
from rouge_score.rouge_scorer import RougeScorer

from posttrain.metrics.text_metrics import NAMES, corpus_bleu, corpus_chrf, is_pattern, score

CORPUS = {"bleu": (corpus_bleu, sacrebleu.corpus_bleu), "chrf": (corpus_chrf, sacrebleu.corpus_chrf)}


def value(name: str, output: str, reference: str = "", pattern: str | None = None) -> float:
    return score([name], [output], [reference], pattern)[0][name]


def counts(name: str, outputs: list[str], references: list[str]) -> np.ndarray:
    """What `corpus_bleu` and `corpus_chrf` read: (10 or 18, n)."""
    return np.array([example[name] for example in score([name], outputs, references, None)]).T


# ---- metrics of a corpus


def solutions() -> tuple[list[str], list[str]]:
    """Real text: GSM8K's solutions, each with the same one broken, or with another problem's."""
    lines = (REPOSITORY / "examples/data/gsm8k_pairs.jsonl").read_text().splitlines()
    chosen, rejected = ([json.loads(line)[side] for line in lines] for side in ("chosen", "rejected"))
    return chosen + chosen[1:], rejected + rejected[:-1]


def invented(generator: random.Random) -> tuple[list[str], list[str]]:
    """A few texts of few words, so that some have no n-grams, some none that match, and some nothing at all."""
    vocabulary = ["a", "b b", "c.", "d,", "5,3", "Haus", "한국", "你好", "😀", "\n"][: generator.randint(1, 10)]

    def text() -> str:
        return " ".join(generator.choices(vocabulary, k=generator.randint(0, 9)))

    n = generator.randint(1, 5)
    return [text() for _ in range(n)], [text() for _ in range(n)]


@pytest.mark.parametrize("name", CORPUS)
def test_real_text_scores_as_sacrebleu_has_it(name):
    ours, theirs = CORPUS[name]
    outputs, references = solutions()
    for n in (1, 7, len(outputs)):
        expected = theirs(outputs[:n], [references[:n]]).score
        assert ours(counts(name, outputs[:n], references[:n])) == pytest.approx(expected, abs=1e-9)
        assert 20 < expected < 99
    assert ours(counts(name, outputs, outputs)) == pytest.approx(100, abs=1e-9)


@pytest.mark.parametrize("name", CORPUS)
def test_random_text_scores_as_sacrebleu_has_it(name):
    ours, theirs = CORPUS[name]
    generator = random.Random(0)
    scores = []
    for _ in range(200):
        outputs, references = invented(generator)
        scores.append(theirs(outputs, [references]).score)
        assert ours(counts(name, outputs, references)) == pytest.approx(scores[-1], abs=1e-9), (outputs, references)
    assert 0.0 in scores and max(scores) > 50 and len(set(scores)) > 50


@pytest.mark.parametrize("name", CORPUS)
def test_all_resamples_are_scored_at_once_without_a_warning(name):
    ours, _ = CORPUS[name]
    columns = counts(name, ["a b c d e", "", "f", "g h i j"], ["a b c d", "k", "", "g h i x"])
    drawn = np.random.default_rng(0).integers(4, size=(2, 50, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = ours(columns.take(drawn, axis=1))
    assert values.shape == (2, 50)
    assert values[1, 7] == ours(columns[:, drawn[1, 7]])
    assert len(set(values.ravel().tolist())) > 5


# ---- metrics of an example


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_of_english_is_rouge_scores_own(name):
    outputs, references = solutions()
    theirs = RougeScorer([name], use_stemmer=False)
    values = [example[name] for example in score([name], outputs, references, None)]
    assert values == [theirs.score(r, o)[name].fmeasure for o, r in zip(outputs, references, strict=True)]
    assert len(set(values)) > 10 and 0.3 < np.mean(values) < 0.9


@pytest.mark.parametrize(
    ("name", "worth"), [("rouge1", 0.75), ("rouge2", 1 / 3), ("rougeL", 0.75), ("exact_match", 0), ("chrf", None)]
)
def test_korean_has_words_too(name, worth):
    """rouge-score's own tokenizer gives 0 for it."""
    found = value(name, "나는 오늘 밥을 먹었다.", "나는 어제 밥을 먹었다!")
    assert found == pytest.approx(worth) if worth is not None else sum(found) > 0


@pytest.mark.parametrize(
    ("output", "worth"), [("Yes, I do.", 1), ("  Yes,\n I do. ", 1), ("yes, I do.", 0), ("Yes, I do", 0), ("", 0)]
)
def test_an_exact_match_is_the_whole_text_but_for_blanks(output, worth):
    assert value("exact_match", output, "Yes, I  do.\n") == worth


@pytest.mark.parametrize(
    ("output", "number", "marked"), [("so\n#### 72", 1, 1), ("It is 72.", 1, 0), ("#### 7", 0, 1), ("", 0, 0)]
)
def test_numbers_are_read_as_rewards_reads_them(output, number, marked):
    assert score(["final_number", "answer_format"], [output], ["#### 72"], None) == [
        {"final_number": number, "answer_format": marked}
    ]


def test_a_pattern_is_looked_for_anywhere_and_the_reference_does_not_matter():
    found = score(["regex", "exact_match"], ["It is (B).", "(E)", "B"], ["x", "(E)", "B"], r"\([A-D]\)")
    assert found == [
        {"regex": 1, "exact_match": 0},
        {"regex": 0, "exact_match": 1},
        {"regex": 0, "exact_match": 1},
    ]


@pytest.mark.parametrize(
    ("output", "reference", "worth"),
    [
        ("Two.", "2", 1),
        ("the red circle", "A Red circle!", 1),
        ("It isn\u2019t", "it isnt", 1),
        ("1,000 m", "1000 m", 1),
        ("3.5", "3 5", 0),
        ("black-and-white", "black and white", 1),
        ("None", "0", 1),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8", 1),  # syllables, and the letters that they are made of
        ("red", "blue", 0),
        ("", "red", 0),
    ],
)
def test_answers_about_pictures_are_compared_as_the_vqa_challenge_does(output, reference, worth):
    assert value("vqa", output, reference) == worth


@pytest.mark.parametrize(
    ("output", "reference", "worth"),
    [
        ("Contact  us", "contact us", 1.0),
        ("kitten", "sitting", 1 - 3 / 7),
        ("2019", "2018", 0.75),
        ("ab", "cb", 0.0),  # half of it is changed
        ("a", "a long answer", 0.0),
        ("", "", 1.0),
        ("", "x", 0.0),
    ],
)
def test_anls_is_that_of_the_scene_text_challenge(output, reference, worth):
    assert value("anls", output, reference) == pytest.approx(worth)


def test_cider_is_pycocoevalcaps_own_with_weights_of_all_references():
    from pycocoevalcap.cider.cider import Cider

    outputs = ["A red circle, and a blue square.", "two dogs", "two dogs"]
    references = ["a red circle and a blue square", "Two dogs run.", "a cat sleeps"]
    plain = ["a red circle and a blue square", "two dogs run", "a cat sleeps"]
    theirs = Cider().compute_score(
        {i: [text] for i, text in enumerate(plain)},
        {0: [plain[0]], 1: ["two dogs"], 2: ["two dogs"]},
    )[1]
    ours = [example["cider"] for example in score(["cider"], outputs, references, None)]
    assert ours == pytest.approx(theirs.tolist()) and ours[0] > 9 and 0 < ours[1] < ours[0] and ours[2] == 0
    assert [example["cider"] for example in score(["cider"], ["", "a"], ["!", ""], None)] == [0, 0]
    korean = score(["cider"], ["빨간 원", "고양이가 잔다"], ["빨간 원.", "개가 잔다"], None)
    assert korean[0]["cider"] > korean[1]["cider"] > 0


VALUES = {
    '{"a": [1, -2.5e3, null]}': 1,
    ' "text" ': 1,
    "7\n": 1,
    '```json\n{"a": 1}\n```': 1,
    "```\n[]\n```\n": 1,
    '```json\n{"code": "```"}\n```': 1,
    "9" * 5000: 1,
    "": 0,
    "{'a': 1}": 0,
    '{"a": 1,}': 0,
    '{"a": 1} {"b": 2}': 0,
    'Here it is: {"a": 1}': 0,
    '```json\n{"a": 1}': 0,
    "```python\n[]\n```": 0,
    "NaN": 0,
    '{"a": -Infinity}': 0,
    "[" * 100_000: 0,
}


@pytest.mark.parametrize("output", VALUES, ids=lambda text: text[:20])
def test_json_is_one_value_perhaps_in_a_fence(output):
    assert value("json", output) == VALUES[output]


@pytest.mark.parametrize("output", ["", " ", "\n", "😀", "\x00", "word " * 300])
def test_every_metric_takes_any_text(output):
    for reference in ("", "a b", output):
        (example,) = score(list(NAMES), [output], [reference], "b")
        assert set(NAMES) - example.keys() == {"parallel_calls", "error_recovery"}  # of some examples only
        sizes = {name: len(of) for name, of in example.items() if isinstance(of, list)}
        assert sizes == {"bleu": 10, "chrf": 18, "wer": 2, "cer": 2}
        assert all(type(of) is float for name, of in example.items() if name not in sizes)


@pytest.mark.parametrize(
    ("pattern", "why"), [("(", "missing )"), ("[z-a]", "bad character range"), ("a{9999999999}", "large")]
)
def test_what_is_no_pattern_says_why(pattern, why):
    assert why in is_pattern(pattern)


def test_a_pattern_says_nothing():
    assert is_pattern(r"####\s*\d+") is None


def test_no_name_in_the_results_can_be_taken_by_a_function():
    from posttrain.evaluation import example_scores
    from posttrain.metrics import statistics, text_metrics

    names = {*example_scores.TEXTS, *example_scores.SOMETIMES, *example_scores.PARTS, *statistics.METRICS}
    assert names <= {*text_metrics.TAKEN, *text_metrics.NAMES}
