"""docs/build.py makes pages of both languages, and finds links that lead nowhere; the whole build is in tests/browser."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("pymdownx", reason="pip install zensical")
REPOSITORY = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("build_site", REPOSITORY / "docs/build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("site")
    stages = {language: build.Stage(folder / language, language) for language in ("en", "ko")}
    for stage in stages.values():
        stage.fill()
    return stages


def test_every_link_of_every_page_leads_to_a_file(stages):
    """`fill` raises where one does not."""
    files = [
        {file.relative_to(stage.folder) for file in stage.folder.rglob("*") if file.is_file()}
        for stage in stages.values()
    ]
    assert files[0] >= {
        Path(name) for name in ("index.md", "llms.txt", "guide/concepts.md", "repository/config/README.md")
    }
    assert {file for file in files[0] if file.suffix == ".md"} == {file for file in files[1] if file.suffix == ".md"}


def test_a_file_of_the_repository_becomes_a_page(stages):
    gallery = (stages["en"].folder / "guide/gallery.md").read_text()
    assert "](../repository/config/examples/rto.yaml.md)" in gallery
    page = (stages["en"].folder / "repository/config/examples/rto.yaml.md").read_text()
    assert page.startswith("# config/examples/rto.yaml\n\n````yaml\n")
    assert "](../../errors.md)" in (stages["en"].folder / "repository/config/README.md").read_text()


def test_a_page_that_is_not_translated_is_there_with_a_note(stages, tmp_path):
    english, korean = (stages[language].folder / "performance.md" for language in ("en", "ko"))
    assert korean.read_text().replace(build.NOT_TRANSLATED, "", 1) == english.read_text()
    assert "번역되지" in korean.read_text()


@pytest.mark.parametrize("link", ["](nowhere.md)", "](../../outside.md)", '<a href="nowhere.md">'])
def test_a_link_to_a_file_that_is_not_there_is_a_fault(tmp_path, link):
    with pytest.raises(build.Fault, match="leads nowhere"):
        build.Stage(tmp_path, "en").write(Path("page.md"), f"[x{link}", build.DOCS / "page.md")


@pytest.mark.parametrize(
    "text", ["`[x](nowhere.md)`", "```\n[x](nowhere.md)\n```", "[x](https://a.example/b.md)", "[x](#here)"]
)
def test_code_and_addresses_stay(tmp_path, text):
    build.Stage(tmp_path, "en").write(Path("page.md"), text, build.DOCS / "page.md")
    assert (tmp_path / "page.md").read_text() == text


def test_faults_of_the_html_are_found(tmp_path):
    (tmp_path / "other.html").write_text('<h2 id="there">')
    (tmp_path / "page.html").write_text(
        '<a href="other.html#there"></a><a href="https://a.example/"></a><img src="data:,">'
        '<a href="other.html#gone"></a><a href="gone.html"></a><script src="https://b.example/x.js"></script>'
    )
    assert build.faults(tmp_path) == [
        "page.html: other.html#gone: no such heading",
        "page.html: gone.html leads nowhere",
        "page.html: loads https://b.example/x.js",
    ]


def test_the_navigation_has_every_page_in_both_languages():
    """`settings` raises where one is missing."""
    english, korean = build.settings("en"), build.settings("ko")
    pages = [[listing for entry in project["nav"][1:] for listing in entry.values()] for project in (english, korean)]
    assert pages[0] == pages[1]
    assert not {title for entry in english["nav"][1:] for title in entry} & {
        title for entry in korean["nav"][1:] for title in entry
    }
    assert [alternate["link"] for alternate in korean["extra"]["alternate"]] == ["../", ""]


def test_a_translated_heading_is_found_by_its_english_address_too():
    english = "# T\n\n```\n## no\n```\n## First `key`: one\n### [A link](x.md)\n## a-code\n"
    korean = "# 제목\n\n## 하나\n\n```\n## no\n```\n### 둘\n## a-code\n"
    assert build.with_english_anchors(korean, english) == (
        '# 제목\n\n<a id="first-key-one"></a>\n\n## 하나\n\n```\n## no\n```\n<a id="a-link"></a>\n\n### 둘\n## a-code\n'
    )
