"""MLflow's road from a folder to a saved model, which fails with transformers 5 as it is."""

import importlib.util
from pathlib import Path

from posttrain.compat.mlflow_tasks import tasks_with_classes


def test_mlflow_still_wants_a_class_where_transformers_has_a_name():
    package = Path(importlib.util.find_spec("mlflow").submodule_search_locations[0])
    assert 'task_metadata[1]["impl"].__name__' in (package / "transformers/flavor_config.py").read_text()


def test_a_task_has_its_class_within_the_block_only():
    from transformers import TextGenerationPipeline, pipelines

    with tasks_with_classes():
        assert pipelines.check_task("text-generation")[1]["impl"] is TextGenerationPipeline
    assert pipelines.check_task("text-generation")[1]["impl"].endswith(".TextGenerationPipeline")
