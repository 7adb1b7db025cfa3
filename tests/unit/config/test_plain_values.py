"""A configuration consists of plain values; tests/security has the hostile ones."""

import datetime
from pathlib import Path

import pytest
from conftest import refused

from posttrain.config import plain_values

REFUSED = [
    ({"use": "x" * 5000}, "configuration-too-large", "use"),
    ({"runs": {"sft": {"data": "hf_" + "a" * 30}}}, "secret-in-configuration", "runs.sft.data"),
    ({"datasets": {"d": {"path": "https://me:secret@host/x"}}}, "secret-in-configuration", "datasets.d.path"),
    ({"runs": {"sft": {"seed": 2**63}}}, "invalid-value", "runs.sft.seed"),
    ({"runs": {"sft": {"seed": datetime.date(2025, 1, 1)}}}, "invalid-value", "runs.sft.seed"),
    ({"runs": {"sft": {"data": "\ud800"}}}, "invalid-value", "runs.sft.data"),
    ({"runs": {"sft": {3: 4}}}, "invalid-value", "runs.sft"),
    ({"evaluation": {"data": ["x" * 1000] * 60}}, "configuration-too-large", "evaluation"),
    ({"runs": {"a" * 61: {}}}, "invalid-name", "runs"),
]


@pytest.mark.parametrize(("values", "code", "place"), REFUSED, ids=[f"{code} {place}" for _, code, place in REFUSED])
def test_value_is_refused(values, code, place):
    with refused(code, place):
        plain_values.check(values)


def test_nested_too_deeply():
    values = {}
    for _ in range(25):
        values = {"a": values}
    with refused("configuration-too-large"):
        plain_values.check(values)


@pytest.mark.parametrize("text", ["a: [", "__use_yte__: true", "a: !!python/object:os.system {}"])
def test_text_is_not_yaml_with_plain_values(text):
    with refused("invalid-yaml", "my.yaml"):
        plain_values.check_text(text, "my.yaml")


def test_file_is_not_utf_8(in_folder):
    Path("my.yaml").write_bytes(b"use: \xff")
    with refused("invalid-yaml", "my.yaml"):
        plain_values.check_file("my.yaml")
