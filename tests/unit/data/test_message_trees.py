"""Conversations and pairs out of trees of messages, and what becomes of every message."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data import message_trees
from posttrain.runtime.errors import UserError
from unit.data.test_fuzz_rows import fuzz
from unit.scripts.test_prepare_data import TREE, message


def placed(table):
    return [(f"x.jsonl line {number}", row) for number, row in enumerate(table, 1)]


def found(table, format="oasst", columns=None):
    """Rows, and the sentences about the messages that are in none, without their places."""
    rows = message_trees.rows(placed(table), format, columns or {})
    faults = [str(row).split(": ", 1)[1] for _, row in rows if isinstance(row, UserError)]
    return [row for _, row in rows if not isinstance(row, UserError)], faults


def texts(row):
    return [turn["content"] for turn in row["messages"]]


def reply(id, parent, rank=None, role="assistant"):
    return message(id, parent, role, id, rank)


ROOT = message("r", None, "prompter", "r")


def test_the_best_ranked_reply_is_followed_and_one_without_a_rank_comes_last():
    table = [
        ROOT,
        reply("none", "r"),
        reply("second", "r", 1),
        reply("best", "r", 0),
        reply("q", "best", 0, "prompter"),
        reply("end", "q"),
    ]
    rows, faults = found(table)
    assert [texts(row) for row in rows] == [["r", "best", "q", "end"]]
    assert faults == []


def test_without_ranks_the_first_reply_is_followed():
    assert [texts(row) for row in found([ROOT, reply("a", "r"), reply("b", "r")])[0]] == [["r", "a"]]


def test_a_question_that_nobody_answered_is_left_out_of_its_conversation():
    table = [ROOT, reply("a", "r"), reply("q", "a", role="prompter")]
    assert [texts(row) for row in found(table)[0]] == [["r", "a"]]


def test_a_root_alone_is_a_row_that_no_reply_makes_whole():
    assert [texts(row) for row in found([ROOT])[0]] == [["r"]]


def test_a_reply_may_stand_before_what_it_replies_to():
    assert [texts(row) for row in found(TREE)[0]] == [texts(row) for row in found(TREE[::-1])[0]][::-1]


def test_each_reply_that_is_ranked_below_the_best_makes_a_pair():
    table = [
        ROOT,
        reply("b", "r", 2),
        reply("a", "r", 0),
        reply("c", "r", 2),
        reply("d", "r"),
        reply("q", "b", 0, "prompter"),
        reply("p", "b", 1, "prompter"),
    ]
    rows, faults = found([*table, reply("x", "q", 1), reply("y", "q", 0), reply("z", "q", 0)], "oasst_pairs")
    assert [(len(row["prompt"]), row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [
        (1, "a", "b"),
        (1, "a", "c"),
        (3, "y", "x"),
    ]  # those of equal or unknown rank make none, nor do questions
    assert faults == []


def test_columns_are_renamed():
    table = [{"id": row.pop("message_id"), "parent": row.pop("parent_id"), **row} for row in map(dict, TREE)]
    assert found(table, columns={"message_id": "id", "parent_id": "parent"}) == found(TREE)


def test_what_follows_a_deleted_message_is_lost_and_told():
    table = [ROOT, reply("a", "r") | {"deleted": True}, reply("b", "a", role="prompter"), reply("c", "r")]
    rows, faults = found(table)
    assert [texts(row) for row in rows] == [["r", "c"]]
    assert [fault.split(";")[0] for fault in faults] == ["no root leads to the message 'b'"]


def test_a_deep_tree_takes_no_recursion():
    table = [
        ROOT,
        *(reply(str(i), str(i - 1) if i else "r", 0, "assistant" if i % 2 == 0 else "prompter") for i in range(4999)),
    ]
    assert len(texts(found(table)[0][0])) == 5000
    assert found(table, "oasst_pairs") == ([], [])


IDS = st.sampled_from(["a", "b", "c", "d", "e", "f", "", None, 3])
MESSAGES = st.fixed_dictionaries(
    {
        "message_id": IDS,
        "parent_id": IDS,
        "role": st.sampled_from(["prompter", "assistant", "x", None]),
        "text": st.sampled_from(["q", None, ["q"]]),
    },
    optional={
        "rank": st.sampled_from([0, 1, 2.5, None, "0", float("nan"), True]),
        "deleted": st.sampled_from([True, False, None, "False"]),
    },
)


CUT = UserError("invalid-json", "line 1", "it is cut")


@settings(fuzz, max_examples=300)
@given(table=st.lists(st.one_of(MESSAGES, MESSAGES, MESSAGES, st.just([]), st.just(CUT)), max_size=12))
def test_every_message_is_reached_from_a_root_or_is_dropped_once(table):
    """What holds: a message is deleted, or a fault with its own place, or in the tree of exactly one root.

    A tree's messages are not all in a row: oasst takes its best path, oasst_pairs those that are ranked and on the way there.
    """
    for format in ("oasst", "oasst_pairs"):
        rows = message_trees.rows(placed(table), format, {})
        faults = [place for place, row in rows if isinstance(row, UserError)]
        assert len(faults) == len(set(faults))
        kept = {place: row for place, row in placed(table) if place not in faults}
        kept = {place: row for place, row in kept.items() if not row.get("deleted")}
        ids = {row["message_id"]: row for row in kept.values()}
        assert len(ids) == len(kept)
        for row in kept.values():  # each leads up to a root
            steps = 0
            while row["parent_id"]:
                row, steps = ids[row["parent_id"]], steps + 1
                assert steps <= len(kept)
        roots = {place for place, row in kept.items() if not row["parent_id"]}
        about = [place for place, row in rows if not isinstance(row, UserError)]
        assert set(about) <= kept.keys()
        assert len(about) == len(set(about))
        if format == "oasst":
            assert set(about) == roots


@pytest.mark.parametrize("rank", [float("nan"), True, 0.5])
def test_odd_ranks_do_no_harm(rank):
    table = [ROOT, reply("a", "r", 0), reply("b", "r", rank), reply("c", "r", 1)]
    assert len(found(table)[0]) == 1
    assert all(row["chosen"] != row["rejected"] for row in found(table, "oasst_pairs")[0])
