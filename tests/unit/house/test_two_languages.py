"""A Korean page (docs/ko/X.md, README.ko.md) is its English page: the same headings, commands, tables and links, in other words."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
DOCS, KOREAN = REPOSITORY / "docs", REPOSITORY / "docs/ko"
# Beside all of docs/guide.
TRANSLATED = "index.md plan.md troubleshooting.md import.md deploy.md evaluation.md".split()
PAIRS = {KOREAN / file.relative_to(KOREAN): DOCS / file.relative_to(KOREAN) for file in sorted(KOREAN.rglob("*.md"))}
if (REPOSITORY / "README.ko.md").exists():
    PAIRS[REPOSITORY / "README.ko.md"] = REPOSITORY / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)|\b(?:src|href)=\"([^\"]+)\"")


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"`[^`\n]*`", "`", BLOCK.sub("", page.read_text()))


def headings(page: Path) -> list[int]:
    """The level of each heading."""
    return [len(level) for level in re.findall(r"^(#+) ", prose(page), re.M)]


def blocks(page: Path) -> list[tuple[str, list[str]]]:
    """Each block of code: its language, and its lines without comments, which may be translated."""
    found = []
    for kind, text in BLOCK.findall(page.read_text()):
        lines = [re.sub(r"(^|\s+)#( .*)?$", "", line).rstrip() for line in text.splitlines()]
        found.append((kind, [line for line in lines if line]))
    return found


def tables(page: Path) -> list[int]:
    """The number of columns of each line of a table."""
    return [
        len(re.sub(r"\\\|", "", line).strip("|").split("|"))
        for line in prose(page).splitlines()
        if line.startswith("|")
    ]


def targets(page: Path) -> list[Path | str]:
    """What the page links to, without fragments; not the page in the other language."""
    links = ("".join(found) for found in LINK.findall(prose(page)))
    paths = (
        link if "://" in link else Path(os.path.normpath(page.parent / link.split("#")[0]))
        for link in links
        if not link.startswith("#")
    )
    switch = {PAIRS.get(page), *(korean for korean, english in PAIRS.items() if english == page)}
    return [path for path in paths if path not in switch and path != REPOSITORY / "README.ko.md"]


def in_english(path: Path | str) -> Path | str:
    """The English page of a Korean one; anything else as it is."""
    korean = isinstance(path, Path) and path.is_relative_to(KOREAN)
    return DOCS / path.relative_to(KOREAN) if korean else path


def differences(english: Path, korean: Path) -> list[str]:
    """What the Korean page has otherwise, besides its words."""
    found = [
        f"{what}: English {one}, Korean {other}"
        for what, read in (("levels of headings", headings), ("columns of tables", tables))
        if (one := read(english)) != (other := read(korean))
    ]
    one, other = blocks(english), blocks(korean)
    if len(one) != len(other):
        found.append(f"{len(one)} blocks of code in English, {len(other)} in Korean")
    found += [f"a block of code: English {a}, Korean {b}" for a, b in zip(one, other, strict=False) if a != b]
    one, other = Counter(targets(english)), Counter(map(in_english, targets(korean)))
    found += [f"a link that English has alone: {link}" for link in one - other]
    found += [f"a link that Korean has alone: {link}" for link in other - one]
    translated = {english: korean for korean, english in PAIRS.items()}
    found += [f"a link to an English page that is translated: {link}" for link in targets(korean) if link in translated]
    return found


@pytest.mark.parametrize("korean", PAIRS, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_translation_is_its_page(korean):
    assert PAIRS[korean].exists(), "the English page is gone"
    assert not differences(PAIRS[korean], korean)
    assert re.search("[가-힣]", prose(korean))


def test_what_a_beginner_reads_is_translated():
    needed = [DOCS / name for name in TRANSLATED] + sorted((DOCS / "guide").glob("*.md")) + [REPOSITORY / "README.md"]
    assert not [str(page.relative_to(REPOSITORY)) for page in needed if page not in PAIRS.values()]
    links = {link for korean in PAIRS for link in targets(korean) if isinstance(link, Path)}
    assert not [str(link) for link in links if not link.exists()]


ENGLISH = """# Title

See [other](other.md#part) and `[no](link.md)`.

| a | b |
|---|---|
| 1 | 2 |

```bash
make demo   # build
```
"""


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("# Title", "# 제목", None),
        ("# build", "# 빌드", None),
        ("# Title", "## Title", "levels of headings"),
        ("make demo", "make test", "a block of code"),
        ("other.md#part", "third.md", "a link that English has alone"),
        ("| 1 | 2 |\n", "", "columns of tables"),
        ("```bash\nmake demo   # build\n```\n", "", "blocks of code"),
    ],
)
def test_differences_are_seen(tmp_path, old, new, difference):
    english, korean = tmp_path / "page.md", tmp_path / "ko.md"
    english.write_text(ENGLISH)
    korean.write_text(ENGLISH.replace(old, new))
    found = differences(english, korean)
    assert (difference in " ".join(found)) if difference else not found
