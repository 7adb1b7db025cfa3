"""Exports of a tiny model, written, loaded by transformers and measured against the unquantised model."""

import contextlib
import json
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from conftest import write_rows
from safetensors.torch import load_file, save_file

import ask_reference
import export_model
import make_base
import prove_export
from posttrain.export import comparison, reference, writing
from posttrain.export.llama_cpp import modules
from posttrain.export.sources import Sources
from posttrain.exports import EXPORTS
from posttrain.models import loading
from posttrain.runtime import atomic, hashes
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project

SUITES = {"say": {"kind": "generation", "data": "chats", "metrics": ["chrf"], "max_new_tokens": 8}}

SHAPES = {"chats": "messages", "pairs": "preference"}


class Run:
    """A merged run in the working folder, and what its exports are made of and proved with."""

    def __init__(self, configuration, chats, run: str = "sft", **changes) -> None:
        self.run, self.changes, self.configuration = run, changes, configuration
        self.folder = Path(f"results/{run}/export")
        for data in ("chats", "pairs"):
            rows = chats if data == "chats" else pairs(chats)
            write_rows(Path(f"results/data/{data}/validation.parquet"), rows, SHAPES[data])
            atomic.write_json(Path(f"results/data/{data}/data.json"), {})
        base = Path("results/bases/base")
        atomic.write_json(base / "base.json", {"files": hashes.folder_hashes(base / "model")})

    def project(self) -> Project:
        return Project(self.configuration({"evaluation.suites": SUITES} | self.changes))

    def export(self, kind: str) -> Path:
        before = Path("results/bases/base/base.json")
        trained = Path(f"results/{self.run}/trained")
        paths = {"model": Path(f"results/{self.run}/merged"), "manifest": Path(f"results/{self.run}/merge.json")}
        paths |= {"trained": trained, "stages": [trained], "parent": Path("results/bases/base/model"), "before": before}
        spec = Path(f"results/{self.run}/spec.json")
        export_model.main(Namespace(spec=spec, kind=kind, output=self.folder / kind, rows=[], **paths))
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


def test_nothing_is_written_where_the_disk_has_no_room(sft, monkeypatch):
    status = os.statvfs(".")
    fields = {name: getattr(status, name) for name in ("f_bavail", "f_frsize")} | {"f_bavail": 3}
    monkeypatch.setattr(os, "statvfs", lambda folder: Namespace(**fields))
    with pytest.raises(UserError, match=rf"needs about [\d,]+ bytes, and {3 * status.f_frsize:,} are free") as refused:
        sft.export("bf16")
    assert refused.value.code == "no-room" and not list(sft.folder.glob("*bf16*"))


def test_a_missed_limit_fails_with_the_figures_and_leaves_the_export_unproved(sft):
    sft.export("bf16")
    sft.changes = {"export.limits": {"perplexity_ratio": 0.5, "size_bytes": 1000}}
    with pytest.raises(UserError) as refused:
        sft.prove("bf16")
    assert refused.value.code == "export-limit"
    for words in ("sft: bf16", "perplexity_ratio is ", "at most 0.5", "size_bytes is", "at most 1,000"):
        assert words in str(refused.value)
    assert (sft.folder / "bf16").exists() and not (sft.folder / "bf16.json").exists()


def test_another_model_is_no_export_of_this_one(sft):
    file = sft.export("bf16") / "model.safetensors"
    tensors = load_file(file)
    torch.manual_seed(0)
    moved = {name: tensor + 0.2 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    save_file(moved, file, {"format": "pt"})
    with pytest.raises(UserError, match="greedy_agreement is 0") as refused:
        sft.prove("bf16")
    assert refused.value.code == "export-limit"
    save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="values on held-out rows that are no number"):
        sft.prove("bf16")


def test_cases_are_asked_of_the_program_and_a_required_one_that_is_red_is_not_proved(sft):
    def ask(conditions: str) -> None:
        sft.changes = {
            "evaluation.suites": {"mine": {"kind": "cases", "path": "cases.yaml", "max_new_tokens": 6}},
            "export.limits": dict.fromkeys(("perplexity_ratio", "greedy_agreement")),
        }
        Path("cases.yaml").write_text(
            f"- {{id: long, prompt: What, max_new_tokens: 9, {conditions}}}\n- {{prompt: Who, must: zzz}}"
        )
        sft.ask()

    sft.export("bf16")
    ask("must_not: [zzz]")
    rows = [row for row in reference.read(sft.folder / "reference.parquet") if row["suite"] == "mine"]
    assert [(row["id"], row["most"]) for row in rows] == [("long", 9), ("2", 6)]
    assert sft.prove("bf16")["metrics"].keys() >= {"perplexity", "mine/passed"}
    said = comparison.text(loading.tokenizer(Path("results/sft/merged")), rows[0])
    ask(f"must: {json.dumps(said)}")
    file = sft.folder / "bf16/model.safetensors"
    tensors = load_file(file)
    torch.manual_seed(0)
    save_file(
        {name: tensor + 0.2 * torch.randn_like(tensor) for name, tensor in tensors.items()}, file, {"format": "pt"}
    )
    long, other = sft.prove("bf16")["cases"]["mine"]
    assert (long["passed"], long["before"], long["required"]) == (False, True, False) and long["failed"].endswith(
        "is missing"
    )
    assert (other["passed"], other["before"]) == (False, False)
    (sft.folder / "bf16.json").unlink()
    ask(f"required: true, must: {json.dumps(said)}")
    with pytest.raises(
        UserError, match=r"sft: bf16: the required case 'long' of mine is red: '.*' is missing; export a kind"
    ):
        sft.prove("bf16")
    assert not (sft.folder / "bf16.json").exists()


def test_another_template_or_tokenizer_is_refused(sft):
    template = sft.export("bf16") / "chat_template.jinja"
    text = template.read_text()
    template.unlink()  # a link to the model's own
    template.write_text(text.replace("user", "User") + "\n{# other #}")
    assert template.read_text() != text
    template.write_text("{{ 'x' }}" + text)
    with pytest.raises(UserError, match="same_template is 0, and has to be at least 1"):
        sft.prove("bf16")


def test_weights_that_float16_cannot_hold_are_refused(sft):
    file = Path("results/sft/merged/model.safetensors")
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name][0] = 70000.0
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(
        UserError, match=f"{name} has a value of 7e\\+04, and float16 ends at 65504; export bf16"
    ) as refused:
        sft.export("fp16")
    assert refused.value.code == "unsupported-export" and not (sft.folder / "fp16").exists()


def test_nf4_needs_whole_blocks(sft):
    with pytest.raises(UserError, match="has 32 inputs, and bitsandbytes computes them on a processor in blocks of 64"):
        sft.export("nf4")


@pytest.fixture
def wide(tmp_path_factory, chats) -> Path:
    """A tiny base whose matrices are whole blocks of 4-bit weights."""
    folder = tmp_path_factory.mktemp("wide")
    spec = {"text": {"name": "chats"}, "hidden_size": 64, "layers": 2, "heads": 2, "vocab_size": 384, "seed": 42}
    with contextlib.chdir(folder):
        write_rows(Path("results/data/chats/train.parquet"), chats)
        make_base.at_random(spec, folder / "model", "wide", Path("results/data/chats/train.parquet"))
    return folder / "model"


def test_nf4_is_written_in_the_same_bytes_and_measured_alike_each_time(merge, configuration, chats, wide):
    merge("sft", parent=wide)
    sft = Run(configuration, chats)
    sft.ask()
    sft.changes = {"export.limits": {"perplexity_ratio": None, "greedy_agreement": None}}
    first = hashes.folder_hashes(sft.export("nf4"))
    proof = sft.prove("nf4")
    assert hashes.folder_hashes(sft.export("nf4")) == first
    again = sft.prove("nf4")
    timed = {"load_seconds", "tokens_per_second", "peak_memory_bytes", "seconds", "seal"}
    assert {key: proof[key] for key in proof.keys() - timed} == {key: again[key] for key in again.keys() - timed}
    assert json.loads((sft.folder / "nf4/config.json").read_text())["quantization_config"]["load_in_4bit"]
    assert proof["greedy_agreement"]["value"] < 1


def test_a_gguf_file_is_proved_by_llama_cpp(sft):
    try:
        modules()
    except UserError as absent:
        pytest.skip(str(absent))
    sft.export("gguf-f16")
    proof = sft.prove("gguf-f16")
    assert proof["program"] == "llama.cpp" and proof["greedy_agreement"]["value"] > 0.9
    assert proof["same_tokens"]["value"] == proof["same_template"]["value"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "int8-torchao", "fp16", "adapter"])
def test_other_kinds_are_proved_and_written_in_the_same_bytes(sft, kind):
    first = hashes.folder_hashes(sft.export(kind))
    assert sft.prove(kind)["greedy_agreement"]["value"] > 0.9
    assert hashes.folder_hashes(sft.export(kind)) == first
    assert not [file for file in (sft.folder / kind).rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]


def test_pairs_are_measured_by_what_is_chosen(merge, configuration, chats):
    merge("dpo")
    run = Run(configuration, chats, "dpo", **{"runs.dpo.from": "base", "evaluation.suites": {}})
    run.ask()
    run.export("bf16")
    proof = run.prove("bf16")
    assert set(proof["metrics"]) == {"perplexity", "preference_accuracy"}
    assert proof["metrics"]["preference_accuracy"]["n"] == len(chats) == proof["same_answers"]["n"]


def test_a_reward_model_is_proved_by_its_scores(merge, configuration, chats):
    merge("reward")
    runs = {"reward": {"from": "base", "objective": "reward", "data": "pairs"}}
    run = Run(configuration, chats, "reward", **{"runs": runs, "sweeps": {}, "evaluation.suites": {}})
    run.ask()
    run.export("bf16")
    proof = run.prove("bf16")
    assert set(proof["metrics"]) == {"reward_accuracy"} and "perplexity_ratio" not in proof
    with pytest.raises(UserError, match="a reward model generates no text"):
        run.export("gguf-f16")


def test_what_cannot_be_merged_is_an_adapter_only(merge, configuration, chats):
    merge("sft", "prefix")
    run = Run(configuration, chats)
    with pytest.raises(UserError, match="method: prefix cannot be merged into its base") as refused:
        run.export("nf4")
    assert refused.value.code == "unsupported-export" and not (run.folder / "nf4").exists()


def test_the_estimate_of_the_size_is_near(sft):
    folder = Path("results/sft")
    sources = Sources({}, folder / "merged", folder, folder / "trained", folder, folder, ())
    size = sum(file.stat().st_size for file in sft.export("bf16").iterdir())
    assert size <= writing.size(EXPORTS["bf16"], sources) <= size + 2 * writing.LEAST
