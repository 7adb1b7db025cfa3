"""`posttrain send-mlflow`: send what MLflow missed while it was away."""

import argparse
import os

from posttrain.cli import configuration


def run(options: argparse.Namespace) -> None:
    """Send each run and print what was sent."""
    project, _ = configuration.project(options)
    from posttrain.training import mlflow_tracking  # after a configuration that is refused: it takes seconds
    from posttrain.workflow import paths

    os.environ[mlflow_tracking.SETTINGS] = project.config.tracking.model_dump_json()
    for target in options.targets:
        print(mlflow_tracking.send(project.run(paths.target(target).name).name))
