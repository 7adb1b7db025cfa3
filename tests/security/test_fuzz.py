"""A short run of bench/fuzz.py: configurations and override paths changed at random are read, or refused in a sentence."""

import contextlib
import sys

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))

import fuzz


@pytest.mark.parametrize("part", ["configurations", "overrides"])
def test_300_changed_ones_are_read_or_refused_in_a_sentence(part, tmp_path, capsys):
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    with contextlib.chdir(tmp_path):
        assert fuzz.report(part, 300, 7) == {}
    said = capsys.readouterr().out
    assert "accepted" in said and "refused" in said  # or everything would stop at the same place
