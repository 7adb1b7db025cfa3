"""What a command line may ask for, and whether what it needs is there."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from posttrain import exports
from posttrain.config import measuring
from posttrain.config.environments import own_environment
from posttrain.data.files import expand, is_folder
from posttrain.runtime import user_code
from posttrain.runtime.errors import UserError, nearest, printable
from posttrain.workflow import judging, paths
from posttrain.workflow.inputs import Inputs, own_reward
from posttrain.workflow.lineage import origins
from posttrain.workflow.names import Node, require


def check(inputs: Inputs, targets: list[str]) -> list[str]:
    """Look at what a command asks for before anything is built; returns the run names in it that are not canonical.

    Raises:
        UserError: a target under results/ that names nothing, or a data file that does not exist.
    """
    config = inputs.config
    everything = {*config.runs, *config.bases}
    models: set[str] = set() if targets else everything
    datasets: set[str] = set()
    aliases = []
    for text in targets:
        if text in (paths.REPORT, paths.CONTEXT):
            models |= everything
            continue
        target = paths.target(text)
        if target.table:
            _check_reserved(inputs, text, target, models, datasets)
            continue
        known = list(paths.MODEL_FILES if target.name in config.bases else paths.RUN_FILES)
        known += paths.JUDGED_FILES if judging.suites(config) else ()
        if target.name not in config.bases and inputs.names.run(target.name).name != target.name:
            aliases.append(target.name)
        if target.file.startswith("export/"):
            _check_export(inputs, text, target)
        elif target.file.startswith(paths.PREDICTIONS):
            datasets.add(_predicted(inputs, text, target))
        elif target.file not in known and not target.file.startswith(("logprobs", "topk")):
            raise UserError("unknown-target", f"'{text}'", "this is not a result", nearest(target.file, known))
        models.add(target.name)
    _check_needs(inputs, models, datasets)
    return aliases


def _check_export(inputs: Inputs, text: str, target: paths.Target) -> None:
    """Refuse a file of a run's exports that there is not, or that the run cannot have."""
    if target.name in inputs.config.bases:
        problem = f"{target.name} is a base, and only runs are exported"
        raise UserError("unsupported-export", f"'{text}'", problem, "name a run")
    if target.file in paths.EXPORT_FILES:
        return
    run = inputs.names.run(target.name).run
    kind = target.file.removeprefix("export/").removesuffix(".json")
    exports.check(f"'{text}'", kind, run.method, run.objective)


def _predicted(inputs: Inputs, text: str, target: paths.Target) -> str:
    """The dataset whose rows a target has completed.

    Raises:
        UserError: there is no such dataset, or the model generates no text.
    """
    dataset, spec, _ = target.file.removeprefix(paths.PREDICTIONS).partition("/spec.json")
    name = dataset if spec else dataset.removesuffix(".jsonl")
    require(f"'{text}'", "dataset", name, inputs.config.datasets)
    if not spec and name == dataset:
        hint = f"write {paths.predictions(target.name, name)}"
        raise UserError("unknown-target", f"'{text}'", "this is not a result", hint)
    if inputs.names.is_reward(target.name):
        problem = f"{target.name} is a reward model, which generates no text"
        raise UserError("unknown-target", f"'{text}'", problem, "name a model that does")
    return name


def evaluated(inputs: Inputs, targets: list[str]) -> list[str]:
    """The models that a command asks to evaluate, each after what it came from; all of them where it names no target."""
    asked = [target for target in map(paths.target, targets) if (target.table, target.file) == ("", "eval.json")]
    names = [target.name for target in asked] if targets else list(inputs.config.runs)
    return list(dict.fromkeys(model for name in names for model in inputs.lineage.line(name)))


def _check_reserved(inputs: Inputs, text: str, target: paths.Target, models: set[str], datasets: set[str]) -> None:
    """Look at a target in a folder of results/ that is not a run's, and add what it needs."""
    place, config, name = f"'{text}'", inputs.config, target.name
    if target.table == "sweeps":
        models |= {point for point, _ in inputs.names.sweep_points(name)}
    elif target.table == "ratings":
        pair = inputs.names.pair(name)
        if name != "~".join(pair):
            hint = f"write {paths.ratings('~'.join(pair), target.file)}"
            raise UserError("invalid-pair", place, "its models have other canonical names", hint)
        if target.file == "rate.html":
            models |= set(pair)
        elif not inputs.ratings:
            hint = f"name their files under ratings: in {inputs.file}"
            raise UserError("missing-file", place, "this is made from exported ratings", hint)
    elif target.table == "bases":
        require(place, "base", name, config.bases)
        models.add(name)
    elif target.table == "data":
        require(place, "dataset", name, config.datasets)
        datasets |= {name, *inputs.held_out_data}
    elif target.table == "tokens":
        require(place, "base", name, config.bases)
        dataset = re.split("[,/]", target.file)[0]
        require(place, "dataset", dataset, config.datasets)
        datasets.add(dataset)
    else:
        problem = f"nothing in {paths.of(target.table)} can be built by its name"
        raise UserError("unknown-target", place, problem, "name a run's file")


# ---- what has to be there


def _check_needs(inputs: Inputs, models: set[str], datasets: set[str]) -> None:
    """Refuse to begin where a file of the user's is missing that the models and datasets are made from."""
    config = inputs.config
    models = models | set([*inputs.evaluation_rewards, *judging.models(inputs.names)] if models else [])
    read = datasets | set(inputs.held_out_data if models else [])
    models |= {inputs.names.selector(name) for name in read if config.datasets[name].select}
    models |= {inputs.names.writer(name) for name in read if config.datasets[name].generated}
    models |= {*inputs.lineage.parents_first(models - config.bases.keys())}
    datasets = datasets | set(inputs.held_out_data if models else [])
    for model in models:
        base = inputs.lineage.line(model)[0]
        _check_base(inputs, inputs.lineage.origin(base))
        table = config.bases[base]
        datasets |= {getattr(table, key) for key in ("text", "data") if getattr(table, key, None)}
        if model not in config.bases:
            datasets.add(inputs.names.run(model).run.data)
            _check_functions(inputs, inputs.names.run(model))
    _check_files(inputs, datasets)
    templates = [file for base in config.bases for file in inputs.template(base)]
    _check_file_names(inputs, [*inputs.suite_files, *judging.files(config), *inputs.ratings, *templates])


def _check_base(inputs: Inputs, name: str) -> None:
    base = inputs.config.bases[name]
    if base.source == "path" and not is_folder(inputs.folder / base.path):
        place, problem = f"bases.{name}.path", f"there is no folder '{base.path}'"
        raise UserError("missing-file", place, problem, "write the model's folder")


def _check_functions(inputs: Inputs, node: Node) -> None:
    functions = {
        "reward.function": own_reward(node.run),
        "early_stopping.metric": measuring.own_metric(node.run),
    }
    for key, function in functions.items():
        why = user_code.refusal(function, inputs.folder) if function else None
        if why:
            raise UserError("invalid-function", f"runs.{node.name}.{key}", why)
    own = own_environment(node.run.environment)
    if own and (why := user_code.class_refusal(own, inputs.folder)):
        raise UserError("invalid-function", f"runs.{node.name}.environment", why)


def _check_files(inputs: Inputs, datasets: set[str]) -> None:
    for dataset in sorted({part for name in datasets for part in origins(inputs.config, name)}):
        table = inputs.config.datasets[dataset]
        for key, path in (("path", table.path), ("validation", table.validation)):
            found = expand(path, inputs.folder) if isinstance(path, str) else []
            _check_file_names(inputs, map(str, found))
            if isinstance(path, str) and not found:
                place = f"datasets.{dataset}.{key}"
                hint = f"write one that exists, relative to {inputs.folder.resolve()}"
                raise UserError("missing-file", place, f"there is no file '{path}'", hint)


def _check_file_names(inputs: Inputs, files: Iterable[str]) -> None:
    """Refuse names that Snakemake would replace (it has no quoted form of `{` and `<`) or print as they are."""
    for file in files:
        if re.search("[{<]", file) or printable(file) != file:
            problem = f"the file name '{file}' contains {{, < or a control character"
            raise UserError("unsafe-file-name", inputs.file, problem, "rename the file")


def check_is_no_target(file: Path | str) -> None:
    """Refuse a result as a configuration: Snakemake takes all names after `--configfile` for configurations.

    Raises:
        UserError: the file is under results/.
    """
    name = os.path.relpath(file)
    if paths.is_target(name):
        problem = "it stands after --configfile, so snakemake reads it as a second configuration"
        hint = f"write another option between the two: --configfile FILE --cores N {name}"
        raise UserError("target-after-configfile", name, problem, hint)
