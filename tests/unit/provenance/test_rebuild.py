"""A run trained again: what counts as the same bits, and a project folder in which only the training is missing."""

import json
from pathlib import Path

import pytest
from conftest import refused

from posttrain.provenance import rebuild
from posttrain.runtime.atomic import write_json
from posttrain.workflow.project import Project

LINES = [{"step": 1, "loss": 2.0, "seconds": 1.0}, {"step": 2, "loss": 1.5, "seconds": 2.0}]


def write(folder: str, tensors: dict, config: dict, lines: list[dict]) -> Path:
    import torch
    from safetensors.torch import save_file

    trained = Path(folder) / "trained"
    trained.mkdir(parents=True)
    save_file({name: torch.tensor(values) for name, values in tensors.items()}, trained / "adapter.safetensors")
    write_json(trained / "adapter_config.json", config)
    (Path(folder) / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Path(folder)


TENSORS = {"a": [1.0, 2.0], "b": [3.0, float("nan")], "c": [5.0, 6.0]}
CONFIG = {"r": 4, "target_modules": ["q", "k"]}


@pytest.mark.parametrize(
    ("tensors", "config", "lines", "said"),
    [
        ({}, {}, [], []),
        ({}, {}, [{}, {"seconds": 9.0, "tokens_per_second": 5.0, "memory_gib": 1.0, "cpu_percent": 3}], []),
        ({}, {"r": 8}, [], ["trained/adapter_config.json differs"]),
        (
            {"b": [3.5, float("nan")], "c": [5.0, 7.0]},
            {},
            [],
            ["trained/adapter.safetensors: 2 of 3 tensors differ; of the first, b, by at most 0.5"],
        ),
        ({"d": [1.0]}, {}, [], ["trained/adapter.safetensors: 1 tensors are only in one of the two, the first d"]),
        ({}, {}, [{}, {"loss": 1.25}], ["train.jsonl, step 2: loss was 1.5, is now 1.25"]),
        ({}, {}, [{"loss": 0}, {"loss": 1.25}], ["train.jsonl, step 1: loss was 2.0, is now 0"]),
        ({}, {}, [{}, {}, {"step": 3, "loss": 1}], ["train.jsonl, step 3: step was None, is now 3"]),
    ],
    ids="same clocks config tensors names line first longer".split(),
)
def test_only_bits_and_numbers_count(in_folder, tensors, config, lines, said):
    old = write("old", TENSORS, CONFIG, LINES)
    changed = [LINES[i] | lines[i] if i < 2 else lines[i] for i in range(len(lines))] or LINES
    assert rebuild.compare(old, write("new", TENSORS | tensors, CONFIG | config, changed)) == said


def test_a_file_of_only_one_of_the_two_is_named(in_folder):
    old, new = (write(name, TENSORS, CONFIG, LINES) for name in ("old", "new"))
    (old / "trained/adapter_config.json").unlink()
    (new / "trained/.snakemake_timestamp").touch()
    assert rebuild.compare(old, new) == ["trained/adapter_config.json is only in the new one"]


def test_the_other_folder_has_all_but_the_runs_own_training(in_folder):
    for file in ("rows.jsonl", "results/sft/spec.json", "results/dpo/spec.json", "results/dpo/preflight.json"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    for folder in ("results/dpo/trained", "results/dpo/checkpoints", "results/logs", ".snakemake", "results/.old"):
        Path(folder).mkdir()
    rebuild.link_project(Path("results/.rebuild.x").absolute(), "dpo")
    there = {str(path.relative_to("results/.rebuild.x")) for path in Path("results/.rebuild.x").rglob("*")}
    assert there == {
        "rows.jsonl", "results", "results/sft", "results/dpo", "results/dpo/spec.json", "results/dpo/preflight.json"
    }  # fmt: skip
    assert (
        Path("results/.rebuild.x/results/sft").is_symlink() and not Path("results/.rebuild.x/results/dpo").is_symlink()
    )


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ({"datasets": {"a": {"path": "a.jsonl"}}}, 0),
        ({"datasets": {"a": {"path": "../a.jsonl"}, "b": {"validation": "x/../../../b*.jsonl"}}}, 2),
        ({"suites": {"own": {"files": ["../a/b.jsonl"], "limit": 3}}, "licence": None}, 1),
        ({"note": "..."}, 0),
    ],
)
def test_how_far_out_of_the_project_a_configuration_reads(values, levels):
    assert rebuild.levels_above(values) == levels


@pytest.mark.parametrize("path", ["../qa.jsonl", "../../models/m/config.json", "own.jsonl"])
def test_a_path_out_of_the_project_leads_to_the_same_file_from_the_other(tmp_path, monkeypatch, path):
    project = tmp_path / "work/project"
    (project / "results/r").mkdir(parents=True)
    monkeypatch.chdir(project)
    Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(path)
    (project / "results/.rebuild.x").mkdir()
    elsewhere = rebuild.folder_in(project / "results/.rebuild.x", rebuild.levels_above(path))
    rebuild.link_project(elsewhere, "r")
    assert (elsewhere / path).read_text() == path
    assert not (elsewhere / "results/r").is_symlink()


@pytest.fixture
def project(configuration) -> Project:
    """The small configuration."""
    return Project(configuration(), "project.yaml")


def test_a_run_that_is_not_built_is_refused(in_folder, project):
    with refused("not-built", "sft"):
        rebuild.rebuild_check(project, Path("project.yaml"), "sft")


def test_a_run_that_the_configuration_would_build_otherwise_is_refused(in_folder, project, configuration):
    Path("results/sft/trained").mkdir(parents=True)
    Path("results/sft/provenance.json").touch()
    Path("results/sft/spec.json").write_text(Project(configuration({"runs.sft.seed": 7})).spec("sft"))
    with refused("changed-settings", "sft"):
        rebuild.rebuild_check(project, Path("project.yaml"), "results/sft/trained")
