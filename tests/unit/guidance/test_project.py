"""`posttrain init`: what it writes, where it refuses, and that the files are what a project needs."""

from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, refused

from posttrain.cli import init
from posttrain.guidance import facts, project
from posttrain.workflow.project import Project


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", [".", "new", "a/b c"])
def test_a_project_is_whole(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    init.run(Namespace(folder=name))
    folder = tmp_path / name
    values = yaml.safe_load((folder / "config/config.yaml").read_text())
    made = Project(values, folder=folder)
    for dataset in made.config.datasets.values():
        assert (folder / dataset.path).exists() and (folder / dataset.validation).exists()
    assert (
        "CC0 1.0" in (folder / "data/README.md").read_text() and "GSM8K" not in (folder / "data/README.md").read_text()
    )
    assert {"results/", ".snakemake/"} <= set((folder / ".gitignore").read_text().split())
    assert (folder / "profiles/default/config.yaml").read_bytes() == (
        REPOSITORY / "profiles/default/config.yaml"
    ).read_bytes()
    said = capsys.readouterr().out
    assert ("  cd " in said) == (name != ".") and ("'a/b c'" in said) == (name == "a/b c")
    assert all(
        run in values["runs"] or run in values["bases"] for run in "smollm2 sft_lora dpo_lora".split() if run in said
    )
    assert not list(folder.glob(".posttrain-init*"))


@pytest.mark.parametrize(
    "there", ["config/config.yaml", "Snakefile", ".gitignore", "data/README.md", "profiles/slurm/config.yaml"]
)
def test_nothing_is_replaced_and_nothing_written(tmp_path, there):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("mine")
    with refused("file-exists", f"{tmp_path / there}"):
        project.start(tmp_path)
    assert files(tmp_path) == [there] and (tmp_path / there).read_text() == "mine"


def test_other_files_of_a_folder_are_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.jsonl").write_text("{}")
    project.start(tmp_path)
    assert (tmp_path / "data/mine.jsonl").read_text() == "{}"
    with refused("file-exists"):
        project.start(tmp_path)


def test_a_link_to_nowhere_and_a_file_in_the_place_of_a_folder_are_in_the_way(tmp_path):
    (tmp_path / "Snakefile").symlink_to("/nowhere")
    with refused("file-exists", f"{tmp_path / 'Snakefile'}"):
        project.start(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/config").write_text("a file")
    with refused("file-exists", f"{tmp_path / 'a/config'}"):
        project.start(tmp_path / "a")
    with refused("file-exists", f"{tmp_path / 'a/config'}"):
        project.start(tmp_path / "a/config")


def test_a_folder_that_cannot_be_written_to_is_one_sentence():
    with refused("missing-file", "/proc/posttrain"):
        project.start(Path("/proc/posttrain"))


@pytest.mark.parametrize(("name", "type"), [("examples", "messages"), ("preferences", "preference")])
def test_sample_rows_need_no_columns_and_replace_nothing(tmp_path, monkeypatch, name, type):
    monkeypatch.chdir(tmp_path)
    project.stand_in(name, Path("data/rows.jsonl"))
    rows = facts.look("data/rows.jsonl")
    assert rows.type == type and rows.count >= 100
    Path("data/rows.jsonl").write_text("mine")
    project.stand_in(name, Path("data/rows.jsonl"))
    assert Path("data/rows.jsonl").read_text() == "mine"
