"""Spoken words: the same seed makes the same rows, and no voice is in both splits."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY

from posttrain.data import sounds

SCRIPT = REPOSITORY / "examples/data/make_speech.py"
make_speech = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def make(folder, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, folder, "--train", "6", "--test", "4"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_no_voice_is_in_both_splits():
    assert not {name.lower() for name in make_speech.SEEN} & {name.lower() for name in make_speech.UNSEEN}
    assert len(set(make_speech.UNSEEN)) == len(make_speech.UNSEEN) >= 10


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_a_seed_makes_the_same_rows_and_sounds(tmp_path):
    for name in ("a", "b"):
        assert make(tmp_path / name).returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "a/train.jsonl").read_text().splitlines()]
    assert (tmp_path / "a/train.jsonl").read_bytes() == (tmp_path / "b/train.jsonl").read_bytes()
    assert len(rows) == 6 and len((tmp_path / "a/test.jsonl").read_text().splitlines()) == 4
    spoken = [row["messages"][1]["content"] for row in rows]
    assert {words.isascii() for words in spoken} == {True, False}
    for row in rows:
        assert row["messages"][0]["content"].count("<audio>") == 1
        (name,) = row["audios"]
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert 0.3 < sounds.check(tmp_path / "a" / name, "").seconds < 4


def test_without_espeak_it_says_what_to_install(tmp_path):
    run = make(tmp_path, PATH=str(tmp_path))
    assert run.returncode == 1
    assert run.stderr.startswith("make_speech.py: there is no espeak-ng; install it") and run.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
