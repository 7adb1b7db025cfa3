"""The guide's chapters say what the code does: default values, configurations to start from, and the page for coding agents."""

import json
import re
from pathlib import Path

import pytest
import yaml

from posttrain.config.runs import Run
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.preflight.settings_checks import FACTOR

REPOSITORY = Path(__file__).resolve().parents[3]
GUIDE = REPOSITORY / "docs/guide"
CHAPTERS = sorted(GUIDE.glob("*.md"))


def table(page: Path, column: str) -> dict[str, dict[str, str]]:
    """Rows of all tables that have a column `key` and this column, by key."""
    rows, heads = {}, None
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            heads = None
        elif heads is None:
            heads = cells
        elif heads[0] == "key" and column in heads and not set(cells[0]) <= set("-"):
            rows[cells[0]] = dict(zip(heads, cells, strict=True))
    return rows


def run(**values) -> dict:
    """The settings of a run at its defaults."""
    return Run(**{"from": "base", "data": "rows"} | values).settings()


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d[\d.]*(?:e-\d+)?", text)]


def test_hyperparameters_are_the_codes():
    page = table(GUIDE / "hyperparameters.md", "default")
    sft, dpo, full = (
        run(objective="sft", method="lora"),
        run(objective="dpo", method="lora"),
        run(objective="sft", method="full"),
    )
    assert numbers(page["`rank`"]["usual"]) == list(METHODS["lora"].usual_ranks) == list(METHODS["qlora"].usual_ranks)
    assert numbers(page["`rank`"]["default"]) == [sft["rank"]]
    assert page["`alpha`"]["default"] == "2 x rank" and sft["alpha"] == 2 * sft["rank"]
    assert numbers(page["`dropout`"]["default"]) == [sft["dropout"], dpo["dropout"]]
    assert page["`target_modules`"]["default"] == f"`{sft['target_modules']}`"
    rates = {
        "`learning_rate` of lora, qlora (sft, reward)": ("lora", 0),
        "`learning_rate` of lora, qlora (other objectives)": ("lora", 1),
        "`learning_rate` of full (sft, reward)": ("full", 0),
        "`learning_rate` of full (other objectives)": ("full", 1),
    }
    for key, (method, column) in rates.items():
        row = METHODS[method]
        default = row.learning_rates[column]
        usual = (row.usual_learning_rates if column == 0 else None) or (default / FACTOR, default * FACTOR)
        assert numbers(page[key]["default"]) == [default]
        assert numbers(page[key]["usual"]) == pytest.approx(usual)
    assert full["learning_rate"] == METHODS["full"].learning_rates[0]
    for key in ("batch_size", "epochs", "warmup_ratio", "max_grad_norm", "weight_decay"):
        assert numbers(page[f"`{key}`"]["default"]) == [Run.model_fields[key].default], key
    assert page["`lr_scheduler_type`"]["default"] == f"`{Run.model_fields['lr_scheduler_type'].default}`"
    assert numbers(page["`beta` (dpo)"]["default"]) == [OBJECTIVES["dpo"].beta]


def test_the_gallery_has_every_configuration_with_its_commands():
    page = (GUIDE / "gallery.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    files = {
        file.name: file
        for file in [REPOSITORY / "config/config.yaml", *(REPOSITORY / "config/examples").glob("*.yaml")]
    }
    assert sections.keys() == files.keys()
    for name, file in files.items():
        assert f"]({'../../' + str(file.relative_to(REPOSITORY))})" in page
        header = re.findall(r"^#\s+((?:snakemake|posttrain) .*)$", file.read_text(), re.M)
        shown = re.findall(r"```bash\n(.*?)\n```", sections[name], re.S)[0].splitlines()
        assert not header or shown == header, name


BLOCKS = [(page, block) for page in CHAPTERS for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page.stem} {i}" for i, (page, _) in enumerate(BLOCKS)])
def test_keys_of_a_chapters_configurations_exist(page, block):
    sections = yaml.safe_load(block)
    schema = json.loads((REPOSITORY / "config/schema.json").read_text())
    assert sections.keys() <= schema["properties"].keys()
    for values in (sections.get("runs") or {}).values():
        Run(**values)


def test_llms_txt_has_all_objectives_and_methods():
    page = (REPOSITORY / "docs/llms.txt").read_text()
    assert re.search(r"^- O: (.*)$", page, re.M)[1].split(", ") == list(OBJECTIVES)
    assert re.search(r"^- M: (.*)$", page, re.M)[1].split(", ") == list(METHODS)
