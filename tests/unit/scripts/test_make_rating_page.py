"""The rating page: which items it has, blind and always the same; tests/browser clicks through it."""

import json
import re
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import make_rating_page
from posttrain.runtime.errors import UserError

EVIL = "</script><script>alert('&')</script>"


def answered(name: str, outputs: dict[str, str | None], suite: str = "") -> None:
    """Leave a model's examples, an answer an id."""
    rows = [
        {
            "suite": suite,
            "dataset": "sums",
            "id": id,
            "prompt": f"What is {id}? {EVIL}",
            "reference": "x",
            "output": output,
        }
        for id, output in outputs.items()
    ]
    path = Path(f"results/{name}/eval/examples.parquet")
    path.parent.mkdir(parents=True)
    schema = pa.schema([(column, pa.string()) for column in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def examples(*names: str) -> list[Path]:
    return [Path(f"results/{name}/eval/examples.parquet") for name in names]


def build(a: str = "sft", b: str = "dpo", limit: int = 50) -> tuple[str, dict]:
    """The page and the data in it."""
    output = Path(f"results/ratings/{a}~{b}/rate.html")
    make_rating_page.main(Namespace(a=a, b=b, limit=limit, output=output, examples=examples(a, b)))
    text = output.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return text, json.loads(data)


@pytest.fixture
def two_models(in_folder) -> None:
    ids = [f"{n:02}" for n in range(40)]
    answered("sft", {id: f"sft says {id}" for id in ids})
    answered("dpo", {id: f"dpo says {id}" for id in reversed(ids)})


def test_items_are_those_that_both_answered_and_answered_differently(in_folder):
    answered("sft", {"1": "one", "2": "two\n", "3": None, "4": "four", "5": "five"})
    answered("dpo", {"1": "ONE", "2": " two", "3": "three", "4": None, "6": "six"})
    text, data = build()
    assert [(item["id"], item["answer_a"], item["answer_b"]) for item in data["items"]] == [("1", "one", "ONE")]
    assert "1 prompt with equal answers is left out" in text


def test_equal_ids_of_another_suite_are_other_examples(in_folder):
    answered("sft", {"1": "one"}, suite="easy")
    answered("dpo", {"1": "ONE"})
    with pytest.raises(UserError, match="sft and dpo have no prompt that both answered"):
        build()


def test_where_all_answers_are_equal_there_is_nothing_to_rate(in_folder):
    answered("sft", {"1": "one"})
    answered("dpo", {"1": "one"})
    with pytest.raises(UserError, match="gave the same answer to all 1 prompts"):
        build()


def test_order_and_sides_are_drawn_from_the_pair_and_the_ids(two_models):
    text, data = build()
    order = [item["id"] for item in data["items"]]
    assert sorted(order) == [f"{n:02}" for n in range(40)] != order
    assert 10 <= sum(item["b_left"] for item in data["items"]) <= 30
    assert build() == (text, data)
    assert [item["id"] for item in build("dpo", "sft")[1]["items"]] != order


def test_more_items_are_the_same_and_then_others(two_models):
    few, many = build(limit=10)[1], build(limit=30)[1]
    assert (len(few["items"]), many["items"][:10]) == (10, few["items"])
    assert few["page"] != many["page"]


def test_the_page_is_safe_whole_and_names_nobody(two_models):
    text, data = build()
    assert data["items"][0]["prompt"].endswith(EVIL)
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    shown = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "sft" not in shown and "dpo" not in shown
