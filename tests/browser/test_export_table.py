"""The page of a run's exports in a browser: no faults, nothing serious to axe-core, nothing wider than the screen."""

from argparse import Namespace

import made_up_exports
import pytest

import make_export_table
from browser.test_report import CUT


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page of five exports."""
    folder = tmp_path_factory.mktemp("exports") / "dpo_lora/export"
    (folder / "merged").mkdir(parents=True)
    (folder / "merged/model.safetensors").write_bytes(b"0" * 540_000)
    files = made_up_exports.write(folder)
    make_export_table.main(Namespace(proofs=files, model=folder / "merged", output=folder / "table.html"))
    return folder / "table.html"


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark"), (360, "light")])
def test_nothing_serious_is_found_and_nothing_is_wider_than_the_screen(page, axe, file, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.eval_on_selector_all(".scroll", CUT) == []
    assert page.title() == "dpo_lora: exports"


def test_on_a_phone_each_value_says_what_it_is(page, file):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(file.as_uri())
    row = page.locator("tr", has_text="gguf-q8_0").first
    assert row.locator("td[data-label='peak memory']").is_visible()
