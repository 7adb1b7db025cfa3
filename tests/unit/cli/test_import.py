"""`posttrain import`: what it writes and prints."""

import argparse
import json
from pathlib import Path

import pytest
import yaml

from posttrain.cli import import_
from posttrain.guidance.project import WORKFLOW
from posttrain.runtime.errors import UserError
from unit.importing.public_examples import AXOLOTL


def run(**options) -> None:
    given = {
        "files": [Path("lora.yaml")],
        "output": Path("config/config.yaml"),
        "force": False,
        "json": False,
        "devices": 1,
    }
    import_.run(argparse.Namespace(**given | options))


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lora.yaml").write_text(yaml.safe_dump(AXOLOTL["llama-3/lora-1b"]))


def test_it_writes_a_configuration_and_prints_what_became_of_each_key(capsys):
    run()
    text = Path("config/config.yaml").read_text()
    assert "    batch_size: 4  # micro_batch_size" in text
    assert "    dropout: 0.05  # lora_dropout" in text
    out = capsys.readouterr().out
    assert out.startswith("lora.yaml (Axolotl) is the run sft_lora\n  carried over (")
    assert (
        "    micro_batch_size: 2 -> batch_size; examples per optimiser step: 2 per device x 2 accumulated x 1 device = 4"
        in out
    )
    assert out.endswith(
        f"next: snakemake -s {WORKFLOW} -n results/sft_lora/eval.json --configfile config/config.yaml\n"
    )


def test_it_replaces_nothing_without_being_asked():
    run()
    with pytest.raises(UserError, match=r"config/config\.yaml: it exists, and is not overwritten; write --force"):
        run(devices=2)
    run(devices=2, force=True)
    assert "batch_size: 8" in Path("config/config.yaml").read_text()


def test_a_program_reads_the_lists(capsys):
    run(json=True)
    found = json.loads(capsys.readouterr().out)
    (lists,) = found["runs"].values()
    assert found["output"] == "config/config.yaml" and lists["tool"] == "Axolotl"
    assert {"key": "lora_r", "value": 16, "ours": "rank"} in lists["carried"]


def test_a_configuration_that_this_machine_cannot_use_is_written_and_said_to_be(capsys):
    Path("lora.yaml").write_text(yaml.safe_dump(AXOLOTL["llama-3/lora-1b"] | {"optimizer": "galore_adamw"}))
    run()
    out = capsys.readouterr().out
    assert "wrote config/config.yaml, which is refused on this machine: runs.sft_lora.trainer_args.optim: " in out
    assert "optim: galore_adamw" in Path("config/config.yaml").read_text()


def test_a_refused_file_leaves_nothing_behind():
    Path("lora.yaml").write_text("hello: 1")
    with pytest.raises(UserError, match="of no tool that is known"):
        run()
    assert not Path("config").exists()
