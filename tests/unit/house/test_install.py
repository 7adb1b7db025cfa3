"""uv is told what pip's configuration says."""

import os
import runpy
import shutil

import pytest
from conftest import REPOSITORY

INSTALL = runpy.run_path(str(REPOSITORY / "envs/install.py"))


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """pip's configuration is one file, and nothing of the environment's."""
    for name in os.environ:
        if name.startswith(("PIP_", "UV_")) or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    file = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return file


def test_uv_is_given_the_indexes_wheels_and_certificates_of_pip(configured, monkeypatch):
    configured.write_text(
        "[global]\nindex-url = https://a/simple\nextra-index-url = https://b/simple\n  https://c/simple\n"
        "find-links = /wheels\ncert = /ca.pem\nconstraint = /cap.txt\n[install]\nindex-url = https://d/simple\n"
    )
    monkeypatch.setenv("PIP_FIND_LINKS", "/mine /yours")
    given = INSTALL["uv_environment"]()
    assert given["UV_DEFAULT_INDEX"] == "https://d/simple"
    assert given["UV_INDEX"] == "https://b/simple https://c/simple"
    assert given["UV_FIND_LINKS"] == "/mine,/yours"
    assert given["SSL_CERT_FILE"] == "/ca.pem"
    assert given["UV_CONSTRAINT"] == "envs/constraints.txt /cap.txt"
    assert given["UV_INDEX_STRATEGY"] == "unsafe-best-match"  # as pip chooses


def test_the_users_own_setting_of_uv_wins(configured, monkeypatch):
    configured.write_text("[global]\nindex-url = https://a/simple\n")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine/simple")
    assert INSTALL["uv_environment"]()["UV_DEFAULT_INDEX"] == "https://mine/simple"


def test_without_npm_set_up_goes_on_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no npm" in INSTALL["node_packages"](tmp_path / "node")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not there")
def test_without_a_registry_set_up_goes_on_and_says_what_npm_says(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    assert "npm failed: npm error code ECONNREFUSED" in INSTALL["node_packages"](tmp_path / "node")
