"""Let MLflow save a model's folder without loading it.

Checked with MLflow 3.17.2 and transformers 5.23.0: `mlflow.transformers.save_model` of a folder reads the class of the task's pipeline,
in the place of which transformers 5 has its name, and fails. tests/unit/compat/test_mlflow_tasks.py fails when one of them changes. It
can go once MLflow takes the name.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

CHECKED = {"mlflow": "3.17.2", "transformers": "5.23.0"}


@contextlib.contextmanager
def tasks_with_classes() -> Iterator[None]:
    """Within the block, `transformers.pipelines.check_task` gives the class of a pipeline, as it did in transformers 4."""
    from transformers import pipelines

    own = pipelines.check_task

    def check_task(task: str) -> tuple[str, dict[str, Any], Any]:
        name, row, options = own(task)
        module, _, pipeline = row["impl"].rpartition(".")
        return name, row | {"impl": getattr(importlib.import_module(module), pipeline)}, options

    pipelines.check_task = check_task
    try:
        yield
    finally:
        pipelines.check_task = own
