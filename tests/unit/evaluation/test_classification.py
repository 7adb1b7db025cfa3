"""Classifiers on held-out texts: which class each gets, the most frequent class, macro-F1."""

from pathlib import Path

import numpy as np
import pytest
from conftest import refused, write_rows

import tokenize_data
from posttrain.data.rows import normalise
from posttrain.data.tokens import classes, tokenise
from posttrain.evaluation import classification, suites
from posttrain.evaluation.example_scores import columns, key, measured
from posttrain.inference import scoring
from posttrain.models import loading
from posttrain.runtime import atomic

TEXTS = ("play jazz", "rate it", "play on", "rain?", "play it")
LABELS = ("play", "rate", "play", "weather", "play")


def labelled(texts, labels) -> list[dict]:
    pairs = zip(texts, labels, strict=True)
    return [normalise({"text": text, "label": label}, "labelled_text", {}, "row line 1") for text, label in pairs]


def test_a_label_is_a_name_or_a_number():
    assert [row["label"] for row in labelled("ab", (3, "x"))] == ["3", "x"]
    for label in (True, 0.5, " ", ["x"]):
        with refused("invalid-row"):
            labelled("a", (label,))


def test_texts_of_one_wording_and_two_classes_are_different_rows():
    one, other = labelled(("play it", "play it"), ("play", "rate"))
    assert one["id"] != other["id"]


def test_tokens_are_those_of_transformers_pipeline(random_tiny_tokenizer):
    found, counts = tokenise(random_tiny_tokenizer, labelled(TEXTS, LABELS), "labelled_text", 100)
    assert [row["input_ids"] for row in found] == [random_tiny_tokenizer(text)["input_ids"] for text in TEXTS]
    assert counts["classes"] == {"play": 3, "rate": 1, "weather": 1}


@pytest.fixture
def candidate(in_folder, random_tiny_folder, random_tiny_tokenizer, fp32):
    """A classifier of random weights, and its held-out texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def build(labels=LABELS) -> suites.Candidate:
        rows = labelled(TEXTS, labels)
        write_rows(Path("data/intents/validation.parquet"), rows, "labelled_text")
        atomic.write_json(Path("data/intents/data.json"), {"shape": "labelled_text"})
        encoded, _ = tokenise(random_tiny_tokenizer, rows, "labelled_text", 64)
        folder = Path("tokens/intents,max_length=64")
        schema = tokenize_data.schema("labelled_text")
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(encoded, schema=schema), folder / "validation.parquet")
        report = {"shape": "labelled_text", "train": {"classes": {"play": 9, "rate": 5, "weather": 5}}}
        atomic.write_json(folder / "report.json", report)
        assert classes(folder / "report.json") == ["play", "rate", "weather"]
        model = loading.load(random_tiny_folder, reward=True, classes=["play", "rate", "weather"])
        spec = {"data": [{"name": "intents"}], "limit": 100, "max_length": 64, "batch_tokens": 64, "suites": {}}
        data = {"intents": Path("data/intents")}
        return suites.Candidate("run", model.eval(), random_tiny_tokenizer, Path("tokens"), None, "", spec, data, {})

    return build


def test_each_text_gets_the_class_with_the_highest_score(candidate, random_tiny_tokenizer):
    found = classification.predict(one := candidate(), ["play", "rate", "weather"])
    for example in found:
        ids = random_tiny_tokenizer(example["prompt"])["input_ids"]
        ((*scores,),) = scoring.class_scores(one.model, [tuple(ids)], 64)
        assert example["output"] == ["play", "rate", "weather"][int(np.argmax(scores))]
        assert example["right_class"] == (example["output"] == example["reference"])
    assert {example["prompt"]: example["reference"] for example in found} == dict(zip(TEXTS, LABELS, strict=True))


def test_the_metrics_are_sklearns(candidate):
    from sklearn.metrics import accuracy_score, f1_score

    found = classification.predict(candidate(), ["play", "rate", "weather"])
    values = {name: metric.of(columns(metric, rows)) for name, metric, rows in measured(found)}
    truth, said = ([row[name] for row in found] for name in ("reference", "output"))
    assert values == {
        "class_accuracy": pytest.approx(accuracy_score(truth, said)),
        "class_macro_f1": pytest.approx(f1_score(truth, said, average="macro", zero_division=0)),
    }


def test_the_most_frequent_class_of_the_training_rows_is_what_a_classifier_is_compared_with(candidate):
    one = candidate()
    found = classification.predict(one, ["play", "rate", "weather"])
    most = classification.majority(one, found, ["play", "rate", "weather"])
    assert most.keys() == {key(example) for example in found}
    assert {row["output"] for row in most.values()} == {"play"}
    assert sum(row["right_class"] for row in most.values()) == 3


def test_a_label_that_no_training_row_has_is_one_sentence(candidate):
    with refused("unknown-class") as error:
        classification.predict(candidate(("play", "rate", "plays", "weather", "play")), ["play", "rate", "weather"])
    assert "'plays'" in str(error.value) and "'play'" in error.value.hint
