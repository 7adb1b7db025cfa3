"""Exports of a tiny model, written, loaded by transformers and measured against the unquantised model."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import write_rows

import ask_reference
import export_model
import prove_export
from posttrain.runtime import atomic, hashes
from posttrain.workflow.project import Project

SUITES = {"say": {"kind": "generation", "data": "chats", "metrics": ["chrf"], "max_new_tokens": 8}}


class Run:
    """A merged run in the working folder, and what its exports are made of and proved with."""

    def __init__(self, configuration, chats, run: str = "sft", **changes) -> None:
        self.run, self.changes, self.configuration = run, changes, configuration
        self.folder = Path(f"results/{run}/export")
        for data in ("chats", "pairs"):
            rows = chats if data == "chats" else pairs(chats)
            write_rows(Path(f"results/data/{data}/validation.parquet"), rows)
            atomic.write_json(Path(f"results/data/{data}/data.json"), {})

    def project(self) -> Project:
        return Project(self.configuration({"evaluation.suites": SUITES} | self.changes))

    def export(self, kind: str) -> Path:
        before = Path("results/bases/base/base.json")
        trained = Path(f"results/{self.run}/trained")
        paths = {"model": Path(f"results/{self.run}/merged"), "manifest": Path(f"results/{self.run}/merge.json")}
        paths |= {"trained": trained, "stages": [trained], "parent": Path("results/bases/base/model"), "before": before}
        spec = Path(f"results/{self.run}/spec.json")
        export_model.main(Namespace(spec=spec, kind=kind, output=self.folder / kind, **paths))
        return self.folder / kind

    def ask(self) -> Path:
        spec, output = Path("asked.json"), self.folder / "reference.parquet"
        spec.write_text(self.project().export_reference(self.run))
        data = [Path(f"results/data/{name}") for name in self.project().specs.exported_data(self.run)]
        model = Path(f"results/{self.run}/merged")
        ask_reference.main(Namespace(spec=spec, model=model, manifest=None, data=data, output=output))
        return output

    def prove(self, kind: str) -> dict:
        spec, output = self.folder / "spec.json", self.folder / f"{kind}.json"
        spec.write_text(self.project().spec(f"{self.run}/export") + "\n")
        paths = {"model": Path(f"results/{self.run}/merged"), "manifest": Path(f"results/{self.run}/merge.json")}
        paths |= {"parent": Path("results/bases/base/model"), "before": Path("results/bases/base/base.json")}
        reference = self.folder / "reference.parquet"
        options = {"spec": spec, "kind": kind, "export": self.folder / kind, "reference": reference, "output": output}
        prove_export.main(Namespace(**options, **paths))
        return atomic.read_json(output)


def pairs(chats: list[dict]) -> list[dict]:
    rows = [{key: row[key] for key in ("id", "place")} for row in chats]
    turns = [row["messages"] for row in chats]
    wrong = [{"role": "assistant", "content": "No idea."}]
    return [
        row | {"prompt": own[:-1], "chosen": own[-1:], "rejected": wrong} for row, own in zip(rows, turns, strict=True)
    ]


@pytest.fixture
def sft(merge, configuration, chats) -> Run:
    merge("sft")
    run = Run(configuration, chats)
    run.ask()
    return run


def test_what_is_only_rounded_is_proved(sft):
    sft.export("bf16")
    proof = sft.prove("bf16")
    assert {name: proof[name]["value"] for name in ("same_template", "same_tokens")} == {
        "same_template": 1,
        "same_tokens": 1,
    }
    assert proof["same_template"]["n"] > len(json.loads(Path("asked.json").read_text())["suites"])
    assert (
        0.9
        < proof["perplexity_ratio"]["low"]
        <= proof["perplexity_ratio"]["value"]
        <= proof["perplexity_ratio"]["high"]
        < 1.1
    )
    assert proof["greedy_agreement"]["tokens"] > 20 and proof["greedy_agreement"]["value"] > 0.8
    assert set(proof["metrics"]) == {"perplexity", "say/chrf"} == set(proof["against"]["sft"])
    assert proof["files"] == hashes.folder_hashes(sft.folder / "bf16")
    assert proof["size_bytes"] == sum(file.stat().st_size for file in (sft.folder / "bf16").iterdir())
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} <= {
        file.name for file in (sft.folder / "bf16").iterdir()
    }
    assert min(proof[name] for name in ("load_seconds", "tokens_per_second", "peak_memory_bytes")) > 0
