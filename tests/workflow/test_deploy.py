"""The commands of docs/deploy.md end as they say, on a random tiny model; servers have tests of their own."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, TINY, environment, snakemake

from posttrain.export import llama_cpp
from posttrain.runtime.errors import UserError

NAMES = {"smollm2": "tiny", "snips": "gsm8k"}
FEW_BITS = ("nf4", "int8")  # of matrices that a tiny model does not have
NODE = os.environ.get(llama_cpp.MODULES)


def commands(program: str) -> list[list[str]]:
    """The words of the page's commands that begin with a program, with the tiny configuration's names."""
    page = (REPOSITORY / "docs/deploy.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.S) for line in block.splitlines()]
    found = [line.split("  #")[0] for line in lines if line.startswith(program)]
    return [re.sub("|".join(NAMES), lambda name: NAMES[name[0]], line).split()[1:] for line in found]


def has_llama_cpp() -> bool:
    try:
        return bool(llama_cpp.modules())
    except UserError:
        return False


@pytest.mark.slow
def test_every_road_ends_where_the_page_says(folder, monkeypatch):
    if NODE:
        monkeypatch.setenv(llama_cpp.MODULES, NODE)
    kinds = ["bf16", "gguf-q8_0"] if has_llama_cpp() else ["bf16", "fp16"]
    loose = {"kinds": kinds, "rows": 8, "limits": {"perplexity_ratio": None, "greedy_agreement": None}}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"export": loose}))
    targets = [words[-1] for words in commands("snakemake")]
    left_out = FEW_BITS if has_llama_cpp() else (*FEW_BITS, "gguf")
    targets = [target for target in targets if not any(kind in target for kind in left_out)]
    assert len(targets) >= 5
    run = snakemake(folder, *targets, config=config)
    assert run.returncode == 0, run.stdout
    assert (folder / "results/dpo_lora/export/table.html").is_file()
    if has_llama_cpp():
        assert "FROM ./model.gguf" in (folder / "results/dpo_lora/export/gguf-q8_0/Modelfile").read_text()
    (folder / "prompt.txt").write_text("How much is 1 and 1?")
    for words in commands("posttrain chat"):
        words = words[: words.index("<")] if "<" in words else words
        if has_llama_cpp() or "--export" not in words:
            said = posttrain(folder, *words, "--max-new-tokens", "4")
            assert said.returncode == 0, said.stderr
            assert all(f"{name}:" in said.stdout for name in words[1:] if len(words) == 3)
    shown = posttrain(folder, "publish", "dpo_lora", "anna/tiny", "--dry-run")
    assert "model.safetensors" in shown.stdout, shown.stderr


def posttrain(folder, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "posttrain.cli", *words, "--configfile", "config.yaml"]
    with (folder / "prompt.txt").open() as prompt:
        path = {"PYTHONPATH": str(REPOSITORY / "scripts")}
        return subprocess.run(
            command, cwd=folder, stdin=prompt, capture_output=True, text=True, env=environment() | path
        )
