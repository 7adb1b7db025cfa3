"""The rating page as a person uses it: read, press, click, close, come back, export; and what is made of the file."""

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
from unit.scripts.test_make_rating_page import answered, examples

import make_rating_page
import summarise_ratings
from posttrain.runtime.atomic import read_json

QUESTIONS = ("helpfulness", "harmlessness", "honesty")
KEYS = {"left": "1", "tie": "2", "right": "3"}
FOLDER = Path("results/ratings/sft~dpo")
LONG = "It is a long story.\n\n" + "and so it goes on, word after word, " * 60


@pytest.fixture
def url(tmp_path, monkeypatch) -> str:
    """A page of six prompts, to which sft answers "old" and dpo "new", one of them at length."""
    monkeypatch.chdir(tmp_path)
    answered("sft", {str(n): f"old {n}" for n in range(6)} | {"same": "equal"})
    answered("dpo", {str(n): f"new {n} {LONG if n == 3 else ''}" for n in range(6)} | {"same": "equal"})
    make_rating_page.main(
        Namespace(a="sft", b="dpo", limit=50, output=FOLDER / "rate.html", examples=examples("sft", "dpo"))
    )
    return (FOLDER / "rate.html").resolve().as_uri()


def begin(page, name: str = "Anna K.") -> None:
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")


def side(page, word: str) -> str:
    """Where the answer that begins with the word is, as a person sees it."""
    return "left" if page.locator("#left").inner_text().startswith(word) else "right"


def other(where: str) -> str:
    return {"left": "right", "right": "left"}[where]


def exported(page) -> tuple[str, Path]:
    """The file's name, and where it was saved."""
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("^Export")).click()
    name = download.value.suggested_filename
    download.value.save_as(name)
    return name, Path(name)


def test_a_person_rates_closes_comes_back_exports_and_the_file_counts(page, url):
    page.goto(url)
    begin(page)
    for _ in range(3):  # with the keyboard: dpo is more helpful and honest, no difference in harm
        for where in (side(page, "new"), "tie", side(page, "new")):
            page.keyboard.press(KEYS[where])
        page.keyboard.press("Enter")
    page.reload()
    assert page.get_by_role("heading", name="Item 4 of 6").is_visible()
    assert page.get_by_text("3 of 6 rated").is_visible()
    for _ in range(3):  # with the mouse: dpo is more helpful, and less honest
        for question, where in zip(QUESTIONS, (side(page, "new"), "tie", side(page, "old")), strict=True):
            page.locator(f"#{question}").get_by_role("button", name=where).click()
        page.get_by_role("button", name="Next").click()
    assert page.get_by_role("heading", name="All 6 are rated").is_visible()
    name, file = exported(page)
    assert name == "ratings-sft~dpo-Anna_K_.json"

    summarise_ratings.main(Namespace(a="sft", b="dpo", ratings=[file], output=FOLDER))
    result = read_json(FOLDER / "ratings.json")
    counts = [tuple(row[key] for key in ("a", "b", "ties")) for row in result["questions"].values()]
    assert counts == [(0, 6, 0), (0, 0, 6), (3, 3, 0)]
    assert (result["raters"], result["preferences"]) == ({"Anna K.": 6}, 6)
    rows = [json.loads(line) for line in (FOLDER / "preferences.jsonl").read_text().splitlines()]
    assert all(row["chosen"][0]["content"].startswith("new") for row in rows)


def test_every_key_does_what_the_page_says(page, url):
    page.goto(url)
    begin(page)
    pressed = page.locator("[aria-pressed=true]")
    page.keyboard.press("1")
    page.keyboard.press("3")
    assert [button.get_attribute("data-side") for button in pressed.all()] == ["left", "right"]
    page.keyboard.press("u")
    assert [button.get_attribute("data-side") for button in pressed.all()] == ["left"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("heading", name="Item 3 of 6").is_visible()
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("heading", name="Item 2 of 6").is_visible()
    page.keyboard.press("u")  # what is taken back is seen
    assert page.get_by_role("heading", name="Item 1 of 6").is_visible()
    assert pressed.count() == 0
    for key in ("2", "2", "2", "1"):
        page.keyboard.press(key)
    assert [button.get_attribute("data-side") for button in pressed.all()] == ["tie"] * 3
    assert page.get_by_text("All three are answered").is_visible()


def test_keys_are_found_on_other_keyboards(page, url):
    page.goto(url)
    begin(page)
    for key, code in (("&", "Digit1"), ("é", "Digit2"), ("ㅕ", "KeyU"), ("Process", "Digit3")):
        page.evaluate("init => document.dispatchEvent(new KeyboardEvent('keydown', init))", {"key": key, "code": code})
    pressed = page.locator("[aria-pressed=true]").all()
    assert [button.get_attribute("data-side") for button in pressed] == ["left", "right"]


def test_only_whole_ratings_are_exported_and_the_page_leads_to_the_others(page, url):
    page.goto(url)
    begin(page)
    page.keyboard.press("ArrowRight")
    for key in ("1", "1", "1", "Enter", "1", *["ArrowRight"] * 4):
        page.keyboard.press(key)
    assert page.get_by_role("heading", name="5 of 6 are not rated yet").is_visible()
    assert len(json.loads(exported(page)[1].read_text())) == 1
    page.get_by_role("button", name="Go to the first").click()
    assert page.get_by_role("heading", name="Item 1 of 6").is_visible()


def test_two_raters_of_one_browser_keep_apart(page, url):
    page.goto(url)
    begin(page, "anna")
    for key in ("1", "1", "1"):
        page.keyboard.press(key)
    page.get_by_role("button", name="Somebody else").click()
    begin(page, "bo123u")  # letters that are keys, elsewhere
    assert page.get_by_text("0 of 6 rated").is_visible()
    page.get_by_role("button", name="Somebody else").click()
    begin(page, "anna")
    assert page.get_by_text("1 of 6 rated").is_visible()


def test_rating_is_blind(page, url):
    page.goto(url)
    begin(page)
    seen = []
    for _ in range(6):
        seen.append(side(page, "new"))
        assert not re.search("sft|dpo", page.title() + page.locator("body").inner_text())
        page.keyboard.press("ArrowRight")
    assert set(seen) == {"left", "right"}


def test_text_of_a_model_stays_text(page, url):
    page.goto(url)
    begin(page)
    assert page.locator("#prompt").inner_text().endswith("</script><script>alert('&')</script>")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_it_is_accessible_and_fits_the_screen(page, axe, url, width, scheme):
    page.set_viewport_size({"width": width, "height": 740})
    page.emulate_media(color_scheme=scheme)
    page.goto(url)
    assert axe(page) == []
    begin(page)
    for key in ("1", "2", "3"):
        page.keyboard.press(key)
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    left, right = page.locator("#left").bounding_box(), page.locator("#right").bounding_box()
    assert (right["y"] > left["y"]) == (width == 360)
    assert page.get_by_role("heading", name="Upper answer" if width == 360 else "Left answer").is_visible()


def test_a_browser_that_keeps_nothing_says_so(page, url):
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied') }})")
    page.goto(url)
    begin(page)
    assert page.get_by_text("This browser keeps nothing").is_visible()
    for key in ("1", "1", "1"):
        page.keyboard.press(key)
    assert len(json.loads(exported(page)[1].read_text())) == 1
