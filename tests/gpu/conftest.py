"""The benchmark's scratch folder, its tiny models and rows, which need no network, no MLflow and no Snakemake."""

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
    from posttrain import models, training

    monkeypatch.chdir(tmp_path)
    for module, names in ((models, ("AutoModelForCausalLM", "AutoModelForSequenceClassification")),):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # put back what Bench replaces
    for name in ("add_compact_head", "add_low_rank"):
        monkeypatch.setattr(training, name, getattr(training, name))
    return rows.Bench(tmp_path, dry=True)
