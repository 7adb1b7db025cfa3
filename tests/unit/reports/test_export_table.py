"""The page of a run's exports: which one another beats, and what a person would say of each."""

from argparse import Namespace
from pathlib import Path

import made_up_exports
import pytest
from html_page import Page
from made_up_exports import REFERENCE, against, proof, proofs

import make_export_table
from posttrain.reports import export_figures, export_table
from posttrain.reports.export_table import Table, beaten, sentences


def table(found: dict | None = None) -> Table:
    return Table("dpo_lora", REFERENCE, found or proofs())


def test_an_export_is_beaten_by_one_that_is_no_worse_in_size_quality_and_speed():
    assert beaten(proofs()) == {"int8": "gguf-q8_0"}  # the adapter, smaller than all, is compared with none


@pytest.mark.parametrize(("change", "found"), [
    ({"size_bytes": 144_000_000}, {}), ({"tokens_per_second": 70.0}, {}), ({"tokens_per_second": None}, {"int8": "gguf-q8_0"}),
])  # fmt: skip
def test_one_advantage_is_enough_not_to_be_beaten(change, found):
    both = {kind: proofs()[kind] for kind in ("gguf-q8_0", "int8")}
    both["int8"] |= change
    assert beaten(both) == found


def test_equal_exports_beat_each_other_in_nothing():
    same = proofs()["nf4"]
    assert beaten({"nf4": same, "int8": same}) == {}


def test_of_a_reward_model_its_accuracy_is_the_quality():
    found = {}
    for kind, value, size in (("bf16", 0.75, 100), ("fp16", 0.5, 120)):
        found[kind] = proof(size, 1.0, 0.0, 1.0, against(0.0, 0.0, 0.0, 1.0)) | {"tokens_per_second": None}
        del found[kind]["perplexity_ratio"], found[kind]["greedy_agreement"], found[kind]["same_answers"]
        found[kind]["metrics"] = {"reward_accuracy": made_up_exports.share(value, 0.4, 0.9)}
        found[kind]["against"] = {"dpo_lora": {"reward_accuracy": against(0.0, -0.1, 0.1, 1.0)}}
    assert beaten(found) == {"fp16": "bf16"}
    text = export_table.page(table(found), [])
    assert "likeliest" not in text and "tokens/s" not in text and "reward accuracy" in text


def test_a_sentence_says_size_loss_interval_and_n():
    said = sentences(table())
    assert said == [
        "adapter has 9.8 MB and is loaded over its base, and no difference was found in calls/tool_name (the same in every example).",
        "bf16 is 2 times smaller than fp32 (269 MB), and no difference was found in calls/tool_name (64 examples could have shown "
        "12 points).",
        "gguf-q8_0 is 3.7 times smaller than fp32 (145 MB), and no difference was found in calls/tool_name (64 examples could have "
        "shown 12 points).",
        "nf4 is 4.9 times smaller than fp32 (110 MB), and loses 6 points [1, 11] in calls/tool_name (64 examples).",
        "int8 is 3.3 times smaller than fp32 (162 MB), and no difference was found in calls/tool_name (64 examples could have shown "
        "12 points).",
    ]


def test_gains_losses_and_the_rest_stand_side_by_side_and_too_few_examples_are_told():
    found = {"bf16": proofs()["bf16"] | {"size_bytes": REFERENCE}}
    names = {
        "a": against(0.1, 0.02, 0.18, 0.01),
        "b": against(-0.1, -0.18, -0.02, 0.01),
        "c": against(0.0, -0.2, 0.2, 1.0, None),
    }
    found["bf16"]["metrics"] = {f"{name}/json": made_up_exports.share(0.5, 0.4, 0.6, 6) for name in names}
    found["bf16"]["against"] = {"dpo_lora": {f"{name}/json": row for name, row in names.items()}}
    assert sentences(table(found)) == [
        "bf16 is as large as fp32 (538 MB), and loses 10 points [2, 18] in b/json (6 examples); gains 10 points [2, 18] in a/json "
        "(6 examples); no other difference was found in c/json (6 examples are too few to show one)."
    ]


def test_metrics_that_could_have_shown_the_same_stand_together():
    found = {"bf16": proofs()["bf16"]}
    rows = {"a/json": 0.12, "b/json": 0.12, "c/json": 0.0, "a/chrf": 3.1, "d/json": 0.12}
    found["bf16"]["metrics"] = {name: made_up_exports.share(0.5, 0.4, 0.6) for name in rows}
    found["bf16"]["against"] = {"dpo_lora": {name: against(0.0, -0.1, 0.1, 1.0, size) for name, size in rows.items()}}
    assert sentences(table(found))[0].endswith(
        "no difference was found in a/json, b/json and d/json (64 examples could have shown 12 points), in c/json (the same in every "
        "example) and in a/chrf (3.1)."
    )


def test_a_perplexity_that_rises_is_a_loss():
    found = {"nf4": proofs()["nf4"]}
    found["nf4"]["metrics"] = {"perplexity": {"value": 3.2, "low": 3.0, "high": 3.4, "n": 50, "clusters": 50}}
    row = {"difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.001, "verdict": "worse"}
    found["nf4"]["against"] = {"dpo_lora": {"perplexity": row}}
    assert sentences(table(found))[0].endswith("loses 0.20 [0.10, 0.30] in perplexity (50 examples).")


@pytest.fixture
def page(in_folder) -> Page:
    """The page that the script makes, of files."""
    folder = Path("results/dpo_lora/export")
    folder.mkdir(parents=True)
    Path("merged").mkdir()
    Path("merged/model.safetensors").write_bytes(b"0" * 1_000_000)
    files = made_up_exports.write(folder)
    make_export_table.main(Namespace(proofs=files[::-1], model=Path("merged"), output=folder / "table.html"))
    return Page((folder / "table.html").read_text())


def test_the_page_says_all_of_it_in_the_order_of_the_kinds(page):
    words = page.text.split()
    places = [page.text.index(f"{kind} {words}") for kind, words in (
        ("fp32", "the trained model"), ("bf16", "safetensors in bfloat16"), ("adapter", "the adapter"),
        ("gguf-q8_0", "GGUF in 8 bits; llama.cpp b7000"), ("nf4", "4-bit"), ("int8", "8-bit"),
    )]  # fmt: skip
    assert places == sorted(places)
    assert "beaten by gguf-q8_0" in page.text and words.count("beaten") == 1
    assert "1 MB" in page.text  # the size of the trained model's folder
    assert "64 examples, 1,893 tokens" in page.text and "the trained model has 88% on the same" in page.text
    assert page.values("href")[-5:] == [f"{kind}.json" for kind in ("bf16", "adapter", "gguf-q8_0", "nf4", "int8")]


def test_figures_mark_what_is_beaten_and_leave_the_adapter_out(tmp_path):
    quality, speed = export_figures.draw(tmp_path, table())
    for svg in (quality, speed):
        assert all(f">{kind}<" in svg for kind in ("bf16", "gguf-q8_0", "nf4", "int8")) and ">adapter<" not in svg
        assert 'role="img"' in svg
    assert export_figures.draw(tmp_path, table({"nf4": proofs()["nf4"]})) == []
