"""What is wrong with a configuration beyond single tables: references, types of datasets, files, licences."""

from pathlib import Path

from posttrain.config import library_refusals, measuring
from posttrain.config.environments import own_environment
from posttrain.config.loading import joined
from posttrain.config.project_file import Config
from posttrain.config.runs import Run
from posttrain.data import licences
from posttrain.data.dataset_types import for_suites
from posttrain.data.files import is_file, is_folder
from posttrain.data.formats import FORMATS
from posttrain.evaluation import cases
from posttrain.inference import reward_reference
from posttrain.models import chat_templates
from posttrain.objectives import data_refusal
from posttrain.runtime import user_code
from posttrain.runtime.errors import UserError
from posttrain.training import early_stopping, strategies
from posttrain.workflow import judging
from posttrain.workflow.inputs import Inputs
from posttrain.workflow.lineage import Lineage, origins
from posttrain.workflow.names import Names, Node, require


def dataset_type(config: Config, dataset: str) -> str | None:
    """The type of a dataset's rows, where the configuration tells it."""
    table = config.datasets[dataset]
    if table.select:
        return "preference"
    if table.generated:
        return "messages"
    format = FORMATS.get(table.format)
    types = {dataset_type(config, part) for part in table.mix} if table.mix else {format and format.dataset_type}
    return next((found for found in types if found), None)


# ---- datasets


def check_datasets(config: Config) -> None:
    """Refuse datasets made of others that are not there, or do not fit together."""
    for name, table in config.datasets.items():
        place = f"datasets.{name}"
        key = "from" if table.from_ else "mix"
        for part in [table.from_] if table.from_ else list(table.mix or ()):
            require(f"{place}.{key}", "dataset", part, config.datasets)
            if config.datasets[part].from_ or config.datasets[part].mix:
                problem = f"{part} is made of other datasets"
                raise UserError("invalid-value", f"{place}.{key}", problem, "name one that is read from files")
        if table.select and dataset_type(config, table.from_) not in (None, "preference"):
            problem = f"select needs a preference dataset, and {table.from_} is not one"
            raise UserError("wrong-dataset-type", f"{place}.from", problem)
        if table.generated and dataset_type(config, table.from_) == "text":
            problem = f"{table.from_} has texts, which have no prompt to complete"
            raise UserError("wrong-dataset-type", f"{place}.from", problem, "name one of prompts or conversations")
        types = {dataset_type(config, part) or "" for part in table.mix or ()} - {""}
        if len(types) > 1:
            problem = f"its datasets are {' and '.join(sorted(types))}"
            raise UserError("wrong-dataset-type", f"{place}.mix", problem, "mix rows of one type")


# ---- one run


def check_run(config: Config, folder: Path, run: Run, place: str) -> None:
    """Refuse a run whose dataset does not fit, or whose arguments a library would refuse."""
    require(joined(place, "data"), "dataset", run.data, config.datasets)
    rows = dataset_type(config, run.data)
    if rows and (why := data_refusal(run.objective, run.data, rows)):
        raise UserError("wrong-dataset-type", joined(place, "data"), why)
    if rows and run.environment and rows != "tasks":
        problem = f"an environment needs rows of type tasks, and {run.data} is {rows}"
        raise UserError("wrong-dataset-type", joined(place, "data"), problem, "write a column `task` for each prompt")
    if rows == "tasks" and run.environment is None:
        problem = f"{run.data} has tasks, which only an environment reads"
        raise UserError("missing-key", joined(place, "environment"), problem, "write environment: NAME")
    if run.reward and (why := reward_reference.refusal(run.reward.function, run.data, rows or "")):
        raise UserError("wrong-dataset-type", joined(place, "reward.function"), why)
    _check_held_out(config, run, place, rows)
    _check_arguments(run, place)
    _check_hardware(config, run, place)


def _check_held_out(config: Config, run: Run, place: str, rows: str | None) -> None:
    """Refuse to measure, while a run trains, rows that are not there or not of the kind that its metric reads."""
    if not measuring.is_measured(run):
        return
    if why := early_stopping.no_answers({"objective": run.objective} | measuring.settings(run), rows):
        key, _, problem = why.partition(": ")
        problem, _, hint = problem.partition("; ")
        raise UserError("wrong-dataset-type", joined(place, key), problem, hint)
    parts = origins(config, run.data)
    if early_stopping.nothing_held_out([config.datasets[name].validation for name in parts]):
        key = next(key for key in ("early_stopping", "keep", "measure_every") if getattr(run, key) is not None)
        problem = f"{parts[0]} holds no rows out to measure"
        raise UserError(
            "nothing-held-out", joined(place, key), problem, f"write validation: 0.1 under datasets.{parts[0]}"
        )


def _check_arguments(run: Run, place: str) -> None:
    for error in library_refusals.mistakes(run):
        raise UserError(error.code, joined(place, error.place), error.problem, error.hint)


def _check_hardware(config: Config, run: Run, place: str) -> None:
    """Refuse a run that the configured processes cannot train."""
    hardware = config.hardware
    if hardware.processes == 1:
        return
    settings = run.settings() | {"objective": run.objective}
    if why := strategies.refusal(hardware.name, hardware.processes, settings, hardware.offload):
        problem, _, hint = why.partition("; ")
        raise UserError("wrong-strategy", place, problem, hint)


def check_licences(lineage: Lineage, node: Node, folder: Path) -> None:
    """Refuse a run that is built on something whose licence, as configured or in its folder's card, forbids the use."""
    use = lineage.config.use
    for part, chain in lineage.chains(node).items():
        table = lineage.table(part)
        path = getattr(table, "path", None)
        licence = table.licence or (licences.of_card(folder / path) if path else None)
        if licences.forbids(licence, use):
            way = " -> ".join([part, *chain])
            problem = f"{use}, but {way}, and the licence of {part}, {licence}, forbids it"
            raise UserError("licence-forbids", "use", problem, f"replace {part}, or write use: research")


# ---- references of the other tables


def check_references(inputs: Inputs) -> None:
    """Refuse what bases, datasets, suites and sweeps name and is not there or does not fit."""
    config, names, folder = inputs.config, inputs.names, inputs.folder
    for name, base in config.bases.items():
        place = f"bases.{name}"
        if base.chat_template:
            chat_templates.find(base.chat_template, folder, f"{place}.chat_template")
        if base.source == "random":
            require(f"{place}.text", "dataset", base.text, config.datasets)
            _check_made(config, f"{place}.text", base.text)
        if base.source == "pruned":
            _check_pruned(config, name, f"{place}")
    for name in config.datasets:
        names.selector(name)
        names.writer(name)
    for key in ("data", "outside"):
        for dataset in getattr(config.evaluation, key) or []:
            require(f"evaluation.{key}", "dataset", dataset, config.datasets)
    _check_suites(config, folder)
    _ = inputs.evaluation_rewards
    judging.check(inputs.lineage, folder)
    for name, table in config.datasets.items():
        if table.ratings:
            _check_pair(names, f"datasets.{name}.ratings", table.ratings)
    for name in config.sweeps:
        names.sweep_points(name)


def _check_made(config: Config, place: str, dataset: str) -> None:
    """Refuse a dataset for a base whose rows are made by a model, which may be made of the base."""
    if config.datasets[dataset].from_:
        raise UserError("invalid-value", place, f"{dataset} is made by a model", "name the rows that it is made of")


def _check_pruned(config: Config, name: str, place: str) -> None:
    base = config.bases[name]
    if base.data:
        require(f"{place}.data", "dataset", base.data, config.datasets)
        _check_made(config, f"{place}.data", base.data)
    seen = [name]
    while config.bases[seen[-1]].source == "pruned":
        require(f"{place}.of", "base", config.bases[seen[-1]].of, config.bases)
        seen.append(config.bases[seen[-1]].of)
        if seen[-1] in seen[:-1]:
            raise UserError("cyclic-reference", f"{place}.of", f"the bases form a cycle: {' -> '.join(seen)}")


def _check_suites(config: Config, folder: Path) -> None:
    """Refuse a suite whose dataset or files are not there."""
    own: list[str] = []
    for name, suite in config.evaluation.suites.items():
        place = f"evaluation.suites.{name}"
        if hasattr(suite, "data"):
            require(f"{place}.data", "dataset", suite.data, config.datasets)
            rows, types = dataset_type(config, suite.data), for_suites(suite.kind)
            if rows and rows not in types:
                problem = f"{suite.kind} needs rows of type {' or '.join(types)}, and {suite.data} is {rows}"
                raise UserError("wrong-dataset-type", f"{place}.data", problem)
        for metric in suite.own_metrics if suite.kind == "generation" else []:
            own.append(metric)
            if why := user_code.refusal(metric, folder) or user_code.clash(own, folder):
                raise UserError("invalid-function", f"{place}.metrics", why)
        acts = own_environment(suite.environment) if suite.kind == "environment" else None
        if acts and (why := user_code.class_refusal(acts, folder)):
            raise UserError("invalid-function", f"{place}.environment", why)
        if suite.kind == "tasks" and suite.include_path and not is_folder(folder / suite.include_path):
            problem = f"there is no folder '{suite.include_path}'"
            raise UserError("missing-file", f"{place}.include_path", problem, "write the one with the task files")
        for path in (suite.files or []) if suite.kind == "safety" else []:
            if not is_file(folder / path):
                raise UserError("missing-file", f"{place}.files", f"there is no file '{path}'", "write one that exists")
        if suite.kind == "cases":
            if not is_file(folder / suite.path):
                hint = "write one that exists"
                raise UserError("missing-file", f"{place}.path", f"there is no file '{suite.path}'", hint)
            cases.read(Path(suite.path), folder)


def _check_pair(names: Names, place: str, pair: str) -> None:
    try:
        canonical = "~".join(names.pair(pair))
    except UserError as error:
        raise UserError(error.code, place, f"{error.place}: {error.problem}", error.hint) from None
    if canonical != pair:
        raise UserError("invalid-pair", place, "its models have other canonical names", f"write {canonical}")
