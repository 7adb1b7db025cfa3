"""The documentation's site as it is built: both languages, two widths, the search, and no request to another host."""

import functools
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTHS = (1280, 390)
PAGES = ("index.html", "guide/speed-and-memory.html", "ko/index.html")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory) -> Path:
    """What `make site` builds, which fails on a link that leads nowhere."""
    pytest.importorskip("zensical", reason="pip install zensical")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, REPOSITORY / "docs/build.py", folder]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=WIDTHS, ids="{} pixels".format)
def reader(browser, address, request):
    """A page of this width; console errors and requests to other hosts fail the test."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    own = (address, "data:", "blob:", "about:")
    page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
    page.on("request", lambda asked: None if asked.url.startswith(own) else faults.append(f"asked {asked.url}"))
    yield page
    context.close()
    assert not faults


def test_pages_are_accessible_and_fit_the_screen(reader, axe, address):
    for name in PAGES:
        reader.goto(address + name)
        assert axe(reader) == [], name
        assert reader.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        broken = reader.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
        assert not broken, name


def test_the_same_page_in_the_other_language_and_the_search(reader, address):
    reader.goto(address + "guide/concepts.html")
    reader.locator(".site-language").click()
    reader.wait_for_url("**/ko/guide/concepts.html")
    assert reader.locator("html").get_attribute("lang") == "ko"
    reader.locator(".site-language").click()
    reader.wait_for_url(address + "guide/concepts.html")
    reader.keyboard.press("Control+k")
    reader.keyboard.type("gradient checkpointing")
    reader.get_by_role("link", name="Speed and memory").filter(visible=True).first.wait_for()


def test_an_agent_reads_markdown(site):
    links = (site / "llms.txt").read_text()
    assert "](repository/config/README.md)" in links and (site / "repository/config/README.md").exists()
    assert (site / "guide/concepts.md").exists() and (site / "ko/guide/concepts.md").exists()
