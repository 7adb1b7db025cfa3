"""Rewards and metrics of the user's own: what belongs to the spec, what is refused before it runs, and what it may do."""

from pathlib import Path

import pytest

from posttrain.runtime.errors import UserError
from posttrain.runtime.user_code import clash, files, is_own, label, load, refusal

DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Weights:
    length: float = 1.0

def score(answer, reference):
    return Weights().length * len(answer)
"""


def write(sources: dict[str, str]) -> None:
    for name, text in sources.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.mark.parametrize(
    ("name", "own", "short"),
    [("a/b-1.py:score", True, "score"), ("final_number", False, "final_number"), ("a.txt:score", False, "a.txt:score")],
)
def test_a_name_of_the_users_own_is_told_by_its_form(name, own, short):
    assert (is_own(name), label(name)) == (own, short)


def test_a_file_may_have_dataclasses(in_folder):
    write({"with_dataclass.py": DATACLASS})
    assert load("with_dataclass.py:score")("four", "") == 4.0


def test_a_file_may_import_what_lies_beside_it_at_once_and_later(in_folder):
    write(
        {
            "mine/rules.py": "from own_lengths import length\ndef score(a, b):\n    from own_later import more\n"
            "    return more(length(a))\n",
            "mine/own_lengths.py": "import own_deep.text\ndef length(text):\n    return own_deep.text.count(text)\n",
            "mine/own_deep/__init__.py": "",
            "mine/own_deep/text.py": "from .words import split\ndef count(text):\n    return len(split(text))\n",
            "mine/own_deep/words.py": "def split(text):\n    return text.split()\n",
            "mine/own_later.py": "def more(n):\n    return 10 * n\n",
            "mine/not_imported.py": "",
        }
    )
    assert load("mine/rules.py:score")("three words here", "") == 30
    beside = ["own_deep/__init__.py", "own_deep/text.py", "own_deep/words.py", "own_later.py", "own_lengths.py"]
    assert list(map(str, files("mine/rules.py:score"))) == [f"mine/{name}" for name in ("rules.py", *beside)]
    assert files("rules.py:score", Path("mine"))[0] == Path("rules.py")
    assert len(files("rules.py:score", Path("mine"))) == 6


def test_a_link_imports_what_lies_beside_the_link(in_folder):
    write(
        {
            "there/rules.py": "import own_linked\ndef score(a, b):\n    return own_linked.ONE\n",
            "here/own_linked.py": "ONE = 1\n",
        }
    )
    Path("here/rules.py").symlink_to(Path("there/rules.py").resolve())
    assert load("here/rules.py:score")("", "") == 1
    assert list(map(str, files("here/rules.py:score"))) == ["here/rules.py", "here/own_linked.py"]


def test_files_that_import_each_other_or_cannot_be_parsed_are_listed_all_the_same(in_folder):
    write({"a.py": "import b, numpy, os.path\n", "b.py": "import a\nimport c\n", "c.py": "def (\n"})
    assert list(map(str, files("a.py:f"))) == ["a.py", "b.py", "c.py"]
    assert files("gone.py:f") == [Path("gone.py")]


@pytest.mark.parametrize(
    ("helper", "sentence"),
    [
        (
            "statistics",
            r"^metric: mine\.py imports 'statistics', which is a module of Python's own as well as statistics\.py",
        ),
        (
            "pytest",
            r"^metric: mine\.py imports 'pytest', which is already .*__init__\.py in this process, not pytest\.py; rename the file",
        ),
    ],
)
def test_a_helper_that_is_another_module_already_is_refused(in_folder, helper, sentence):
    write({"mine.py": f"import {helper}\ndef score(a, b):\n    return 1\n", f"{helper}.py": ""})
    with pytest.raises(UserError, match=sentence):
        load("mine.py:score", "metric")


def test_helpers_of_one_name_in_two_folders_are_refused(in_folder):
    source = "import own_shared\ndef score(a, b):\n    return 1\n"
    write({f"{folder}/rules.py": source for folder in ("one", "two")})
    write({f"{folder}/own_shared.py": "" for folder in ("one", "two")})
    names = ["one/rules.py:score", "two/rules.py:score"]
    assert clash(names[:1] * 2) is None
    assert clash(names).startswith("one/own_shared.py and two/own_shared.py have one name")
    load(names[0])
    for _ in range(2):  # refused each time
        with pytest.raises(
            UserError,
            match=r"two/rules\.py imports 'own_shared', which is already .*one/own_shared\.py in this process",
        ):
            load(names[1])


def test_a_file_runs_once_however_many_functions_are_taken_of_it(in_folder):
    write(
        {
            "once.py": "seen = []\ndef a(x, y):\n    seen.append(x)\n    return len(seen)\ndef b(x, y):\n    return len(seen)\n"
        }
    )
    first, second = load("once.py:a"), load("once.py:b")
    assert first("", "") == 1
    assert second("", "") == 1


REFUSED = {
    "there is no file 'gone.py'": ("gone.py:score", ""),
    "mine.py, line 2: invalid syntax": ("mine.py:score", "x = 1\nx = = 1\n"),
    "mine.py has no function 'scor'; did you mean 'score'?": ("mine.py:scor", "def score(a, b):\n    return 1\n"),
    "score in mine.py is called with an answer and its reference": (
        "mine.py:score",
        "def score(answer):\n    return 1\n",
    ),
    "write `def score(answer, reference):`": ("mine.py:score", "def score(a, b, c):\n    return 1\n"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_the_text_tells_is_refused_before_it_runs(in_folder, sentence):
    name, text = REFUSED[sentence]
    write({"mine.py": text})
    assert sentence in refusal(name)


@pytest.mark.parametrize(
    "text",
    [
        "def score(answer, reference, scale=2):\n    return 1\n",
        "def score(*texts):\n    return 1\n",
        "from functools import cache\n@cache\ndef score(text):\n    return 1\n",  # who knows what a decorator makes of it
        "from other import score\n",
        "from other import *\n",
        "try:\n    from fast import score\nexcept ImportError:\n    def score(a, b):\n        return 1\n",
        "import functools\nscore = functools.partial(max, 1)\n",
    ],
)
def test_what_may_be_called_is_not_refused(in_folder, text):
    write({"mine.py": text})
    assert refusal("mine.py:score") is None


HELPED = "import helper_of_two\ndef score(a, b):\n    return helper_of_two.half(a)\n"
RAISING = {
    "helper_of_two.py, line 2: ZeroDivisionError: division by zero": HELPED,
    "mine.py, line 3: JSONDecodeError: Expecting value": "import json\ndef score(a, b):\n    return json.loads(a)\n",
    "ValueError: byteorder": "score = int.from_bytes\n",
}


@pytest.mark.parametrize("sentence", RAISING, ids=["helper", "library", "built in"])
def test_an_error_in_it_is_one_sentence_with_its_line(in_folder, sentence):
    write({"mine.py": RAISING[sentence], "helper_of_two.py": "def half(text):\n    return len(text) / 0\n"})
    with pytest.raises(UserError) as error:
        load("mine.py:score", "reward.function")("a  b", "")
    assert str(error.value).startswith(f"reward.function: mine.py:score failed for the completion 'a b': {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "import nowhere_to_be_found\nscore = max\n",
            r"mine\.py, line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("def (\n", r"mine\.py, line 1: invalid syntax"),
        ("\n1 / 0\nscore = max\n", r"mine\.py, line 2: ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_sentence(in_folder, text, sentence):
    write({"mine.py": text})
    with pytest.raises(UserError, match=rf"^reward: (mine\.py cannot be imported: )?{sentence}"):
        load("mine.py:score", "reward")


@pytest.mark.parametrize("value", ["None", "float('nan')", "float('inf')", "'1'", "[1, 2]", "numpy.array([1, 2])"])
def test_what_is_no_finite_number_is_one_sentence_that_names_the_function(in_folder, value):
    write({"mine.py": f"import numpy\ndef score(a, b):\n    return {value}\n"})
    with pytest.raises(
        UserError, match=r"^mine\.py:score returned .* for the completion 'so'; return a finite number$"
    ):
        load("mine.py:score")("so", "")


@pytest.mark.parametrize("value", ["True", "1", "numpy.float32(1)", "numpy.array(1)"])
def test_any_kind_of_number_will_do(in_folder, value):
    write({"mine.py": f"import numpy\ndef score(a, b):\n    return {value}\n"})
    found = load("mine.py:score")("", "")
    assert (type(found), found) == (float, 1.0)
