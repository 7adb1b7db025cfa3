"""The model card: what the hub reads of it, how to load the model, and every inherited licence."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from posttrain.data.licences import of_card
from posttrain.reports.model_card import card as card_of
from posttrain.runtime.atomic import write_json

SPEC = {"objective": "dpo", "method": "lora", "from": {"name": "sft"}, "data": {"name": "pairs"}, "rank": 8}


def test_the_card_states_each_inherited_licence_and_where_it_was_read(in_folder):
    write_json(Path("results/bases/base/base.json"), {"licence": "gemma"})
    write_json(Path("results/data/pairs/data.json"), {"licence": "CC BY-NC 4.0"})
    write_json(Path("results/data/lost/data.json"), {"licence": None})
    licences = {"bases.base": None, "datasets.chats": "MIT", "datasets.pairs": None, "datasets.lost": None}
    text = card_of("dpo", SPEC, licences)
    data = ModelCard(text).data
    assert (data.license, data.license_name) == ("other", "cc-by-nc-4.0-and-gemma-and-mit-and-unknown")
    assert text.endswith("""
| part | licence | read from |
|---|---|---|
| `bases.base` | gemma | its model card |
| `datasets.chats` | MIT | the configuration |
| `datasets.pairs` | CC-BY-NC-4.0 | its dataset card |
| `datasets.lost` | unknown | nowhere |

**Not for commercial use**, which the licence of `datasets.pairs` forbids.

The terms of `datasets.lost` are unknown; look them up before you share this model.
""")


def test_a_card_of_one_licence_carries_it_and_warns_of_nothing(in_folder):
    text = card_of("dpo", SPEC, {"bases.base": "Apache 2.0", "datasets.pairs": "apache-2.0"})
    assert ModelCard(text).data.license == "apache-2.0"
    assert text.endswith("| `datasets.pairs` | Apache-2.0 | the configuration |\n")


def test_the_hub_reads_base_library_task_and_tags(in_folder):
    data = ModelCard(card_of("dpo", SPEC, {"bases.base": "mit"}, base_model="org/model")).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("org/model", "transformers", "text-generation")
    assert data.tags == ["posttrain", "dpo", "lora"]
    assert "base_model" not in ModelCard(card_of("dpo", SPEC, {"bases.base": "mit"})).data.to_dict()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, 'generate = pipeline("text-generation", model="FOLDER")'),
        ({"objective": "reward"}, 'AutoModelForSequenceClassification.from_pretrained("FOLDER", num_labels=1)'),
        (
            {"method": "prefix"},
            'base = AutoModelForCausalLM.from_pretrained(f"{folder}/base")',
        ),
    ],
)
def test_it_says_how_the_model_is_loaded(in_folder, changes, line):
    text = card_of("run", SPEC | changes, {"bases.base": "mit"})
    assert line in text
    compile(text.split("```python\n")[1].split("```")[0], "usage", "exec")


def test_a_licence_is_read_back_from_the_card(in_folder):
    Path("README.md").write_text(card_of("dpo", SPEC, {"bases.base": "gemma", "datasets.pairs": "mit"}))
    assert of_card(Path()) == "gemma-and-mit"


def test_values_of_the_user_are_no_markup(in_folder):
    text = card_of("dpo", SPEC | {"loss_type": "<b>|`x`\n# y"}, {"bases.base": "mit"})
    assert "| `loss_type` | `<b>\\|'x'\\n# y` |" in text


@pytest.mark.parametrize("method", ["lora", "prefix", "adapter"])
@pytest.mark.parametrize("objective", ["sft", "reward"])
def test_its_lines_load_what_a_merge_left(merge, objective, method, capsys):
    merge(objective, method)
    text = Path(f"results/{objective}/model/README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("FOLDER", f"results/{objective}/model")
    names: dict = {}
    exec(compile(code.replace("max_new_tokens=200", "max_new_tokens=2"), "card", "exec"), names)
    assert names["model"].peft_config if method != "lora" else capsys.readouterr().out
