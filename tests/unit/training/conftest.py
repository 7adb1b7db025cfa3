"""Shared by the tests of training."""

import json

import pytest

from posttrain.workflow.project import Project


@pytest.fixture
def spec(configuration):
    """The spec of one of the small configuration's runs."""

    def resolved(target: str, changes: dict | None = None) -> dict:
        return json.loads(Project(configuration(changes)).spec(target))

    return resolved
