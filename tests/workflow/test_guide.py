"""The commands of the beginner's road, run as the page shows them, on a random tiny model instead of its base."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, environment, snakemake

PAGE = REPOSITORY / "docs/guide/road.md"
FILE = "config/examples/beginner.yaml"


@pytest.mark.slow
def test_the_beginners_road_ends_where_the_page_says(folder):
    values = yaml.safe_load((REPOSITORY / FILE).read_text())
    values["bases"] = {
        "smollm2": {"source": "random", "text": "gsm8k", "hidden_size": 64, "layers": 1, "heads": 2, "vocab_size": 512}
    }
    for run in values["runs"].values():
        run["max_steps"] = 2
    values |= {"evaluation": {"limit": 4, "max_new_tokens": 4}, "tracking": {"mlflow": False}}
    config = folder / "beginner.yaml"
    config.write_text(yaml.safe_dump(values))
    lines = [
        line.split("  #")[0]
        for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S)
        for line in block.splitlines()
    ]
    targets = [word for line in lines if FILE in line for word in line.split() if word.startswith("results/")]
    targets = list(dict.fromkeys(target for target in targets if "{" not in target and "export" not in target))
    assert len(targets) == 4
    run = snakemake(folder, *targets, config=config)
    assert run.returncode == 0, run.stdout
    (table,) = (shlex.split(line)[1:] for line in lines if line.startswith("posttrain table"))
    command = [sys.executable, "-m", "posttrain.cli", *table]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^perplexity +\d", shown.stdout, re.M) and "preference_margin_accuracy" in shown.stdout
