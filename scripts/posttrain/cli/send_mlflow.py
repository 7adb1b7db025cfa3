"""`posttrain send-mlflow`: send what MLflow missed while it was away, and put models into its registry."""

import argparse
import os
from pathlib import Path

from posttrain.cli import configuration


def run(options: argparse.Namespace) -> None:
    """Send each run, register its model where that is asked for, and print what was done."""
    project, _ = configuration.project(options)
    from posttrain.training import (  # after a configuration that is refused: it takes seconds
        mlflow_registry,
        mlflow_tracking,
    )
    from posttrain.workflow import paths

    os.environ[mlflow_tracking.SETTINGS] = project.config.tracking.model_dump_json()
    for target in options.targets:
        name = project.run(paths.target(target).name).name
        print(mlflow_tracking.send(name))
        if options.register:
            print(mlflow_registry.register(Path(paths.of(name))))
