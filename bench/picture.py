"""The README's picture of the report: the top of results/report.html in headless Chromium, written to docs/images/report.png.

    python bench/picture.py         # after `make demo`; needs pip install playwright, and Chromium

What tests/browser needs is enough.
"""

import shutil
from pathlib import Path

from common import REPOSITORY, parser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--report", type=Path, default=REPOSITORY / "results/report.html")
    options.add_argument("--output", type=Path, default=REPOSITORY / "docs/images/report.png")
    options = options.parse_args()
    from playwright.sync_api import sync_playwright

    options.output.parent.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=next(filter(None, map(shutil.which, PROGRAMS))))
        page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
        page.goto(options.report.resolve().as_uri())
        page.wait_for_load_state("networkidle")
        page.screenshot(path=options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
