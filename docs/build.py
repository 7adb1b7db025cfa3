"""Build the documentation's site: `python docs/build.py`, or `make site`. It needs no network.

    site/            the English pages, and llms.txt
    site/ko/         the same pages in Korean; a page that is not translated is there in English, with a note
    site/**/*.md     the pages' Markdown, for programs

Pages are docs/**/*.md and docs/ko/**/*.md. A file of the repository that a page links to, such as config/README.md, becomes a
page of the site too, under repository/; a link is written as on GitHub, relative to its page. Zensical makes the HTML, one
language at a time. The build stops at a link that leads nowhere, a page that the navigation of zensical.toml lacks, and
anything that a page would load from another host.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pymdownx import slugs

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
KOREAN = DOCS / "ko"
NOT_TRANSLATED = "\n*이 페이지는 아직 번역되지 않아 영어로 보여 드립니다.*\n"
# Code, which keeps its text, or a link's target.
LINK = re.compile(r"(?P<code>```.*?```|`[^`\n]*`)|(?P<before>\]\(|\b(?:src|href)=\")(?P<target>[^)\s\"]+)", re.S)


CODE = re.compile(r"^```.*?^```$", re.M | re.S)
HEADING = re.compile(r"^#{2,} +([^\n]+)$", re.M)


class Fault(Exception):
    """A mistake in the pages."""


def pages() -> list[Path]:
    """The pages in English, relative to docs/."""
    return sorted(path.relative_to(DOCS) for path in DOCS.rglob("*.md") if KOREAN not in path.parents)


def address(heading: str) -> str:
    """A heading's address in its page."""
    return slugs.slugify(case="lower")(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading), "-")


def with_english_anchors(korean: str, english: str) -> str:
    """A translated page whose headings are found by their English addresses too, which pages that are not translated link to."""
    names = iter([address(line) for line in HEADING.findall(CODE.sub("", english))])

    def anchored(match: re.Match) -> str:
        if match["code"]:
            return match[0]
        name = next(names, None)
        own = address(match[0].lstrip("# "))
        return f'<a id="{name}"></a>\n\n{match[0]}' if name and name != own else match[0]

    return re.sub(rf"(?P<code>{CODE.pattern})|{HEADING.pattern}", anchored, korean, flags=re.M | re.S)


class Stage:
    """The tree of one language that Zensical reads."""

    def __init__(self, folder: Path, language: str) -> None:
        self.folder = folder
        self.language = language
        self.waiting: set[Path] = set()
        """files of the repository that pages link to"""

    def fill(self) -> None:
        """Write all pages, their pictures, and what they link to."""
        for page in pages():
            source = KOREAN / page
            if self.language == "ko" and source.exists():
                self.write(page, with_english_anchors(source.read_text(), (DOCS / page).read_text()), source)
            else:
                text = (DOCS / page).read_text()
                heading, rest = text.split("\n", 1)
                note = NOT_TRANSLATED if self.language == "ko" else ""
                self.write(page, f"{heading}\n{note}{rest}", DOCS / page)
        for file in DOCS.rglob("*"):
            if file.suffix in (".png", ".svg", ".css", ".js"):
                self.copy(file.relative_to(DOCS), file)
        self.write(Path("llms.txt"), (DOCS / "llms.txt").read_text(), DOCS / "llms.txt")
        self.waiting.add(ROOT / "config/README.md")
        done: set[Path] = set()
        while left := self.waiting - done:
            for file in left:
                self.take(file)
            done |= left

    def write(self, page: Path, text: str, source: Path) -> None:
        """Write a page whose links are relative to `source`."""
        at = self.folder / page
        at.parent.mkdir(parents=True, exist_ok=True)

        def link(match: re.Match) -> str:
            if match["code"]:
                return match[0]
            return match["before"] + self.target(match["target"], source, page)

        at.write_text(LINK.sub(link, text))

    def copy(self, page: Path, source: Path) -> None:
        """Copy a file as it is."""
        (self.folder / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.folder / page)

    def target(self, link: str, source: Path, page: Path) -> str:
        """A link of the page `source`, as it is from `page` of the site."""
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or not parts.path:
            return link
        file = Path(os.path.normpath(source.parent / unquote(parts.path)))
        if file.is_dir():
            file /= "README.md"
        if file.is_relative_to(KOREAN) and not file.exists():  # the page is there in English
            file = DOCS / file.relative_to(KOREAN)
        if not file.exists() or not file.is_relative_to(ROOT):
            raise Fault(f"{source.relative_to(ROOT)}: {link} leads nowhere")
        for folder in (KOREAN, DOCS):
            if file.is_relative_to(folder):
                there = file.relative_to(folder)
                break
        else:
            self.waiting.add(file)
            there = self.place(file)
        fragment = f"#{parts.fragment}" if parts.fragment else ""
        return os.path.relpath(there, page.parent) + fragment

    def place(self, file: Path) -> Path:
        """Where a file of the repository is in the site."""
        there = Path("repository") / file.relative_to(ROOT)
        return there if file.suffix in (".md", ".png", ".svg") else there.with_name(f"{there.name}.md")

    def take(self, file: Path) -> None:
        """Make a page of a file of the repository."""
        there = self.place(file)
        if file.suffix in (".png", ".svg"):
            self.copy(there, file)
        elif file.suffix == ".md":
            self.write(there, file.read_text(), file)
        else:
            kind = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml"}.get(file.suffix, "text")
            text = f"# {file.relative_to(ROOT)}\n\n````{kind}\n{file.read_text().rstrip()}\n````\n"
            (self.folder / there).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / there).write_text(text)


def settings(language: str) -> dict:
    """zensical.toml's project, for one language."""
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    korean = project["extra"].pop("korean")
    there = {str(page) for page in pages()}
    listed: set[str] = set()
    kept: list = []
    for entry in project["nav"]:
        if isinstance(entry, str):
            listed.add(entry)
            kept.append(entry)
            continue
        ((title, listing),) = entry.items()
        listed.update(listing)
        kept.append({korean["sections"][title] if language == "ko" else title: listing})
    if lacking := sorted(there - listed):
        raise Fault(f"the navigation of zensical.toml lacks {', '.join(lacking)}")
    if missing := sorted(page for page in listed - there if not page.startswith("repository/")):
        raise Fault(f"the navigation of zensical.toml has {', '.join(missing)}, which docs/ has not")
    project["nav"] = kept
    if language == "ko":
        project["theme"]["language"] = "ko"
        project["site_description"] = korean["site_description"]
    up = "../" if language == "ko" else ""
    project["extra"]["alternate"] = [
        {"name": "English", "lang": "en", "link": up},
        {"name": "한국어", "lang": "ko", "link": "" if language == "ko" else "ko/"},
    ]
    return project | {"docs_dir": f"pages-{language}", "site_dir": "site/ko" if language == "ko" else "site"}


class Page(HTMLParser):
    """What a page of the site links to and loads, and the places in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = {""}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of the tag's links and its id."""
        found = dict(attrs)
        for name in ("id", "name"):
            self.places.add(found.get(name) or "")
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif address := found.get("src") or (tag == "link" and found.get("href")):
            self.loaded.append(address)


def faults(site: Path) -> list[str]:
    """Links of the site that lead nowhere, and what pages would load from another host."""
    read = {file: Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    found = []
    for file, page in read.items():
        if file.name == "404.html":
            continue  # its links are from the root of a host
        name = file.relative_to(site)
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    found.append(f"{name}: loads {link}")
                continue
            there = Path(os.path.normpath(file.parent / unquote(parts.path))) if parts.path else file
            if there.is_dir():
                there /= "index.html"
            if not there.is_file():
                found.append(f"{name}: {link} leads nowhere")
            elif there in read and unquote(parts.fragment) not in read[there].places:
                found.append(f"{name}: {link}: no such heading")
    return found


def build(output: Path) -> None:
    """Build both languages into `output`, which is replaced."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".site-") as name:
        work = Path(name)
        shutil.copytree(DOCS / "theme", work / "theme")
        for language in ("en", "ko"):
            stage = Stage(work / f"pages-{language}", language)
            stage.fill()
            project = settings(language)
            project["theme"]["custom_dir"] = "theme"
            file = work / f"{language}.yml"
            file.write_text(json.dumps(project, ensure_ascii=False))  # JSON is YAML
            command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", file]
            done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                raise Fault(done.stdout.strip())
            for page in stage.folder.rglob("*.md"):
                copy = work / project["site_dir"] / page.relative_to(stage.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(page, copy)
        if found := faults(work / "site"):
            raise Fault("\n".join(found))
        if output.exists():
            shutil.rmtree(output)
        (work / "site").rename(output)


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve())
    except Fault as fault:
        sys.exit(f"posttrain: {fault}")
