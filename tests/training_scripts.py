"""The script of each objective, by the table of objectives."""

import importlib

from posttrain.objectives import OBJECTIVES

SCRIPTS = {name: importlib.import_module(f"train_{row.script or name}") for name, row in OBJECTIVES.items()}
