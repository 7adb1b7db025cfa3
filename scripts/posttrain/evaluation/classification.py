"""A classifier on held-out texts: which class it gives each, and what the most frequent class would give."""

from posttrain.data.samples import conversation
from posttrain.data.tokens import unknown_class
from posttrain.evaluation import suites
from posttrain.evaluation.candidate import Candidate, Row
from posttrain.evaluation.example_scores import Examples, key
from posttrain.inference import scoring
from posttrain.inference.sharing import shared
from posttrain.runtime.atomic import read_json

MAJORITY = "majority class"  # the most frequent one of the training rows, for every text


def predict(candidate: Candidate, classes: list[str]) -> list[Row]:
    """The class of every held-out text.

    Args:
        classes: of the classifier, by their numbers.

    Raises:
        UserError: a text has a label that is none of them.
    """
    found = []
    for data in candidate.spec["data"]:
        rows, examples = suites.held_out_tokens(candidate, "", data["name"], candidate.spec["limit"])
        if not rows or "label" not in rows[0]:
            continue
        if unknown := {row["label"] for row in rows} - {*classes}:
            raise unknown_class(min(unknown), classes, data["name"])
        scores = scoring.class_scores(
            candidate.model, [tuple(row["input_ids"]) for row in rows], candidate.spec["batch_tokens"], shared
        )
        texts = suites.HeldOut(candidate.data[data["name"]]).read(row["id"] for row in rows)
        for row, example, given in zip(rows, examples, scores, strict=True):
            said = classes[given.index(max(given))]
            prompt = texts[conversation(row["id"])]["text"]
            found.append(
                example
                | {"prompt": prompt, "output": said, "reference": row["label"]}
                | _right(row["label"], said, classes)
            )
    return found


def majority(candidate: Candidate, examples: list[Row], classes: list[str]) -> Examples:
    """The same examples, each with the most frequent class of its dataset's training rows."""
    found = {}
    for example in examples:
        counts = read_json(suites.tokens_folder(candidate, example["dataset"]) / "report.json")["train"]["classes"]
        said = max(sorted(counts), key=counts.get)
        found[key(example)] = example | {"output": said} | _right(example["reference"], said, classes)
    return found


def _right(label: str, said: str, classes: list[str]) -> Row:
    """Whether a text has its class, and for each class whether it is a true positive, a false positive or a false negative."""
    counts = [
        float(hit) for one in classes for hit in (one == label == said, one == said != label, one == label != said)
    ]
    return {"right_class": float(label == said), "confusion": counts}
