"""Metrics by the datasets, and the parts of a mixture, that their examples come from."""

from posttrain.data.origins import apart, compared


def row(value: float) -> dict:
    return {"value": value, "low": 0.0, "high": 9.0, "n": 3}


RESULT = {
    "by_dataset": {"chats": {"perplexity": row(2)}, "mixture": {"perplexity": row(3), "accuracy": row(1)}},
    "by_part": {"mixture": {"one": {"perplexity": row(4)}}},
}


def test_a_metric_of_several_origins_has_them_all_and_one_of_one_has_none():
    assert apart(RESULT, "perplexity") == {"chats": row(2), "mixture": row(3), "mixture, one": row(4)}
    assert apart(RESULT, "accuracy") == {}
    assert apart({}, "perplexity") == {}  # of an older version


def test_of_a_mixture_alone_its_parts_are_told_and_not_the_whole_again():
    parts = {name: {"accuracy": row(value)} for name, value in (("one", 0), ("two", 1))}
    result = RESULT | {"by_part": {"mixture": parts}}
    assert apart(result, "accuracy") == {"mixture, one": row(0), "mixture, two": row(1)}


def test_the_report_has_a_table_of_each_such_metric():
    models = [
        {"name": "a", "eval": RESULT},
        {"name": "reward", "eval": {"by_dataset": {"pairs": {"accuracy": row(1)}}}},
    ]
    [table] = compared(models, ["accuracy", "perplexity"])
    assert (table["metric"], table["origins"]) == ("perplexity", ["chats", "mixture", "mixture, one"])
    assert list(table["rows"]) == ["a"]
