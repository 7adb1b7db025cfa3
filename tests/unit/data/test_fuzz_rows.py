"""Rows and files changed at random: nothing but a UserError of one line comes out, and every row is accounted for."""

import contextlib
import copy
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from posttrain.data import formats, messages, rows
from posttrain.runtime.errors import UserError
from unit.scripts.test_prepare_data import COLUMNS, FORMATS, KINDS, PACKED, image, lines, prepare, write

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "posttrain_hypothesis")  # and no folder in the repository
fuzz = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """One folder for all examples, with the images that rows name."""
    with contextlib.chdir(tmp_path_factory.mktemp("fuzz")):
        write("images/red.png", image())
        write("images/blue.jpg", image("blue", "JPEG"))
        yield


# ---- changes

NAMES = "user human assistant gpt tool system function_call observation role content tool_calls from train weight function_call".split()
WORDS = st.sampled_from(
    [
        '[{"role": "user", "content": "q"}]',
        "question",
        "answer",
        "",
        " ",
        "a",
        "q",
        "\ud800",
        "\0",
        "ü😀",
        "<image>",
        "[{}]",
        "{}",
        "null",
        "\n\nHuman: q\n\nAssistant: a",
        *NAMES,
    ]
)
SCALARS = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.integers(-1, 2),
    st.floats(),
    st.just(2**70),
    st.just(1e999),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)


def places(value, path=()):
    """Paths of everything inside a value."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def changed(draw, value):
    """A row with some of it replaced, taken out, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, 2))):
        found = list(places(value))
        if not found:
            break
        *path, key = draw(st.sampled_from(found))
        inside = value
        for step in path:
            inside = inside[step]
        change = draw(st.sampled_from(["replace", "take out", "double", "rename"]))
        if change == "replace":
            inside[key] = draw(VALUES)
        elif change == "take out":
            del inside[key]
        elif isinstance(inside, list):
            inside.insert(key, copy.deepcopy(inside[key]) if change == "double" else draw(VALUES))
        else:
            inside[draw(WORDS)] = inside[key] if change == "double" else inside.pop(key)
    return value


@st.composite
def tables(draw):
    """A format and a few rows of it, or nearly of it."""
    format = draw(st.sampled_from(list(FORMATS)))
    raw = FORMATS[format][0]
    some = draw(st.lists(st.sampled_from(raw).flatmap(changed), min_size=1, max_size=4))
    table = raw + some if formats.FORMATS[format].tree_of else some
    return format, [draw(VALUES) if draw(st.integers(0, 20)) == 0 else row for row in table]


def outcome(path: str, **keys) -> dict | None:
    """What the script says in data.json, whose counts `prepare` compares with the files; None where it refuses."""
    try:
        return prepare(path, **keys)
    except UserError as error:
        sentence = str(error)
        assert sentence
        assert "\n" not in sentence
        assert len(sentence) < 2000
        sentence.encode()
        return None


@settings(fuzz, max_examples=200)
@given(table=tables(), given_format=st.booleans(), as_list=st.booleans(), held_out=st.booleans())
def test_changed_rows_are_kept_or_dropped_with_a_reason(table, given_format, as_list, held_out):
    format, raw = table
    name = "rows.json" if as_list else "rows.jsonl"
    write(name, json.dumps(raw) if as_list else lines(*raw))
    asked = format if given_format or format == "oasst_pairs" else None
    data = outcome(name, format=asked, max_dropped=1.0, near_duplicates=0.8, validation=0.5 if held_out else 0.0)
    if data and not formats.FORMATS[data["format"]].tree_of:
        assert data["rows"] == len(raw)


@settings(fuzz, max_examples=400)
@given(format=st.sampled_from([name for name in FORMATS if not formats.FORMATS[name].tree_of]), data=st.data())
def test_a_normalised_row_is_what_the_contract_says(format, data):
    row = data.draw(st.sampled_from(FORMATS[format][0]).flatmap(changed))
    try:
        found = rows.normalise(row, format, {}, "rows.jsonl line 1")
    except UserError as error:
        assert str(error).startswith("rows.jsonl line 1: ")
        return
    shape = formats.FORMATS[format].dataset_type
    assert set(found) <= set(rows.schema(shape).names)
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    ends = {"messages": "assistant", "chosen": "assistant", "rejected": "assistant", "completion": "assistant"}
    for key in {*ends, "prompt"} & set(found):
        assert found[key][-1]["role"] in ([ends[key]] if key in ends else ["user", "tool"])
        for turn in found[key]:
            assert turn["role"] in messages.ROLES
            assert turn["content"].strip() or "tool_calls" in turn
            for call in json.loads(turn.get("tool_calls", "[]")):
                assert call.get("function", call)["name"]
    assert all(isinstance(tool, dict) for tool in json.loads(found.get("tools", "[]")))
    if shape == "preference":
        assert found["chosen"] != found["rejected"]
    again = {key: value for key, value in found.items() if key in ("messages", "tools", "text")}
    if shape in ("messages", "text") and "trained" not in found:
        assert rows.normalise(again, shape, {}, "elsewhere")["id"] == found["id"]


SUFFIXES = sorted({Path(name).suffix + packing for name in KINDS for packing in PACKED})


@settings(fuzz, max_examples=60)
@given(raw=st.binary(max_size=60), suffix=st.sampled_from(SUFFIXES))
def test_any_bytes_are_refused_in_one_sentence(raw, suffix):
    write(f"rows{suffix}", raw)
    outcome(f"rows{suffix}", max_dropped=1.0, format="text")
    outcome(f"rows{suffix}", max_dropped=1.0)


@settings(fuzz, max_examples=200)
@given(
    name=st.sampled_from(list(KINDS)),
    packing=st.sampled_from(list(PACKED)),
    packed_first=st.booleans(),
    changes=st.lists(st.tuples(st.integers(-1000, 1000), st.integers(0, 255)), max_size=3),
    cut=st.one_of(st.none(), st.integers(0, 1000)),
)
@example("file.arrow", ".gz", False, [(524, 6)], None)  # a length that no memory has
def test_changed_bytes_of_a_file_are_refused_in_one_sentence_or_read(name, packing, packed_first, changes, cut):
    raw = KINDS[name][0]
    raw = bytearray(PACKED[packing](raw) if packed_first else raw)
    for place, byte in changes:
        raw[place % len(raw)] = byte
    raw = bytes(raw[:cut])
    write(f"rows{Path(name).suffix}{packing}", raw if packed_first else PACKED[packing](raw))
    data = outcome(f"rows{Path(name).suffix}{packing}", columns=COLUMNS, format="prompt_completion", max_dropped=1.0)
    if data and name != "rows.jsonl" and not changes and cut is not None:  # a cut file is never taken for a whole one
        assert data["rows"] == 3 or name == "rows.csv"
