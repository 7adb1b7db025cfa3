"""docs/preflight.md has a section on each check, with the same parts."""

import re

import pytest
from conftest import REPOSITORY

from posttrain.preflight.checks import CHECKS

SECTIONS = dict(
    section.split("\n", 1)
    for section in re.split(r"^### ", (REPOSITORY / "docs/preflight.md").read_text(), flags=re.M)[1:]
)


def test_each_check_has_a_section_and_nothing_else_has():
    assert sorted(SECTIONS) == sorted(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_a_section_says_what_why_how_it_looks_and_what_to_do(name):
    assert re.findall(r"^- \*\*(\w+)\*\*: ", SECTIONS[name], re.M) == ["What", "Why", "Example", "Fix", "Overrule"]
