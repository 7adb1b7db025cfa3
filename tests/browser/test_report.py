"""The report in a browser: curves drawn, tables that sort and filter, no faults, nothing serious to axe-core."""

from pathlib import Path

import made_up_results
import pytest

from posttrain.reports import answer_differences, run_report

# The labels of tables that are cut by the screen.
CUT = """all => all.filter((one) => one.scrollWidth > one.clientWidth + 1 && one.matches(":has(table)"))
    .map((one) => one.getAttribute("aria-label"))"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """The page of twelve runs."""
    return write(tmp_path_factory.mktemp("twelve"), 12)


def write(folder: Path, runs: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        answer_differences.answers.cache_clear()
        text = run_report.page(run_report.collect(made_up_results.write(runs)))
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark"), (360, "light")])
def test_nothing_serious_is_found_and_nothing_is_wider_than_the_screen(page, axe, file, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    page.eval_on_selector_all("details", "all => all.slice(0, 12).forEach((one) => one.open = true)")
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.eval_on_selector_all(".scroll", CUT) == []
    assert page.title() == "Report on config/config.yaml"  # the rows' script did not run


def values(page, group: int) -> list[str]:
    """What the rows of a metric show as its value."""
    return page.locator(f"#models tbody:nth-of-type({group}) .value").all_inner_texts()


def test_a_heading_sorts_within_each_metric_by_the_keyboard(page, file):
    page.goto(file.as_uri())
    value = page.locator("#models thead button").nth(1)
    for expected in (sorted, lambda found: sorted(found, reverse=True)):
        value.focus()
        page.keyboard.press("Enter")
        perplexities = [float(text) for text in values(page, 1)]
        assert len(perplexities) == 10 and perplexities == expected(perplexities)
        assert page.locator("#models tbody:nth-of-type(1) tr").first.inner_text().startswith("perplexity")
    assert page.locator("#models thead th").nth(1).get_attribute("aria-sort") == "descending"


def test_typed_words_leave_the_rows_that_have_them(page, file):
    page.goto(file.as_uri())
    page.get_by_label("Only rows with").fill("dpo better perplexity")
    names = page.locator("#models tbody tr:not(.group):visible th").all_inner_texts()
    assert [name.split()[0] for name in names] == ["dpo_1", "dpo_5", "dpo_9"]
    assert "3 of 43 rows" in page.locator("#table ~ .filter").inner_text()
    assert page.locator("#models tbody:visible").count() == 1
    page.get_by_label("Only rows with").fill("")
    assert page.locator("#models tbody tr:not(.group):visible").count() == 43


@pytest.mark.parametrize(("width", "picture"), [(1200, True), (390, False)])
def test_the_graph_is_a_picture_or_on_a_phone_nested_lists(page, file, width, picture):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(file.as_uri())
    assert page.locator("svg.graph").is_visible() == picture
    assert page.locator(".tree").first.is_visible() != picture
    assert page.locator(".tree a").count() == page.locator("svg.graph a").count() == 13


def test_curves_are_drawn_when_they_are_opened_and_say_their_values_under_the_pointer(page, file):
    page.goto(file.as_uri())
    assert page.locator("canvas").count() == 0
    run = page.locator("details.run", has_text="dpo_1").first
    run.locator("summary").first.click()
    run.locator("canvas").first.wait_for()
    assert not run.locator("svg").first.is_visible()
    run.locator(".u-over").first.hover()
    values = run.locator(".u-legend").first.inner_text()
    assert "training" in values and "validation" in values and any(sign.isdigit() for sign in values)


def test_a_link_to_what_is_closed_opens_it(page, file):
    page.goto(file.as_uri())
    page.locator(".graph a", has_text="base").first.click()
    assert page.get_by_text("snakemake --cores 2 results/base/eval.json").is_visible()


def test_paper_gets_still_curves_and_no_controls(page, file):
    page.goto(file.as_uri())
    run = page.locator("details.run", has_text="dpo_1").first
    run.locator("summary").first.click()
    run.locator("canvas").first.wait_for()
    page.emulate_media(media="print")
    assert run.locator("svg.still").first.is_visible()
    assert not run.locator("canvas").first.is_visible()
    assert not page.get_by_label("Only rows with").first.is_visible()


def test_two_hundred_runs_show_at_once(page, tmp_path):
    page.goto(write(tmp_path, 200).as_uri(), wait_until="commit")
    page.get_by_role("heading", name="Fine-tuning report").wait_for(timeout=2000)
    page.wait_for_load_state()
    assert page.locator(".graph a").count() == 201


@pytest.fixture
def without_scripts(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    yield page
    context.close()


def test_without_scripts_it_is_a_plain_page_with_still_curves(without_scripts):
    page = without_scripts
    assert not page.get_by_label("Only rows with").first.is_visible()
    page.locator("details.run summary").first.click()
    assert page.locator("svg.still").first.is_visible()
