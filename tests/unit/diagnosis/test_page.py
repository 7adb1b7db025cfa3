"""docs/troubleshooting.md has a section on each finding, and says which one advises each remedy of the guide."""

import re
from pathlib import Path

from posttrain.diagnosis.findings import CLASSES, FINDINGS, GUIDE

PAGE = (Path(__file__).resolve().parents[3] / "docs/troubleshooting.md").read_text()


def test_each_finding_has_a_section_with_all_its_parts():
    sections = {part.split("\n")[0]: part for part in PAGE.split("\n## ")}
    codes = [title for title in sections if re.fullmatch("[a-z]+(-[a-z]+)*", title)]
    assert codes == sorted(FINDINGS)
    for code in codes:
        assert re.findall(r"^- \*\*(.+?)\*\*", sections[code], re.M) == ["What", "Recognised by", "Do"], code


def test_each_class_lists_its_findings():
    for group, words in CLASSES.items():
        (row,) = re.findall(rf"^\| {words} \| (\[.*) \|$", PAGE, re.M)
        assert re.findall(r"\[(.+?)\]", row) == [code for code, kind in FINDINGS.items() if kind.group == group]


def test_each_remedy_of_the_guide_is_advised_by_a_finding():
    for row, words in GUIDE.items():
        (cell,) = re.findall(rf"^\| [a-z ]+ \| {words} \| (.*) \|$", PAGE, re.M)
        assert re.findall(r"\[(.+?)\]", cell) == [code for code, kind in FINDINGS.items() if row in kind.guide]
