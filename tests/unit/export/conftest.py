"""Where llama.cpp is, for the tests that need it."""

import os

import pytest

from posttrain.export import llama_cpp
from posttrain.runtime.errors import UserError

FOLDER = os.environ.get(llama_cpp.MODULES)  # before the settings of the user are taken away


@pytest.fixture
def with_llama_cpp(no_settings, monkeypatch):
    """llama.cpp by node-llama-cpp; skips the test where it is not."""
    if FOLDER:
        monkeypatch.setenv(llama_cpp.MODULES, FOLDER)
    try:
        llama_cpp.modules()
    except UserError as error:
        pytest.skip(str(error))
