"""Checkpoints: what counts as whole, what is set aside, and that a training goes on from what is left with the same bits."""

import os
import shutil
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tokenize_data
import train_sft
from posttrain import checkpoints, stage, training
from posttrain.project import Project
from posttrain.tokens import tokenise

# ---- what counts


def checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    """A checkpoint of two files, one of them in a folder of its own."""
    path = folder / f"checkpoint-{step}"
    (path / "value").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(bytes(range(200)) * step)
    (path / "value/adapter.safetensors").write_bytes(bytes(range(100)))
    if sealed:
        checkpoints.seal(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_checkpoint_is_a_start_from_the_beginning(tmp_path):
    assert checkpoints.last(tmp_path) is None


def test_the_newest_is_taken_by_its_number(tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path, step)
    assert checkpoints.last(tmp_path).name == "checkpoint-10"


def test_the_list_can_be_verified_with_sha256sum(tmp_path):
    path = checkpoint(tmp_path, 3)
    assert os.system(f"cd {tmp_path} && sha256sum --quiet --strict -c {path.name}/SHA256SUMS") == 0


def test_sealing_keeps_two_that_count_and_removes_the_third(tmp_path):
    for step in (1, 2):
        checkpoint(tmp_path, step)
    new = checkpoint(tmp_path, 3, sealed=False)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]  # not before the third counts
    checkpoints.seal(new)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_one_that_was_being_removed_when_the_stage_was_killed_is_no_broken_one(tmp_path):
    checkpoint(tmp_path, 1).rename(tmp_path / ".gone-checkpoint-1")
    good = checkpoint(tmp_path, 2)
    assert checkpoints.last(tmp_path) == good
    assert names(tmp_path) == ["checkpoint-2"]


OTHERWISE = {
    "a renamed folder": lambda path: path.rename(path.with_name("checkpoint-7")),
    "a file too many": lambda path: (path / "new").touch(),
    "no files": lambda path: [file.unlink() for file in path.rglob("*") if file.is_file()],
    "an empty folder": lambda path: (shutil.rmtree(path), path.mkdir()),
    "files exchanged": lambda path: shutil.copy(path / "value/adapter.safetensors", path / "optimizer.pt"),
    "a list of another": lambda path: shutil.copy(path.with_name("checkpoint-1") / checkpoints.SEAL, path),
}


@pytest.mark.parametrize("spoil", OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_otherwise_than_it_was_written_is_set_aside_and_the_one_before_taken(tmp_path, spoil):
    good = checkpoint(tmp_path, 1)
    spoil(checkpoint(tmp_path, 2))
    assert checkpoints.last(tmp_path) == good
    assert [name[:17] for name in names(tmp_path)] == ["broken-checkpoint", "checkpoint-1"]


def test_only_the_last_broken_ones_are_kept(tmp_path):
    for step in range(1, 6):
        checkpoint(tmp_path, step, sealed=False)
    assert checkpoints.last(tmp_path) is None
    assert names(tmp_path) == ["broken-checkpoint-4", "broken-checkpoint-5"]
    checkpoint(tmp_path, 5, sealed=False)
    assert checkpoints.last(tmp_path) is None  # a second time under the same name
    checkpoints.clear(tmp_path)
    assert names(tmp_path) == []


def test_the_half_one_of_a_full_disk_is_removed_and_no_other(tmp_path):
    checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, sealed=False)
    checkpoints.remove_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint-1"]


def test_every_file_and_folder_is_on_the_disk_before_the_list_and_the_list_before_its_name(tmp_path, monkeypatch):
    path, done = checkpoint(tmp_path, 1, sealed=False), []
    sync, rename = checkpoints._sync, Path.rename
    monkeypatch.setattr(checkpoints, "_sync", lambda file: (done.append(file.name), sync(file)))
    monkeypatch.setattr(Path, "rename", lambda file, to: (done.append(f"-> {to.name}"), rename(file, to)))
    checkpoints.seal(path)
    assert sorted(done[:2]) == ["adapter.safetensors", "optimizer.pt"]
    assert sorted(done[2:5]) == [".SHA256SUMS", "checkpoint-1", "value"]
    assert done[5:] == ["-> SHA256SUMS", "checkpoint-1", tmp_path.name]


# ---- a real training


@pytest.fixture(scope="module")
def project(tmp_path_factory, random_tiny_folder):
    """Tokens of the tiny model in a folder."""
    from conftest import REPOSITORY
    ...


