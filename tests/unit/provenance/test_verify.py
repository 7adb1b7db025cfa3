"""Results on disk against their records: what was edited, what is not built from what is there now, what would be rebuilt."""

import json
from pathlib import Path

import pytest

from posttrain.provenance import records, verify
from posttrain.runtime.atomic import read_json, write_json
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import folder_hashes, sha256
from posttrain.workflow import specs
from posttrain.workflow.project import Project

RUNS = ("sft", "dpo")
LOGPROBS = "results/sft/logprobs/pairs,max_length=1024.parquet"


def write(file: str, text: str | None = None) -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"what {file} holds" if text is None else text)
    return path


def build(project: Project) -> None:
    """Leave what the stages leave, with records as they write them and a sentence for each big file."""
    for file in ("chats.jsonl", "pairs.jsonl", "held_out.jsonl"):
        write(file)
    for name in ("chats", "pairs"):
        folder = write(f"results/data/{name}/spec.json", f"{project.spec(f'data/{name}')}\n").parent
        files = ("train.parquet", "validation.parquet", "dropped.jsonl")
        for file in files:
            write(f"{folder}/{file}")
        sources = {file: sha256(Path(file)) for file in project.inputs.sources(name)}
        written = records.hashes(folder, *files)
        write_json(folder / "data.json", records.sealed({"files": sources, "written": written}))
        tokens = write(f"results/tokens/base/{name},max_length=1024/train.parquet").parent
        write(f"{tokens}/validation.parquet")
        record = {"made_from": records.hashes(folder, *files[:2]), "written": records.hashes(tokens, *files[:2])}
        write_json(tokens / "report.json", records.sealed(record))
    base = write("results/bases/base/spec.json", f"{project.spec('bases/base')}\n").parent
    write("results/bases/base/model/config.json")
    write_json(base / "base.json", records.sealed({"files": folder_hashes(base / "model")}))
    write(LOGPROBS)
    for name in RUNS:
        build_run(project, name)


def build_run(project: Project, name: str) -> None:
    folder = write(f"results/{name}/spec.json", f"{project.spec(name)}\n").parent
    for file in ("trained/adapter.safetensors", "merged/model.safetensors", "model/model.safetensors", "train.jsonl"):
        write(f"{folder}/{file}")
    write_json(folder / "train.json", {"steps": 4})
    write_json(folder / "merge.json", {"files": folder_hashes(folder / "merged"), "n": 9})
    run, parent = project.run(name).run, Path(project.manifest(project.run(name).parent))
    tokens = Path(project.tokens(name, run.data, run.max_length))
    record = {
        "spec": sha256(folder / "spec.json"),
        "settings": json.loads(project.spec(name)),
        "parent": {"name": project.run(name).parent, "files": read_json(parent)["files"]},
        "tokens": {split: sha256(tokens / f"{split}.parquet") for split in ("train", "validation")},
        "rows": records.hashes(Path(f"results/data/{run.data}"), "train.parquet"),
        "logprobs": records.hashes(Path(LOGPROBS).parent, Path(LOGPROBS).name) if name == "dpo" else {},
        "trained": folder_hashes(folder / "trained"),
        "steps": records.hashes(folder, "train.jsonl"),
        "merge": records.hashes(folder, "merge.json"),
        "training": read_json(folder / "train.json"),
        "versions": records.versions(),
        "code": {"commit": "0123456789abcdef", "scripts": records.code_hash(verify.SCRIPTS)},
        "merged": folder_hashes(folder / "merged"),
        "model": folder_hashes(folder / "model"),
    }
    write_json(folder / "provenance.json", records.sealed(record))
    write(f"results/{name}/eval/spec.json", f"{project.spec(f'{name}/eval')}\n")
    write(f"results/{name}/eval/examples.parquet")
    result = {"spec": project.spec_hash(f"{name}/eval"), "metrics": {"perplexity": {"value": 3.5}}, "seconds": 1.5}
    result |= {"manifest": sha256(folder / "merge.json")}
    result |= {"written": records.hashes(folder / "eval", "examples.parquet")}
    write_json(folder / "eval.json", records.sealed(result))


def build_export(project: Project, name: str, kind: str) -> None:
    """Leave a proved export."""
    folder = write(f"results/{name}/export/spec.json", f"{project.spec(f'{name}/export')}\n").parent
    write(f"{folder}/{kind}/model.safetensors")
    write(f"{folder}/reference.parquet")
    record = {key: sha256(folder / file) for key, file in (("spec", "spec.json"), ("reference", "reference.parquet"))}
    record |= {"manifest": sha256(Path(f"results/{name}/merge.json")), "files": folder_hashes(folder / kind)}
    write_json(folder / f"{kind}.json", records.sealed(record))


@pytest.fixture
def project(configuration):
    """A project with changes to its configuration."""

    def make(changes: dict | None = None) -> Project:
        return Project(configuration({"sweeps": {}, "runs.follow": ..., "runs.full": ...} | (changes or {})))

    return make


@pytest.fixture
def built(in_folder, project) -> Project:
    """A project in which everything is built, and its configuration."""
    build(project())
    return project()


def found(project: Project, *targets: str) -> dict[str, verify.Finding]:
    return {finding.name: finding for finding in verify.verify(project, list(targets))}


def wrong(project: Project, *targets: str) -> dict[str, list[str]]:
    return {name: finding.wrong for name, finding in found(project, *targets).items() if finding.wrong}


EVERYTHING = [
    "data/chats", "data/pairs", "bases/base", "tokens/base/chats,max_length=1024", "tokens/base/pairs,max_length=1024",
    "sft", "sft/eval", "dpo", "dpo/eval",
]  # fmt: skip


def test_what_nobody_touched_is_as_built(built):
    assert [str(finding) for finding in verify.verify(built, [])] == [f"{name}: as built" for name in EVERYTHING]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nf4/model.safetensors", "nf4/model.safetensors is edited"),
        ("nf4/more.bin", "nf4/more.bin is added"),
        ("reference.parquet", "proved against another reference.parquet"),
        ("../merge.json", "proved against another merge.json"),
    ],
)
def test_an_export_is_verified_with_its_proof(built, file, said):
    build_export(built, "dpo", "nf4")
    assert found(built, "dpo")["dpo/export/nf4"].wrong == []
    if file == "../merge.json":
        edit_json("results/dpo/merge.json", n=10)
    else:
        write(f"results/dpo/export/{file}", "edited")
    assert wrong(built, "dpo")["dpo/export/nf4"] == [said]


def test_a_proof_without_a_seal_is_no_proof_and_one_that_vanishes_is_not_built(built):
    proof = write("results/dpo/export/nf4.json", "{}")
    assert wrong(built, "dpo")["dpo/export/nf4"] == ["nf4.json is edited"]
    proof.unlink()
    assert verify._export(built, "dpo", proof).notes == [verify.NOT_BUILT]


def test_another_limit_is_told_of_a_proof(built, project):
    build_export(built, "dpo", "nf4")
    assert found(project({"export.limits.size_bytes": 5}), "dpo")["dpo/export/nf4"].notes == [
        "would be built again: limits.size_bytes: (none) -> 5"
    ]


def test_the_time_that_an_evaluation_took_is_not_sealed(built):
    edit_json("results/sft/eval.json", seconds=9)
    assert wrong(built) == {}


def edit_json(file: str, **values) -> None:
    write_json(Path(file), read_json(Path(file)) | values)


SFT_TOKENS = "tokens/base/chats,max_length=1024"


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [
        ("bases/base/model/config.json", "bases/base", "model/config.json is edited"),
        ("data/chats/train.parquet", "data/chats", "train.parquet is edited"),
        ("data/chats/dropped.jsonl", "data/chats", "dropped.jsonl is edited"),
        (f"{SFT_TOKENS}/validation.parquet", SFT_TOKENS, "validation.parquet is edited"),
        ("sft/trained/adapter.safetensors", "sft", "trained/adapter.safetensors is edited"),
        ("sft/merged/model.safetensors", "sft", "merged/model.safetensors is edited"),
        ("sft/model/model.safetensors", "sft", "model/model.safetensors is edited"),
        ("sft/train.jsonl", "sft", "train.jsonl is edited"),
        ("sft/eval/examples.parquet", "sft/eval", "examples.parquet is edited"),
        ("sft/logprobs/pairs,max_length=1024.parquet", "dpo", f"built from another {LOGPROBS}"),
    ],
)
def test_an_edited_file_is_named(built, file, name, said):
    write(f"results/{file}", "edited")
    assert wrong(built)[name] == [said]


@pytest.mark.parametrize(
    ("file", "values", "name", "said"),
    [
        ("bases/base/base.json", {"licence": "mit"}, "bases/base", "base.json is edited"),
        ("data/chats/data.json", {"rows": 1}, "data/chats", "data.json is edited"),
        (f"{SFT_TOKENS}/report.json", {"shape": "text"}, SFT_TOKENS, "report.json is edited"),
        ("sft/provenance.json", {"python": "2.7"}, "sft", "provenance.json is edited"),
        ("sft/merge.json", {"n": 10**6}, "sft", "merge.json is edited"),
        ("sft/train.json", {"steps": 5}, "sft", "train.json is edited"),
        ("sft/eval.json", {"metrics": {"perplexity": {"value": 1.5}}}, "sft/eval", "eval.json is edited"),
    ],
)
def test_an_edited_number_is_noticed(built, file, values, name, said):
    edit_json(f"results/{file}", **values)
    assert said in wrong(built)[name]


def test_a_file_that_is_gone_and_one_that_was_added_are_named(built):
    Path("results/sft/model/model.safetensors").unlink()
    write("results/sft/model/chat_template.jinja")
    assert wrong(built)["sft"] == ["model/model.safetensors is gone", "model/chat_template.jinja is added"]


def test_what_is_built_from_an_edited_file_says_so(built):
    write("results/data/chats/train.parquet", "edited")
    write(f"results/{SFT_TOKENS}/train.parquet", "edited")
    assert wrong(built) == {
        "data/chats": ["train.parquet is edited"],
        SFT_TOKENS: ["train.parquet is edited", "made from another results/data/chats/train.parquet"],
        "sft": [
            f"built from another results/{SFT_TOKENS}/train.parquet",
            "built from another results/data/chats/train.parquet",
        ],
    }


def test_a_parent_that_was_merged_again_otherwise_is_another_model_for_child_and_evaluation(built):
    edit_json("results/sft/merge.json", files={"model.safetensors": "0"})
    assert wrong(built)["dpo"] == ["built from another results/sft/merged"]
    assert wrong(built)["sft/eval"] == ["measured on another model than the one in results/sft/merged"]


def test_a_changed_setting_is_no_fault_but_would_build_again_downstream(built, project):
    findings = found(project({"runs.sft.rank": 16, "evaluation.limit": 4}))
    assert all(not finding.wrong for finding in findings.values())
    assert findings["sft"].notes == ["would be built again: alpha: 16.0 -> 32.0, rank: 8 -> 16"]
    assert findings["dpo"].notes == ["would be built again: sft changes"]
    assert str(findings["data/chats"]) == "data/chats: as built"
    assert "limit: 100 -> 4" in findings["sft/eval"].notes[0]


def test_a_changed_dataset_or_base_is_told_as_such(built, project):
    findings = found(project({"datasets.chats.limit": 3, "bases.base.path": "other"}))
    assert findings["data/chats"].notes == ["would be built again: limit: null -> 3"]
    assert findings["bases/base"].notes == ["would be built again: path: base -> other"]
    assert findings["sft"].notes == ["would be built again: chats changes, base changes"]


def test_a_stage_whose_version_rose_is_told(built, project, monkeypatch):
    was = specs.VERSIONS["sft"]
    monkeypatch.setitem(specs.VERSIONS, "sft", was + 1)
    said = f"would be built again: this stage is version {was + 1} of posttrain's now, was {was}"
    assert found(project())["sft"].notes == [said]


def test_a_source_file_that_changed_is_named(built):
    write("chats.jsonl", "more rows")
    assert found(built)["data/chats"].notes == ["its file chats.jsonl has changed, so it would be built again"]


def test_other_versions_and_other_code_are_told_by_name(built):
    record = read_json(Path("results/sft/provenance.json"))
    torch = record["versions"]["torch"]
    record |= {
        "versions": record["versions"] | {"torch": "1.0"},
        "code": {"commit": "0123456789abcdef", "scripts": "0"},
    }
    write_json(Path("results/sft/provenance.json"), records.sealed(record))
    assert str(found(built)["sft"]) == (
        f"sft: as built; built with torch 1.0 (now {torch}); built by other code (commit 0123456789)"
    )


def test_a_record_without_a_seal_is_of_older_code(built):
    record = read_json(Path("results/sft/eval.json"))
    del record["seal"]
    write_json(Path("results/sft/eval.json"), record)
    assert str(found(built)["sft/eval"]) == f"sft/eval: {verify.UNSEALED}"


def test_a_run_of_older_code_that_made_no_merged_folder_is_checked(built):
    record = read_json(Path("results/sft/provenance.json"))
    del record["merged"]
    write_json(Path("results/sft/provenance.json"), record)
    write("results/sft/model/model.safetensors", "edited")
    assert any("model.safetensors" in fault for fault in found(built)["sft"].wrong)


def test_a_run_that_left_the_configuration_is_still_checked(built, project):
    write("results/dpo/model/model.safetensors", "edited")
    finding = found(project({"runs.dpo": ...}))["dpo"]
    assert (finding.wrong, finding.notes) == (
        ["model/model.safetensors is edited"],
        ["not in the configuration any more"],
    )


def test_what_is_not_built_is_no_fault(in_folder, project):
    findings = found(project())
    assert {str(finding).partition(": ")[2] for finding in findings.values()} == {"not built"}
    write("results/sft/trained/adapter.safetensors")
    assert str(found(project())["sft"]) == f"sft: {verify.UNMERGED}"


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("dpo", EVERYTHING),
        ("results/dpo/eval.json", EVERYTHING),
        ("dpo,rank=8", [*EVERYTHING[:7], "dpo,rank=8"]),
        ("sft", ["data/chats", "bases/base", SFT_TOKENS, EVERYTHING[4], "sft", "sft/eval"]),
        ("base", ["bases/base"]),
        ("results/bases/base/base.json", ["bases/base"]),
        ("data/pairs", ["data/pairs"]),
    ],
)
def test_a_target_means_itself_and_what_it_is_made_from(built, target, names):
    assert sorted(found(built, target)) == sorted(names)


@pytest.mark.parametrize(
    "target", ["nothing", "data/nothing", "results/bases/other/base.json", "results/report.html/x", "tokens/base"]
)
def test_a_target_that_names_nothing_is_refused(built, target):
    with pytest.raises(UserError):
        found(built, target)


def test_a_file_with_two_names_is_read_once(in_folder, monkeypatch):
    read = []
    monkeypatch.setattr(verify, "sha256", lambda path: read.append(path) or "0")
    write("a")
    Path("b").hardlink_to("a")
    assert verify.sha256_of(Path("a")) == verify.sha256_of(Path("b")) == "0"
    assert read == [Path("a")]
