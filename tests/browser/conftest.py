"""A real browser for the pages: `page` fails a test on console errors and on any request that leaves the disk.

Needs `pip install playwright axe-playwright-python` and Chromium or Chrome on the PATH (Debian: `apt install chromium`).
"""

import shutil
from collections.abc import Callable

import pytest

HERE = ("file:", "data:", "blob:", "about:")  # what a page without a network may ask for


@pytest.fixture(scope="module")  # its event loop runs until it ends, and then tests that start one of their own fail
def browser():
    """Headless Chromium, one for the tests of a file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright axe-playwright-python")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no browser: install Chromium or Chrome (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """An empty page, 1200 pixels wide; at the end, what went wrong on it fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
    page.on("request", lambda request: None if request.url.startswith(HERE) else faults.append(f"asked {request.url}"))
    yield page
    context.close()
    assert not faults


@pytest.fixture(scope="session")
def axe() -> Callable[..., list[str]]:
    """A function of a page: axe-core's serious and critical findings, as sentences."""
    module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")

    def findings(page) -> list[str]:
        found = module.Axe().run(page).response["violations"]
        return [
            f"{rule['help']}: {node['html'][:200]}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    return findings
