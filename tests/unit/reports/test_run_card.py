"""The card of a run: front matter that the hub takes, every section, and no markup or place of the user's."""

import re

import made_up_card
import pytest
import yaml
from huggingface_hub import ModelCard

from posttrain.reports import card_facts, front_matter, run_card
from posttrain.reports.formatting import MINUS

HOSTILE = "---\nlicense: mit\n---\n# x <script>alert(1)</script> | `code` ![x](https://e.org) {{ 7*7 }} /home/anna/x ~/y C:\\anna\\z"


@pytest.fixture
def results(in_folder):
    made_up_card.write()
    return in_folder


def text(name: str = "dpo_1", kind: str | None = None, **context) -> str:
    return run_card.card(card_facts.collect(name, made_up_card.CONTEXT | context), kind)


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n\n")[1].split("\n## ")[0].strip()


def test_the_front_matter_says_base_data_languages_licence_and_what_it_is(results):
    card = text()
    assert front_matter.faults(card) == []
    fields = ModelCard(card).data.to_dict()
    fields.pop("model-index")
    assert fields == {
        "language": ["en", "ko"],
        "license": "other",
        "license_name": "apache-2.0-and-cc-by-4.0-and-mit",
        "library_name": "transformers",
        "tags": ["posttrain", "dpo", "lora"],
        "base_model": "org/model",
        "base_model_relation": "finetune",
        "datasets": ["org/chats"],
        "pipeline_tag": "text-generation",
    }


def test_the_model_index_has_each_metric_with_interval_and_n_on_each_dataset(results):
    index = {(result.dataset_name, result.metric_type): result for result in ModelCard(text()).data.eval_results}
    measured = made_up_card.read_json(results / "results/dpo_1/eval.json")
    chats = measured["by_dataset"]["chats"]["perplexity"]
    found = index["chats", "perplexity"]
    assert (found.dataset_type, found.metric_value) == ("org/chats", pytest.approx(chats["value"], rel=1e-5))
    assert found.metric_args == {key: pytest.approx(chats[key], rel=1e-5) for key in ("low", "high", "n")}
    assert index["safety", "refusal"].metric_name == "safety: refusal, 95% interval 15 to 85, n 8"
    assert {on for on, metric in index if metric == "perplexity"} == {"chats", "sums"}


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ("license: llama9\nlibrary_name: x\npipeline_tag: x\ntags: [x]", "license: llama9 is not one of the hub's"),
        (
            "license: mit\nlibrary_name: x\npipeline_tag: x\ntags: [x]\nlanguage: [english]",
            "language: english is no ISO 639 code",
        ),
        ("license: other\nlibrary_name: x\npipeline_tag: x\ntags: [x]", "license_name belongs to license: other"),
        ("license: mit\nlibrary_name: x\npipeline_tag: x", "tags is missing"),
        ("license: mit\nlibrary_name: x\npipeline_tag: x\ntags: [x]\nbase_model: a/b/c", "Repo id must be"),
    ],
)
def test_what_the_hub_would_refuse_is_found(wrong, fault):
    assert any(one.startswith(fault) for one in front_matter.faults(f"---\n{wrong}\n---\n# x\n"))


def test_recipe_data_results_limits_and_cost_are_there(results):
    card = text()
    recipe = section(card, "Recipe")
    assert "1. **`sft_0`**: SFT (lora) of `base` on the dataset `mixed`; 30 steps, 4,884,480 of 139,399,488" in recipe
    assert (
        "| `loss_type` | sigmoid, sft | sigmoid, sft |" in recipe and "| `trainer_args.optim` | adamw_torch |" in recipe
    )
    assert "gradient_checkpointing" not in recipe and "max_steps" not in recipe
    data = section(card, "Data")
    assert (
        "| `mixed` | `sft_0` | 1,000 | 60 | 3 repeated | a mixture: 1 of `chats`, 2 of `sums` | of its parts | en 100% |"
        in data
    )
    assert (
        "| `chats` | `dpo_1` | 1,000 | 60 | 8 fault | [`org/chats`](https://huggingface.co/datasets/org/chats), "
        in data
    )
    assert "| cc-by-4.0 | ko 100% |" in data
    results_ = section(card, "Results")
    assert "| exact match ↑ | 0% | [0, 17] | n 20 | no evidence (would show ±30 points) |" in results_
    assert (
        "**better**: -0.50 [-0.75, -0.25]".replace("-", MINUS) in results_
        and "in bfloat16, choose the same next token" in results_
    )
    limits = section(card, "Limits")
    assert "- Worse than `sft_0`: format followed." in limits
    assert "- The check overlap was overruled for `dpo_1`: `3 rows`." in limits
    assert "| `dpo_1` | NVIDIA H100 80GB HBM3 | 60 min | 2 min |" in section(card, "Hardware, time and energy")
    assert ", 4.05 EUR. Energy is estimated" in card
    assert "| `datasets.chats` | CC-BY-4.0 | its dataset card |" in section(card, "Licence")


def test_a_card_is_the_same_each_time(results):
    assert text() == text()


def test_harm_is_told_where_it_was_measured_and_said_to_be_unknown_where_not(results):
    assert "| safety: refusal | 50% | [15, 85] | n 8 |" in section(text(), "Bias and harm")
    made_up_card.change("dpo_1/eval/spec.json", suites={})
    assert section(text(), "Bias and harm").startswith("Not measured: this run's evaluation has no safety suite.")


def test_exports_are_told_with_their_proofs(results):
    assert section(text(), "Exports") == "None has been made and proved."
    made_up_card.write_proof("gguf-q8_0")
    row = section(text(), "Exports").splitlines()[-1]
    assert row.startswith(
        "| `gguf-q8_0` | llama.cpp `b1 ('x\\|y')` | 0.000104 MB | 1.01 [0.99, 1.03] | 97% | exact match |"
    )


def test_the_card_of_an_export_says_what_it_is_and_how_its_program_loads_it(results):
    made_up_card.write_proof("gguf-q8_0")
    facts = card_facts.collect("dpo_1", made_up_card.CONTEXT)
    card = run_card.card(facts, "gguf-q8_0", "org/mine")
    data = ModelCard(card).data
    assert (data.library_name, data.base_model_relation) == ("gguf", "quantized")
    assert "llama-server -hf org/mine --port 8080" in card and "FOLDER" not in card
    assert "llama-server -m FOLDER/dpo_1.gguf" in run_card.card(facts, "gguf-q8_0")
    made_up_card.write_proof("nf4", program="transformers")
    card = run_card.card(card_facts.collect("dpo_1", made_up_card.CONTEXT), "nf4", "org/mine")
    assert ModelCard(card).data.tags == ["posttrain", "dpo", "lora", "bitsandbytes"]
    assert 'pipeline("text-generation", model="org/mine")' in card


def test_the_card_of_an_adapter_says_what_its_own_card_says_of_base_and_servers(results):
    folder = made_up_card.write_proof("adapter", program="transformers")
    own = '# dpo_1: adapter\n\nDPO.\n\n## The base\n\nIt belongs to **base**.\n\n## Usage\n\nload("FOLDER")\n'
    (folder / "README.md").write_text(own)
    card = text(kind="adapter")
    assert section(card, "How to load it").startswith('It belongs to **base**.\n\n### Usage\n\nload("FOLDER")')
    assert (ModelCard(card).data.library_name, ModelCard(card).data.base_model_relation) == ("peft", "adapter")


def test_a_reward_model_is_compared_with_nothing_and_scores(in_folder):
    made_up_card.write("reward")
    measured = {"reward_accuracy": {"value": 0.75, "low": 0.5, "high": 0.9, "n": 20}}
    made_up_card.change("dpo_1/eval.json", metrics=measured, against={}, by_dataset={})
    card = text()
    assert ModelCard(card).data.pipeline_tag == "text-classification"
    assert "A reward model:" in card and "num_labels=1" in section(card, "How to load it")
    assert "| metric | value | interval | measured on |\n" in card and front_matter.faults(card) == []


def test_what_cannot_be_merged_is_an_adapter_beside_its_base(in_folder):
    made_up_card.write(method="prefix")
    card = text()
    assert (ModelCard(card).data.library_name, ModelCard(card).data.base_model_relation) == ("peft", "adapter")
    assert 'folder = "FOLDER"' in section(card, "How to load it") and "the adapter and its base of this model" in card
    published = run_card.card(card_facts.collect("dpo_1", made_up_card.CONTEXT), place="org/mine")
    assert 'folder = snapshot_download("org/mine")' in published


def test_a_base_that_is_not_on_the_hub_is_not_named_in_the_front_matter(in_folder):
    made_up_card.write(hub=None)
    fields = ModelCard(text()).data.to_dict()
    assert "base_model" not in fields and "base_model_relation" not in fields
    assert "a model from a local folder, called `base`" in text()


def test_texts_of_the_user_are_no_markup_and_name_no_folder(results):
    made_up_card.change("data/chats/spec.json", system=HOSTILE)
    made_up_card.change(
        "dpo_1/spec.json", loss_type=HOSTILE, trainer_args={"output_dir": "/home/anna/out", "x": [HOSTILE]}
    )
    checks = [{"name": "overlap", "severity": "error", "result": "allowed", "message": HOSTILE, "example": ""}]
    made_up_card.change("dpo_1/preflight.json", checks=checks)
    made_up_card.write_proof("gguf-q8_0", program_version=HOSTILE)
    card = text(currency=HOSTILE)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "other" and front_matter.faults(card) == []
    assert "anna" not in card and "/home" not in card and "합계" in card
    for line in body.splitlines():
        outside = re.sub(r"`[^`]*`", "", line)
        assert not re.search(r"<[a-zA-Z/!]|!\[|\{\{", outside), line
    for table in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_an_infinite_metric_is_left_out_of_the_model_index(results):
    metrics = {"perplexity": {"value": float("inf"), "low": 1.0, "high": float("inf"), "n": 3}}
    made_up_card.change("dpo_1/eval.json", metrics=metrics, by_dataset={}, against={})
    assert "model-index" not in ModelCard(text()).data.to_dict() and "∞" not in text()
