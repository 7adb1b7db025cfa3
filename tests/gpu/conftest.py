"""The benchmark's scratch folder, its tiny models and rows, which need no network, no MLflow and no Snakemake."""

import importlib
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))


@pytest.fixture(scope="module")
def rows():
    """bench/gpu_rows.py, which imports all that trains."""
    import gpu_rows

    return gpu_rows


@pytest.fixture
def bench(rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals):
    """A scratch folder with tiny models, on the GPU where there is one."""
    import torch

    from posttrain.models import loading
    from posttrain.training import loop

    monkeypatch.chdir(tmp_path)
    replaced = {loading: ("AutoModelForCausalLM", "AutoModelForSequenceClassification")}
    replaced |= {loop: ("add_compact_head", "add_low_rank")}
    for module, names in replaced.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # put back after the test
    families = [importlib.import_module(f"transformers.models.{name}.modeling_{name}") for name in ("llama", "qwen3")]
    before = [dict(vars(module)) for module in families]  # Liger replaces classes and functions of these
    yield rows.Bench(tmp_path, dry=True)
    for module, names in zip(families, before, strict=True):
        vars(module).update(names)
    torch.use_deterministic_algorithms(False)  # as full_determinism has left them
