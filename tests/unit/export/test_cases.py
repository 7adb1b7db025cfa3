"""Answers to cases are compared with the file that they were asked from, and with no other."""

from pathlib import Path

import pytest

from posttrain.evaluation import cases
from posttrain.export.comparison import _check_asked
from posttrain.runtime.errors import UserError


@pytest.mark.parametrize(
    "text", ["- {id: a, prompt: New, must: x}", "- {id: b, prompt: Old, must: x}", "- {prompt: Old, must: x}"]
)
def test_answers_to_other_cases_are_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("cases.yaml").write_text(text)
    with pytest.raises(UserError, match=r"cases.yaml: its cases have changed .*; run the same command again"):
        _check_asked("cases.yaml", cases.read(Path("cases.yaml")), [{"id": "a", "prompt": "Old"}])


def test_changed_conditions_alone_are_checked_on_the_same_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cases.yaml").write_text("- {id: a, prompt: Old, must: other}")
    _check_asked("cases.yaml", cases.read(Path("cases.yaml")), [{"id": "a", "prompt": "Old"}])
