"""Pages escape everything, and say where they do not."""

import re
from html.parser import HTMLParser

from conftest import REPOSITORY

from posttrain.reports import html
from security.hostile import STRINGS

# Every place where text may go into a page as it is, and why it is safe.
AS_IT_IS = {
    "html.py": {
        "autoescape=True,",
        # a file of pages/, ours
        'environment.globals["verbatim"] = lambda file: markupsafe.Markup((FOLDER / file).read_text(encoding="utf-8"))',
    },
    "formatting.py": {
        "from markupsafe import Markup, escape",
        "def breakable(name: str) -> Markup:",
        'return Markup(re.sub(r"([/,~]|_(?=\\w{8}))", r"\\1<wbr>", str(escape(name))))',  # escaped first
    },
    "run_report.py": {
        "from markupsafe import Markup",
        "def as_json(values: Any) -> Markup:",
        'return Markup(json.dumps(values, separators=(",", ":")).replace("<", "\\\\u003c"))',  # in an element for data
    },
    # drawings by matplotlib, which escapes their text
    "export.html": {"<figure>{{ figure | safe }}</figure>"},
    "sweep.html": {"<figure>{{ metric.figure | safe }}</figure>", "<figure>{{ figure | safe }}</figure>"},
}
UNESCAPED = re.compile(r"\|\s*safe\b|\bMarkup\b|\bautoescape\b|\|\s*xmlattr|\|\s*urlize")
AS_HTML = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|new Function|\beval\(|srcdoc|setTimeout\([\"']"
)


def test_text_goes_into_a_page_as_it_is_only_where_that_was_thought_about():
    found = [
        (file.name, line.strip())
        for file in sorted((REPOSITORY / "scripts").rglob("*"))
        if file.suffix in (".py", ".html")
        for line in file.read_text().splitlines()
        if UNESCAPED.search(line)
    ]
    assert found and not [(name, line) for name, line in found if line not in AS_IT_IS.get(name, ())]


def test_no_script_of_ours_makes_html_of_text():
    for file in html.FOLDER.rglob("*.*"):
        if file.name != "uPlot.min.js":
            assert not AS_HTML.search(file.read_text()), file.name


def test_a_template_escapes_every_hostile_string_in_text_and_in_attributes(tmp_path, monkeypatch):
    """By the environment that every page is made with, whatever its template."""
    (tmp_path / "x.html").write_text(
        '<p>{{ text }}</p><a title="{{ text }}" data-x=\'{{ text }}\'>x</a>{{ {"a": text} | tojson }}'
    )
    monkeypatch.setattr(html, "FOLDER", tmp_path)
    for text in STRINGS:
        tags = Tags()
        tags.feed(html.render("x.html", text=text))
        assert tags.found == [("p", []), ("a", ["title", "data-x"])], text


class Tags(HTMLParser):
    """The elements of a page, with the names of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [name for name, _ in attrs]))


def test_a_row_with_a_script_stays_text_on_the_page_to_rate_with():
    script = "</script><script>alert(1)</script>"
    pages = html.FOLDER / "rate.html"
    assert "| tojson" in pages.read_text()
    import json

    import jinja2

    said = jinja2.Environment(autoescape=True).from_string("{{ x | tojson }}").render(x=[script])
    assert "<" not in said and json.loads(said) == [script]


def test_every_page_but_the_one_that_draws_has_no_script_and_no_address_elsewhere():
    for file in html.FOLDER.rglob("*.html"):
        text = file.read_text()
        assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=[\"']?(https?:)?//", text), file.name
