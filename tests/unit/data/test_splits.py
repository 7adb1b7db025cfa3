"""How many rows are held out, which, and what that shows: exact shares, and rows that are near each other on one side."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import refused, write_rows

import prepare_data
from posttrain.data import splits
from posttrain.data.contamination import overlap
from posttrain.data.rows import group
from posttrain.preflight import measured_rows
from posttrain.runtime.errors import UserError
from unit.data.test_duplicates import edited, words
from unit.scripts.test_prepare_data import OUTPUT, assistant, lines, prepare, read, system, text_lines, user, write

PLACES = "lamp kettle desk chair tent knife hose coat clock radio phone camera".split()
KINDS = "red blue green small large old new steel wooden plastic".split()
PRODUCTS = [f"{kind} {name}" for kind in KINDS for name in PLACES]
ASKED = "How do I return my {}?"
TOLD = (
    "You can return the {} within 30 days. Put it into its box, print the label and hand the {} in at any post office."
)


def faq() -> list[dict]:
    """120 questions and answers from one template."""
    return [{"question": ASKED.format(p), "answer": TOLD.format(p, p)} for p in PRODUCTS]


def sides(**keys) -> tuple[list[dict], list[dict]]:
    prepare(**keys)
    return read("train"), read("validation")


# ---- how many


@pytest.mark.parametrize(
    ("rows", "share", "expected"),
    [
        (1000, None, 100), (120, None, 20), (100, None, 20), (60, None, 12), (4, None, 0), (10, None, 2),
        (120, 0.1, 12), (60, 0.1, 6), (5, 0.1, 1), (4, 0.1, 0), (25, 0.1, 3), (10, 0.0, 0), (1, 0.9, 0), (2, 0.9, 1), (0, None, 0),
    ],
)  # fmt: skip
def test_the_share_is_exact_and_the_default_has_a_least(rows, share, expected):
    assert splits.held_out_count(rows, share) == expected


def test_what_held_out_rows_show():
    assert splits.detectable(9) is None
    assert splits.in_words(None) == "too few to show any difference between two models"
    assert splits.detectable(12) == pytest.approx(0.578, abs=0.001)
    assert splits.detectable(100) == pytest.approx(0.128, abs=0.001)
    shown = [splits.detectable(rows) for rows in (10, 20, 100, 1000, 10_000)]
    assert shown == sorted(shown, reverse=True)
    assert splits.detectable(10**9) == splits.detectable(10_000)


# ---- which


def test_clusters_stay_whole_and_the_count_is_met():
    """Clusters of 6, 3 and 1 rows: the first two of the order do not fit together, and single rows fill up."""
    clusters = np.array([0] * 6 + [1] * 3 + list(range(2, 13)))
    hashes = np.array([5] * 6 + [1] * 3 + [10 + i for i in range(11)], np.uint64)
    kept = np.ones(20, bool)
    mask = splits.held_out(clusters, hashes, kept, 8)
    assert np.flatnonzero(mask).tolist() == [6, 7, 8, 9, 10, 11, 12, 13]
    kept[9:12] = False
    assert np.flatnonzero(splits.held_out(clusters, hashes, kept, 8)).tolist() == [6, 7, 8, 12, 13, 14, 15, 16]
    assert not splits.held_out(clusters, hashes, kept, 0).any()


def test_where_no_cluster_fits_the_smallest_is_held_out_and_never_most_of_the_rows():
    clusters, kept = np.array([0] * 6 + [1] * 4), np.ones(10, bool)
    assert np.flatnonzero(splits.held_out(clusters, clusters, kept, 2)).tolist() == [6, 7, 8, 9]
    assert not splits.held_out(np.zeros(10, int), clusters, kept, 2).any()


def test_rows_are_joined_by_prompt_and_by_nearness():
    found = splits.clusters(np.array([7, 8, 7, 9, 4], np.uint64), np.array([[1, 2], [3, 3]]))
    assert found[0] == found[1] == found[2]
    assert len(set(found.tolist())) == 3


def test_near_rows_stay_on_one_side_whatever_they_answer(in_folder):
    questions = [words(40, seed) for seed in range(60)]
    rows = [
        {"prompt": text, "completion": f"{words(5, i + 100 * turn)} {turn}"}
        for i, question in enumerate(questions)
        for turn, text in enumerate((question, edited(question, 1, i)))
    ]
    write("rows.jsonl", lines(*rows))
    train, validation = sides(validation=0.3)
    assert len(validation) == 36
    pairs = [
        {int(row["place"].rsplit(" ", 1)[1]) // 2 for row in side}
        for side in (
            [row | {"place": f"x {int(row['place'].rsplit(' ', 1)[1]) - 1}"} for row in part]
            for part in (train, validation)
        )
    ]
    assert not pairs[0] & pairs[1]


def test_rows_of_one_prompt_show_no_more_than_one(in_folder):
    write("rows.jsonl", lines(*({"prompt": words(8, i // 4), "completion": f"answer {i}"} for i in range(200))))
    data = prepare(validation=0.2)
    assert (data["validation"], data["held_out_prompts"]) == (40, 10)
    assert data["detectable"] == splits.detectable(10) > 2 * splits.detectable(40)


def test_rows_of_one_prompt_cannot_be_split_and_it_is_told(in_folder, monkeypatch):
    told = []
    monkeypatch.setattr(prepare_data, "say", lambda text, *_: told.append(text))
    write("rows.jsonl", lines(*({"prompt": "Tell a joke.", "completion": f"joke {i}"} for i in range(50))))
    assert prepare(validation=None)["validation"] == 0
    assert told == [
        "rows: 50 rows to train on, 0 held out, as nearly all share a prompt or are near each other: write a file of other rows as "
        "`validation:`, messages from prompt_completion"
    ]


def test_a_text_of_few_words_of_its_own_is_near_nothing_but_itself(in_folder):
    write("rows.jsonl", text_lines("Hello there", "Hello there!", "Hello you", "Hello", "Hello there, you"))
    assert prepare()["near"]["rows"] == 1
    assert prepare()["near"]["examples"] == [
        {"place": "rows.jsonl line 2", "like": "rows.jsonl line 1", "similarity": 0.99}
    ]


# ---- an FAQ at the first command


def test_an_faq_of_one_template_is_whole_and_shares_nothing_with_what_it_holds_out(in_folder):
    write("rows.jsonl", lines(*faq()))
    data = prepare(validation=None, columns={"prompt": "question", "completion": "answer"})
    assert (data["train"], data["validation"], sum(data["dropped"].values())) == (100, 20, 0)
    assert data["detectable"] == pytest.approx(0.367, abs=0.001)
    found = overlap(OUTPUT / "train.parquet", OUTPUT / "validation.parquet")
    assert (found["rows"], found["shared"]) == (20, 0)


ASKS = (
    "How do I return my {}?", "I want to give back the {}, how?", "The {} is broken, may I send it to you?", "Return of a {}",
    "What must I do to send my {} back?", "Is it possible to return a {}?", "I do not like the {} and want my money back",
    "Can you take back my {}?", "Who pays the postage for returning the {}?", "Where do I hand in the {} that I return?",
)  # fmt: skip
DESIGNS = {
    "one answer": [{"prompt": f"Is the {p} in stock?", "completion": TOLD.format("lamp", "lamp")} for p in PRODUCTS],
    "a grid": [
        {"prompt": ask.format(p), "completion": f"{TOLD.format(p, p)} {ask.format(p)} Thank you."}
        for ask in ASKS
        for p in PRODUCTS[:12]
    ],
    "paraphrases": [{"prompt": ask.format(p), "completion": TOLD.format(p, p)} for ask in ASKS for p in PRODUCTS[::10]],
    "small groups": [
        {"prompt": ask.format(p), "completion": f"{TOLD.format(p, p)} {words(9, n)}"}
        for n, ask in enumerate([*ASKS, *(f"Hello. {ask}" for ask in ASKS)])
        for p in PRODUCTS[6 * n : 6 * n + 6]
    ],
}


@pytest.mark.parametrize("design", DESIGNS)
def test_faqs_of_other_designs_are_whole_too(in_folder, design):
    write("rows.jsonl", lines(*DESIGNS[design]))
    data = prepare(validation=None)
    assert (data["train"], data["validation"]) == (100, 20)
    assert overlap(OUTPUT / "train.parquet", OUTPUT / "validation.parquet")["shared"] == 0


def test_rows_that_overlap_would_find_are_brought_to_one_side(in_folder):
    """Two questions of each kind: one asks all of the other and more, which makes them less alike than near rows are."""
    rows = []
    for i in range(40):
        asked, more = words(20, i), words(14, 1000 + i)
        rows += [
            {"prompt": asked, "completion": words(4, -i)},
            {"prompt": f"{more} {asked}", "completion": words(4, 500 + i)},
        ]
    write("rows.jsonl", lines(*rows))
    data = prepare(validation=0.25)
    assert data["near"]["rows"] == 0
    assert data["validation"] == 20
    assert overlap(OUTPUT / "train.parquet", OUTPUT / "validation.parquet")["shared"] == 0


# ---- a constant system prompt


def test_rows_without_a_system_prompt_get_the_datasets(in_folder):
    write(
        "rows.jsonl",
        lines({"messages": [user("q"), assistant("a")]}, {"messages": [system("Own."), user("q"), assistant("a")]}),
    )
    plain = {row["id"] for row in sides()[0]}
    first, second = sides(system="Be brief.")[0]
    assert first["messages"] == [system("Be brief."), user("q"), assistant("a")]
    assert second["messages"][0] == system("Own.")
    assert (first["id"] in plain, second["id"] in plain) == (False, True)
    assert group(first) != group(second)
    write("rows.jsonl", lines({"prompt": "q", "chosen": "a", "rejected": "b"}))
    assert sides(system="Be brief.")[0][0]["prompt"] == [system("Be brief."), user("q")]


def test_texts_have_no_system_prompt(in_folder):
    write("rows.jsonl", text_lines("one"))
    with pytest.raises(
        UserError, match=r"rows.jsonl line 1: a text has no turns, and so no system prompt; take `system:` out"
    ):
        prepare(system="Be brief.")


def test_the_system_prompt_is_in_a_spec_only_where_it_is_set(configuration):
    from posttrain.workflow.project import Project

    assert "system" not in json.loads(Project(configuration()).spec("data/chats"))
    said = Project(configuration({"datasets.chats.system": "Be brief."}))
    assert json.loads(said.spec("data/chats"))["system"] == "Be brief."
    for wrong in ("", " "):
        with refused("invalid-value", "datasets.chats.system"):
            Project(configuration({"datasets.chats.system": wrong}))


# ---- what an evaluation reads


def test_worked_examples_are_rows_of_one_question_and_one_answer(in_folder):
    turns = [user("q"), assistant("a")]
    rows = [
        {"messages": turns},
        {"messages": [*turns, *turns]},
        {"messages": [system("s"), *turns]},
        {"messages": turns},
    ]
    write_rows(Path("d/train.parquet"), [row | {"id": str(i), "place": "x"} for i, row in enumerate(rows)], "messages")
    Path("d/data.json").write_text(json.dumps({"shape": "messages"}))
    suite = {"kind": "generation", "data": {"name": "d"}, "shots": 2}
    assert measured_rows.read([Path("d")], {"data": [], "suites": {"s": suite}}) == {
        "d": {"shape": "messages", "shots": 3}
    }
    pair = {"prompt": turns[:1], "chosen": turns[1:], "rejected": turns[1:], "id": "a", "place": "x"}
    write_rows(Path("d/train.parquet"), [pair], "preference")
    assert measured_rows.worked_examples(Path("d/train.parquet")) == 1


def test_rows_whose_answer_calls_a_tool_are_counted_where_calls_are_compared(in_folder):
    call = '{"name": "ping", "arguments": {}}'
    answers = [assistant(call), assistant("Which one?"), assistant("") | {"tool_calls": f"[{call}]"}]
    rows = [{"messages": [user("q"), answer], "id": str(i), "place": "x"} for i, answer in enumerate(answers)]
    write_rows(Path("d/validation.parquet"), rows, "messages")
    Path("d/data.json").write_text(json.dumps({"shape": "messages"}))
    for metrics, counted in ((["tool_name", "json"], {"calls": 2}), (["json"], {})):
        suite = {"kind": "generation", "data": {"name": "d"}, "metrics": metrics}
        found = measured_rows.read([Path("d")], {"data": [], "suites": {"s": suite}})
        assert found == {"d": {"shape": "messages"} | counted}
