"""The profiles for clusters that could not be tried: Snakemake reads them, and their plugins have these options."""

import dataclasses
import importlib
import importlib.util

import pytest
import yaml
from conftest import REPOSITORY
from snakemake.cli import get_argument_parser

PROFILES = REPOSITORY / "profiles"
OURS = {"kubernetes": "snakemake_executor_plugin_kubernetes", "aws-batch": "snakemake_executor_plugin_aws_batch"}


def profile(name: str) -> dict:
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text())


@pytest.mark.parametrize("name", [*OURS, "s3"])
def test_every_key_is_an_option(name):
    options = {
        option.removeprefix("--") for action in get_argument_parser()._actions for option in action.option_strings
    }
    unknown = [key for key in profile(name) if key not in options and not key.startswith(f"{name}-")]
    assert not unknown


@pytest.mark.parametrize("name", OURS)
def test_what_replaces_the_default_profile_resumes_as_that_does(name):
    assert {key: value for key, value in profile("default").items() if key not in ("cores", "resources")}.items() <= (
        profile(name).items()
    )


@pytest.mark.parametrize("name", OURS)
def test_the_plugin_has_the_options_of_the_profile(name):
    if importlib.util.find_spec(OURS[name]) is None:
        pytest.skip(f"snakemake-executor-plugin-{name} is not installed")
    settings = importlib.import_module(OURS[name]).ExecutorSettings
    known = {f"{name}-{field.name.replace('_', '-')}" for field in dataclasses.fields(settings)}
    assert {key for key in profile(name) if key.startswith(f"{name}-")} <= known
