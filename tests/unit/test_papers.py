"""The index of papers: each paper that the code or a page names is in it, and is named where it says."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/guide/papers.md"
# `Hu et al. 2021`, `Bradley and Terry 1952`, `Holm (1979)`; not a number such as 2001.08361.
NAMED = re.compile(r"\b([A-ZÖŠ][\w-]+(?: et al\.| and [A-Z][\w-]+)?)(?:'s)?,? \(?((?:19|20)\d\d)\b(?![.]\d)")
ARXIV = re.compile(r"arXiv[ :.a-z/]*(\d{4}\.\d{5})", re.IGNORECASE)
# What looks like a paper and is none, and a book that stands beside a paper of the same author.
OTHERS = {"Guide 2025", "November 2026", "Krippendorff 2004"}
FILES = [
    *(REPOSITORY / "scripts").rglob("*.py"),
    *(file for folder in ("docs", "docs/guide") for file in (REPOSITORY / folder).glob("*.md") if file != PAGE),
]


def named(text: str) -> set[str]:
    return {f"{who} {year}" for who, year in NAMED.findall(text)}


def rows() -> dict[str, list[str]]:
    """The cells of each row by its first, up to the section on other documents."""
    papers = PAGE.read_text().partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in papers.splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in lines if re.search(r"\d{4}$", cells[0])}


def test_the_pattern_finds_papers_as_they_are_written():
    text = "(Hu et al. 2021) Holm (1979), Bradley and Terry 1952; Satterthwaite's (1946), Köpf et al. 2023; arXiv 2001.08361"
    assert named(text) == {
        "Hu et al. 2021",
        "Holm 1979",
        "Bradley and Terry 1952",
        "Satterthwaite 1946",
        "Köpf et al. 2023",
    }


def test_each_paper_that_is_named_is_in_the_index():
    known = rows().keys()
    missing = {
        str(file.relative_to(REPOSITORY)): found
        for file in FILES
        if (found := named(file.read_text()) - known - OTHERS)
    }
    assert not missing, "write a row in docs/guide/papers.md"
    ids = set(ARXIV.findall("".join(file.read_text() for file in FILES)))
    assert ids and ids <= set(ARXIV.findall(PAGE.read_text()))


def test_each_paper_is_named_where_the_index_says():
    assert (
        list(rows()) == sorted(rows(), key=lambda name: name.translate(str.maketrans("öÖ", "oO"))) and len(rows()) > 60
    )
    for name, cells in rows().items():
        places = re.findall(r"\]\((.*?)\)", cells[-1])
        assert places, name
        for place in places:
            text = (PAGE.parent / place).resolve().read_text()
            assert name in named(text), f"{name} is not named in {place}"
