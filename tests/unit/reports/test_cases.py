"""Cases in pages, cards and tables: red and green of models and exports."""

from argparse import Namespace
from pathlib import Path

import made_up_card
import made_up_exports
import made_up_results
import pytest
from html_page import Page
from made_up_results import SCRIPT

import make_export_table
from posttrain.cli import table
from posttrain.reports import answer_differences, card_facts, cases, export_table, run_card, run_report
from posttrain.runtime.atomic import read_json, write_json


def case(id: str, passed: bool, before: bool | None = None, **values) -> dict:
    row = {"id": id, "prompt": f"Question {SCRIPT}", "answer": f"An answer {SCRIPT}", "passed": passed}
    row |= {"failed": None if passed else "'14 | days' is missing", "required": id == "refund"} | values
    if before is not None:
        row |= {"before": before, "failed_before": None if before else "'x' is missing", "answer_before": "Before"}
    return row


GREEN, RED = (
    {"mine": [case("refund", True), case("날씨", True)]},
    {"mine": [case("refund", False, note="a rule"), case("날씨", True)]},
)


def test_a_table_has_a_row_a_case_and_a_cell_a_model():
    (found,) = cases.tables({"base": RED, "sft": {"mine": [*GREEN["mine"], case("new", False)]}, "dpo": {}})
    assert found["columns"] == [{"name": "base", "green": 1, "n": 2}, {"name": "sft", "green": 2, "n": 3}]
    assert [row["id"] for row in found["rows"]] == ["refund", "날씨", "new"]
    assert [[cell and cell["passed"] for cell in row["cells"]] for row in found["rows"]] == [
        [False, True], [True, True], [None, False],
    ]  # fmt: skip
    assert cases.tables({}) == []


def test_what_an_export_changed():
    rows = [case("a", False, True), case("b", True, False), case("c", False, False), case("d", True, True)]
    assert cases.changed(rows) == (["a"], ["b"])


@pytest.fixture
def context(in_folder) -> dict:
    """Four runs, of which dpo_1 is red in a required case, and its export in one more."""
    answer_differences.answers.cache_clear()
    context = made_up_results.write(4)
    for name, found in (("base", RED), ("sft_0", GREEN), ("dpo_1", RED)):
        file = Path(f"results/{name}/eval.json")
        write_json(file, read_json(file) | {"cases": found})
    proof = {"mine": [case("refund", False, False), case("날씨", False, True)]}
    Path("results/dpo_1/export").mkdir()
    write_json(Path("results/dpo_1/export/nf4.json"), {"run": "dpo_1", "cases": proof})
    return context


def test_the_report_is_red_or_green_for_models_and_exports(context):
    report = run_report.collect(context)
    page = Page(run_report.page(report))
    words = " ".join(page.text.split())
    assert [column["name"] for column in report["cases"][0]["columns"]] == ["base", "sft_0", "dpo_1", "dpo_1, nf4"]
    assert "✗ 1 of 2 cases green in mine ; red: refund." in words and "✓ 2 of 2 cases green in mine ." in words
    assert ("3 of 4", "cases are green") in report["tiles"]
    assert words.count("✗ red") == 4 and words.count("✓ green") == 4 and "green unquantised" in words
    assert "'14 | days' is missing" in words and "a rule" in words
    assert page.tags.count("script") == 3 and "#cases" in page.values("href")


def test_without_cases_nothing_is_said_of_them(in_folder):
    answer_differences.answers.cache_clear()
    assert "green" not in Page(run_report.page(run_report.collect(made_up_results.write(4)))).text


def test_the_table_in_the_terminal_names_the_red_ones(context):
    assert "dpo_1: mine: 1 of 2 cases green; red: refund (required): '14 | days' is missing" in " ".join(
        table.table(["dpo_1"]).split()
    )


def test_the_card_names_cases_and_what_an_export_turned_red(in_folder):
    made_up_card.write()
    made_up_card.change("dpo_1/eval.json", cases=RED)
    made_up_card.write_proof("nf4", cases={"mine": [case("refund", False, False), case("날씨", False, True)]})
    card = run_card.card(card_facts.collect("dpo_1", made_up_card.CONTEXT))
    assert "## Cases\n\nPrompts with what must and must not appear in the answer.\n\n`mine`: 1 of 2 green." in card
    assert "| refund | **red** | `'14 \\| days' is missing` | a rule |" in card
    assert "exact match and case 날씨" in card


def test_the_page_of_exports_says_which_cases_they_changed(in_folder):
    found = {kind: made_up_exports.proofs()[kind] for kind in ("bf16", "nf4")}
    found["bf16"]["cases"] = {"mine": [case("refund", True, True), case("b", False, False)]}
    found["nf4"]["cases"] = {"mine": [case("refund", False, True), case("b", True, False)]}
    made = export_table.Table("dpo_lora", made_up_exports.REFERENCE, found)
    assert export_table.sentences(made)[1].endswith(
        "; turns 1 case of mine red: refund; turns 1 case of mine green: b."
    )
    folder = Path("results/dpo_lora/export")
    folder.mkdir(parents=True)
    Path("merged").mkdir()
    Path("merged/model.safetensors").write_bytes(b"0" * 1_000_000)
    files = made_up_exports.write(folder, found)
    make_export_table.main(Namespace(proofs=files, model=Path("merged"), output=folder / "table.html"))
    page = Page((folder / "table.html").read_text())
    words = " ".join(page.text.split())
    assert "fp32 1 of 2 bf16 1 of 2 nf4 1 of 2" in words and "✗ red green unquantised '14 | days' is missing" in words
    assert page.tags.count("script") == 0
