"""What a script has to know that no spec says: licences, allowed checks, a sweep's points, what the report shows."""

import json
from typing import Any

from posttrain.workflow import paths
from posttrain.workflow.inputs import Inputs
from posttrain.workflow.names import Node


def context(inputs: Inputs, of: str, command: str) -> str:
    """The context of a script as canonical JSON, which the rule `context` writes down when it changes.

    Args:
        inputs: of the configuration.
        of: `data/NAME` for a dataset's report, `sweeps/NAME`, the empty text for the report of all runs, or a run for its preflight.
        command: the Snakemake command without a target, for the report.
    """
    table, _, name = of.rpartition("/")
    if table == "data":
        values: dict[str, Any] = {"licences": inputs.lineage.dataset_licences(name)}
    elif table == "sweeps":
        values = {"points": inputs.names.sweep_points(name)}
    else:
        values = _preflight(inputs, inputs.names.run(name)) if name else report(inputs, command)
    return json.dumps(values, sort_keys=True, indent=1)


def _preflight(inputs: Inputs, node: Node) -> dict[str, Any]:
    """The checks that may fail, the licences and what they come through, and the reward models with another tokenizer."""
    judges = {suite: paths.base(base, "model") for suite, base in inputs.foreign_rewards(node.name).items()}
    licences, chains = inputs.lineage.licences(node), inputs.lineage.chains(node)
    use = inputs.config.use
    values = {"allow": node.run.allow, "use": use, "licences": licences, "chains": chains, "judges": judges}
    if teachers := inputs.lineage.teachers(node.name):
        values["teachers"], values["base"] = teachers, inputs.lineage.origin(node.name)
        values["teacher"] = paths.base(inputs.lineage.line(node.teacher)[0], "model") if node.teacher else None
    return values | {"hardware": _hardware(inputs)}


def _hardware(inputs: Inputs) -> dict[str, Any]:
    """How several processes share a training; nothing for one."""
    hardware = inputs.config.hardware
    shared = {"processes": hardware.processes, "strategy": hardware.name, "offload": hardware.offload}
    return shared if hardware.processes > 1 else {}


def report(inputs: Inputs, command: str) -> dict[str, Any]:
    """What the report cannot read from results: the graph, what belongs to what, prices; `command` has no target."""
    config, names = inputs.config, inputs.names
    models = [{"name": base, "kind": "base", "parent": None, "also": []} for base in config.bases]
    for node in map(names.run, inputs.lineage.all_runs()):
        models.append(
            {"name": node.name, "kind": "run", "parent": node.parent, "also": node.models[1:], "data": node.run.data}
            | {"objective": node.run.objective, "method": node.run.method, "licences": inputs.lineage.licences(node)}
        )
    used = {model["parent"] for model in models}
    models = [model for model in models if model["kind"] == "run" or model["name"] in used]
    for model in models:
        model["command"] = f"{command} {paths.evaluation(model['name'])}"
    datasets = dict.fromkeys([*(model["data"] for model in models if "data" in model), *inputs.held_out_data])
    return {
        "config": inputs.file,
        "models": models,
        "datasets": list(datasets),
        "sweeps": {sweep: [name for name, _ in names.sweep_points(sweep)] for sweep in config.sweeps},
        "ratings": sorted({table.ratings for table in config.datasets.values() if table.ratings}),
        **config.cost.model_dump(),
    }
