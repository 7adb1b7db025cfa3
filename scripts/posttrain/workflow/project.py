"""The graph: names of runs with their overrides, what each is built from, and the spec that determines its result.

A run in a path is `NAME[,KEY=VALUE]*`. Its canonical name lists the overrides that differ from the file, sorted by key,
each value written one way, so that equal runs have equal paths.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from posttrain.config import foreign_names, overrides, trainer_args
from posttrain.config.overrides import OVERRIDES
from posttrain.config.overrides import text as _text
from posttrain.config.schema import (
    OWN_FIELDS,
    OWN_PEFT_FIELDS,
    RESERVED,
    TRAINED,
    Config,
    Run,
    Sweep,
    is_default,
    keys_of,
    of_libraries,
    peft_fields,
    read,
    trainer_fields,
    validate,
)
from posttrain.data import licences
from posttrain.data.files import expand, is_file, is_folder
from posttrain.data.formats import FORMATS
from posttrain.inference import reward_reference
from posttrain.methods import METHODS, reference_form
from posttrain.models import chat_templates
from posttrain.objectives import OBJECTIVES, data_refusal
from posttrain.runtime import user_code
from posttrain.runtime.errors import UserError, nearest, printable
from posttrain.training import early_stopping

# Raised by hand when a stage's results change their meaning: results of older versions are built anew. A refactoring
# leaves its number alone, and so throws no training away.
VERSIONS = {
    "base": 2,
    "data": 4,
    "mix": 1,
    "select": 1,
    "tokens": 3,
    "logprobs": 2,
    **{name: row.version for name, row in OBJECTIVES.items()},
    "eval": 5,
}

# The shapes of rows that a suite can measure on.
SUITE_SHAPES = {
    "perplexity": ("text", "messages"),
    "preference": ("preference",),
    "generation": ("messages", "preference"),
    "reward": ("messages", "preference", "prompts"),
}

# Every file of a run that a target may name.
RUN_FILES = (
    "spec.json context.json preflight.json preflight.txt trained train.json train.jsonl loss.png merged model merge.json "
    "provenance.json eval.json eval/spec.json eval/examples.parquet"
).split()
MODEL_FILES = ("eval.json", "eval/spec.json", "eval/examples.parquet")

LONGEST_NAME = 120  # characters of a run's name with its overrides: two make the name of one folder
DEEPEST = 100  # runs that are built on each other


class Node(NamedTuple):
    """A run with its overrides applied."""

    name: str
    """canonical name, the folder under results/"""
    run: Run
    parent: str
    """canonical name of the run, or name of the base, that it starts from"""
    judges: tuple[str, ...]
    """canonical names of the runs that its reward comes from"""
    selector: str | None
    """canonical name of the reward run that selects its data"""


class Project:
    """A validated configuration and the questions that the rules ask of it."""

    def __init__(self, values: dict[str, Any], file: str = "configuration", folder: Path = Path()) -> None:
        """Read a configuration; `folder` is the one that its relative paths belong to.

        Raises:
            UserError: for anything that is wrong with it, references and cycles included.
        """
        self.file = file
        self.folder = folder
        self.config: Config = read(values, file)
        self._raw_runs = values.get("runs") or {}
        self._nodes: dict[str, Node] = {}
        self._depths: dict[str, int] = {}
        self._chains: dict[str, dict[str, list[str]]] = {}
        self._specs: dict[str, str] = {}
        self._check_datasets()
        for name in self.config.runs:
            self.run(name)
        self._check_references()

    # ---- names

    def run(self, target: str) -> Node:
        """The run that `target`, such as `dpo_lora,rank=4`, names.

        Raises:
            UserError: unknown run or key, a value outside its type, a parent that does not exist, a cycle.
        """
        if target not in self._nodes:
            self._nodes[target] = self._resolve(target, ())
        return self._nodes[target]

    def _resolve(self, target: str, seen: tuple[str, ...], place: str | None = None) -> Node:
        """The run of a target; `place` is where it stands in the file, where nobody has typed it."""
        if target in self._nodes:
            return self._nodes[target]
        name, *written = target.split(",")
        _require(self.file, "run", name, self.config.runs)
        place = place or (f"results/{target}" if written else f"{self.file}: runs.{name}")
        if len(target) > LONGEST_NAME:
            raise UserError(
                f"{place}: a name of {len(target)} characters, more than the {LONGEST_NAME} that fit into a folder's; "
                f"write the run under runs: in {self.file}"
            )
        names = [earlier.split(",")[0] for earlier in seen]
        if name in names:  # whatever the overrides: each round would only make another name
            circle = [*seen[names.index(name) :], target]
            links = [(self.config.runs[one.split(",")[0]].from_, other) for one, other in itertools.pairwise(circle)]
            parents = all(parent.split(",")[0] == other.split(",")[0] for parent, other in links)
            key, way = (".from", "") if parents else ("", ", by a reward or a selected dataset")
            raise UserError(f"{self.file}: runs.{name}{key}: the runs go round in a circle{way}: {' -> '.join(circle)}")
        if len(seen) >= DEEPEST:
            raise UserError(
                f"{self.file}: runs.{name}: more than {DEEPEST} runs are built on each other; build on fewer"
            )
        changed = overrides.read(written, self._raw_runs[name], place, self.file)
        run = validate(Run, overrides.applied(self._raw_runs[name], changed), place)
        self._check_data(run, place)
        self._check_arguments(run, place)
        parent = self._parent(run, place, (*seen, target))
        judges = self._judges(run, place, (*seen, target))
        selector = self._selector(run.data, (*seen, target))
        kept = self._needed(name, changed, run)
        canonical = ",".join([name, *(f"{key}={_text(overrides.of(run, key, changed[key]))}" for key in kept)])
        node = Node(canonical, run, parent, judges, selector)
        self._depths[canonical] = 1 + max((self._depths[other] for other in self._built_on(node)), default=0)
        if self._depths[canonical] > DEEPEST:
            raise UserError(f"{place}: more than {DEEPEST} runs are built on each other; build on fewer")
        if self.config.use == "commercial" and not seen:  # a child's check tells its parents' chains as well
            self._check_licences(node)
        self._nodes[target] = self._nodes.setdefault(canonical, node)
        return self._nodes[target]

    def _needed(self, name: str, changed: dict[str, Any], run: Run) -> list[str]:
        """The overrides, sorted, without which `run` would be another; the rest say what holds anyway."""
        kept = dict(changed)
        for key in sorted(changed):
            rest = {other: value for other, value in kept.items() if other != key}
            try:
                without = validate(Run, overrides.applied(self._raw_runs[name], rest), "")
            except UserError:
                continue
            if (without.settings(), without.data, without.reward) == (run.settings(), run.data, run.reward):
                kept = rest
        return sorted(kept)

    def _check_data(self, run: Run, place: str) -> None:
        _require(f"{place}.data", "dataset", run.data, self.config.datasets)
        shape = self._shape(run.data)
        refusal = data_refusal(run.objective, run.data, shape) if shape else None
        if refusal:
            raise UserError(f"{place}.data: {refusal}")
        if run.reward and (why := reward_reference.refusal(run.reward.function, run.data, shape or "")):
            raise UserError(f"{place}.reward.function: {why}")
        self._check_held_out(run, place, shape)

    def _check_held_out(self, run: Run, place: str, shape: str | None) -> None:
        """Refuse to measure, while a run trains, rows that are not there or not of the kind that its metric reads."""
        if not early_stopping.is_measured(run):
            return
        if why := early_stopping.no_answers({"objective": run.objective} | early_stopping.settings(run), shape):
            raise UserError(f"{place}.{why}")
        origins = self._origins(run.data)
        if early_stopping.nothing_held_out([self.config.datasets[name].validation for name in origins]):
            key = next(key for key in ("early_stopping", "keep", "measure_every") if getattr(run, key) is not None)
            raise UserError(
                f"{place}.{key}: {origins[0]} holds no rows out to measure; write validation: 0.1 under datasets.{origins[0]}"
            )

    def _shape(self, dataset: str) -> str | None:
        """The shape of a dataset's rows, where the configuration tells it."""
        table = self.config.datasets[dataset]
        if table.select:
            return "preference"
        format = FORMATS.get(table.format)
        shapes = {self._shape(part) for part in table.mix} if table.mix else {format and format.dataset_type}
        return next((shape for shape in shapes if shape), None)

    def _check_arguments(self, run: Run, place: str) -> None:
        for key in run.trainer_args:
            fields = trainer_fields(run.objective)
            if key in fields and (why := trainer_args.refusal(run.objective, key)):
                raise UserError(f"{place}.trainer_args: {why}")
            if key in OWN_FIELDS or key not in fields:
                if key in OWN_FIELDS:
                    instead = foreign_names.of_library(key, keys_of(Run))
                    raise UserError(f"{place}.trainer_args: '{key}' is not set here; {instead}")
                acting = fields - OWN_FIELDS - trainer_args.IGNORED.keys()
                known = key in foreign_names.RUN or key in keys_of(Run)
                instead = foreign_names.of_library(key, keys_of(Run)) if known else nearest(key, acting)
                raise UserError(f"{place}.trainer_args: the trainer has no field '{key}'; {instead}")
        for key in run.peft_args:
            fields = peft_fields(run.method)
            if key in OWN_PEFT_FIELDS:
                instead = foreign_names.of_library(key, keys_of(Run))
                raise UserError(f"{place}.peft_args: '{key}' is not set here; {instead}")
            if key not in fields:
                raise UserError(
                    f"{place}.peft_args: {run.method} has no '{key}' in PEFT; {nearest(key, fields - OWN_PEFT_FIELDS)}"
                )

        for why in of_libraries(run):
            raise UserError(f"{place}.{why}")

    def _parent(self, run: Run, place: str, seen: tuple[str, ...]) -> str:
        values = {field.alias or key: getattr(run, key) for key, field in Run.model_fields.items()}
        values |= run.settings()
        unknown = [key for key in re.findall(r"{([^}]*)}", run.from_) if key not in values]
        if unknown:
            raise UserError(f"{place}.from: a run has no key '{unknown[0]}'; {nearest(unknown[0], values)}")
        tables = [key for key in re.findall(r"{([^}]*)}", run.from_) if isinstance(values[key], dict | BaseModel)]
        if tables:
            raise UserError(f"{place}.from: {tables[0]} is a table, which no name can have; write two runs for it")
        parent = re.sub(r"{([^}]*)}", lambda match: _text(values[match[1]]), run.from_)
        if parent in self.config.bases:
            return parent
        name = parent.split(",")[0]
        if name not in self.config.runs:
            known = [*self.config.bases, *self.config.runs]
            raise UserError(f"{place}.from: there is no base or run '{name}'; {nearest(name, known)}")
        node = self._resolve(parent, seen)
        if not METHODS[node.run.method].mergeable:
            raise UserError(
                f"{place}.from: {node.name} is trained with {node.run.method}, which cannot be merged, so nothing can "
                f"start from it; train it with lora, or start from {node.parent}"
            )
        if node.run.objective == "reward":
            raise UserError(
                f"{place}.from: {node.name} is a reward model, which scores answers and writes none; "
                f"start from {node.parent}, and name it under reward:"
            )
        return node.name

    def _judges(self, run: Run, place: str, seen: tuple[str, ...]) -> tuple[str, ...]:
        """The runs that a run's reward comes from.

        Raises:
            UserError: one that is no run, or a run of another objective.
        """
        if run.reward is None or run.reward.from_ is None:
            return ()
        wanted = {"from": (run.reward.from_, "dpo" if run.reward.kind == "implicit" else "reward")}
        if run.reward.sequence:
            wanted["sequence"] = (run.reward.sequence, "reward")
        return tuple(
            self._judge(f"{place}.reward.{key}", name, objective, seen) for key, (name, objective) in wanted.items()
        )

    def _judge(self, place: str, name: str, objective: str, seen: tuple[str, ...]) -> str:
        _require(place, "run", name.split(",")[0], self.config.runs)
        node = self._resolve(name, seen)
        if node.run.objective != objective:
            asked = objective == "reward" and place.endswith("reward.from")
            other = "; with kind: implicit it takes a dpo run" if asked else ""
            raise UserError(
                f"{place}: {name} is a run with objective: {node.run.objective}; "
                f"write one with objective: {objective}{other}"
            )
        return node.name

    def _selector(self, dataset: str, seen: tuple[str, ...]) -> str | None:
        """The reward run that selects a dataset's rows, where one does."""
        select = self.config.datasets[dataset].select
        place = f"{self.file}: datasets.{dataset}"
        return self._judge(f"{place}.select.by", select.by, "reward", seen) if select else None

    def _check_datasets(self) -> None:
        datasets = self.config.datasets
        for name, table in datasets.items():
            place = f"{self.file}: datasets.{name}"
            parts = [table.from_] if table.from_ else list(table.mix or ())
            for part in parts:
                key = "from" if table.from_ else "mix"
                _require(f"{place}.{key}", "dataset", part, datasets)
                if datasets[part].select or datasets[part].mix:
                    raise UserError(
                        f"{place}.{key}: {part} is made of other datasets; name one that is read from files"
                    )
            if table.from_ and self._shape(table.from_) not in (None, "preference"):
                raise UserError(f"{place}.from: select needs a preference dataset, and {table.from_} is none")
            shapes = {self._shape(part) or "" for part in table.mix or ()} - {""}
            if len(shapes) > 1:
                raise UserError(f"{place}.mix: its datasets are {' and '.join(sorted(shapes))}; mix rows of one shape")

    def _check_references(self) -> None:
        datasets = self.config.datasets
        for name, base in self.config.bases.items():
            if base.chat_template:
                chat_templates.find(base.chat_template, self.folder, f"{self.file}: bases.{name}.chat_template")
            if base.source == "random":
                _require(f"{self.file}: bases.{name}.text", "dataset", base.text, datasets)
                if datasets[base.text].select:
                    raise UserError(
                        f"{self.file}: bases.{name}.text: {base.text} is selected by a model; name all of its rows"
                    )
        for name in datasets:
            self._selector(name, ())
        for dataset in self.config.evaluation.data or []:
            _require(f"{self.file}: evaluation.data", "dataset", dataset, datasets)
        self._check_suites()
        for name, table in datasets.items():
            if table.ratings:
                self._check_pair(f"{self.file}: datasets.{name}.ratings", table.ratings)
        for name in self.config.sweeps:
            self.sweep_points(name)

    def _check_suites(self) -> None:
        """Refuse a suite whose dataset, judge or files are not there."""
        own: list[str] = []
        for name, suite in self.config.evaluation.suites.items():
            place = f"{self.file}: evaluation.suites.{name}"
            if hasattr(suite, "data"):
                _require(f"{place}.data", "dataset", suite.data, self.config.datasets)
                shape, wanted = self._shape(suite.data), SUITE_SHAPES[suite.kind]
                if shape and shape not in wanted:
                    raise UserError(
                        f"{place}.data: {suite.kind} needs rows of shape {' or '.join(wanted)}, and {suite.data} is {shape}"
                    )
            for metric in suite.own_metrics if suite.kind == "generation" else []:
                own.append(metric)
                if why := user_code.refusal(metric, self.folder) or user_code.clash(own, self.folder):
                    raise UserError(f"{place}.metrics: {why}")
            if suite.kind == "tasks" and suite.include and not is_folder(self.folder / suite.include):
                raise UserError(
                    f"{place}.include: there is no folder '{suite.include}'; write the one with the task files"
                )
            for file in (suite.files or []) if suite.kind == "safety" else []:
                if not is_file(self.folder / file):
                    raise UserError(f"{place}.files: there is no file '{file}'; write one that exists")
        _ = self.evaluation_judges

    def _check_pair(self, place: str, pair: str) -> None:
        try:
            names = "~".join(self.rated(pair))
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        if names != pair:
            raise UserError(f"{place}: write the models by their canonical names, {names}")

    def _check_licences(self, node: Node) -> None:
        """Refuse a run that is built on something whose licence, as configured or in its folder's card, forbids the use."""
        for part, chain in self.chains(node).items():
            table = self._table(part)
            path = getattr(table, "path", None)
            licence = table.licence or (licences.of_card(self.folder / path) if path else None)
            if licences.forbids(licence, self.config.use):
                raise UserError(
                    f"{self.file}: use: {self.config.use}, but {' -> '.join([part, *chain])}, and the licence of {part}, "
                    f"{licence}, forbids it; replace {part}, or write use: research"
                )

    def licences(self, node: Node) -> dict[str, str | None]:
        """What the configuration says of the licence of every base and dataset that a run is built on."""
        return {part: self._table(part).licence for part in self.chains(node)}

    def chains(self, node: Node) -> dict[str, list[str]]:
        """Every base and dataset that a run is built on, such as `datasets.chats`, to what leads from there to the run."""
        if node.name not in self._chains:
            chains = self._parts(node)
            for other in self._built_on(node):
                for part, chain in self.chains(self.run(other)).items():
                    chains.setdefault(part, [*chain, node.name])
            self._chains[node.name] = chains
        return self._chains[node.name]

    def _parts(self, node: Node) -> dict[str, list[str]]:
        """The same of what a run itself uses: its rows, and its base where it starts from one; of a random one, its text."""
        chains = self._rows(node.run.data, [node.name])
        base = self.config.bases.get(node.parent)
        if base and base.source == "random":
            return self._rows(base.text, [f"bases.{node.parent}", node.name]) | chains
        return chains | ({f"bases.{node.parent}": [node.name]} if base else {})

    def _rows(self, dataset: str, chain: list[str]) -> dict[str, list[str]]:
        origins = self._origins(dataset)
        chain = chain if origins == [dataset] else [f"datasets.{dataset}", *chain]
        return {f"datasets.{origin}": chain for origin in origins}

    def _table(self, part: str) -> Any:
        table, name = part.split(".")
        return getattr(self.config, table)[name]

    def dataset_licences(self, dataset: str) -> dict[str, str | None]:
        """What the configuration says of the licence of every dataset whose rows these are."""
        return {f"datasets.{name}": self.config.datasets[name].licence for name in self._origins(dataset)}

    def _origins(self, dataset: str) -> list[str]:
        """The datasets, read from files, that a dataset's rows come from."""
        table = self.config.datasets[dataset]
        return [table.from_] if table.from_ else list(table.mix or [dataset])

    def parents_first(self, names: Iterable[str]) -> list[str]:
        """Models and all that they are built from, each after those: bases, and runs by their canonical names."""
        order: dict[str, None] = {}

        def visit(name: str) -> None:
            name = name if name in self.config.bases else self.run(name).name
            if name not in order:
                for other in [] if name in self.config.bases else self._models_of(self.run(name)):
                    visit(other)
                order[name] = None

        for name in names:
            visit(name)
        return list(order)

    def _models_of(self, node: Node) -> list[str]:
        """The models that `node` is directly built from: its parent, its judges and the selector of its data."""
        return [node.parent, *node.judges, *([node.selector] if node.selector else [])]

    def _built_on(self, node: Node) -> list[str]:
        """Those of them that are runs."""
        return [name for name in self._models_of(node) if name not in self.config.bases]

    # ---- the graph

    def lineage(self, name: str) -> list[str]:
        """The base, the runs after it in their order, and `name` itself at the end."""
        if name in self.config.bases:
            return [name]
        return [*self.lineage(self.run(name).parent), self.run(name).name]

    def is_reward(self, name: str) -> bool:
        """Whether `name` is a run that trains a reward model."""
        return name not in self.config.bases and self.run(name).run.objective == "reward"

    def others(self, name: str) -> list[str]:
        """The models that `name` is compared with: its parent and its base; a reward model has no like among them."""
        if self.is_reward(name):
            return []
        line = self.lineage(name)
        return list(dict.fromkeys([*line[-2:-1], *line[:1]])) if len(line) > 1 else []

    def sweep_points(self, sweep: str) -> list[tuple[str, dict[str, Any]]]:
        """Canonical name and overrides of a sweep's runs, in the grid's order; lists as they are written in names.

        Raises:
            UserError: unknown sweep, run, key or value.
        """
        _require(self.file, "sweep", sweep, self.config.sweeps)
        table = self.config.sweeps[sweep]
        grid = itertools.product(*([(key, value) for value in values] for key, values in table.over.items()))
        points = [point | dict(cell) for point, cell in itertools.product(table.points or [{}], grid)]
        return [self._point(f"{self.file}: sweeps.{sweep}", table, point) for point in points]

    def _point(self, place: str, table: Sweep, point: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The same of one point; `place` is the sweep's."""
        own = {key: value for key, value in point.items() if key in table.over}
        raw = self._raw_runs.get(table.run) or {}
        written = overrides.of_point(own, raw, f"{place}.over")
        written |= overrides.of_point({key: point[key] for key in point if key not in own}, raw, f"{place}.points")
        name = ",".join([table.run, *(f"{key}={value}" for key, value in written.items())])
        said = overrides.flat(point, raw)
        plain = (str, bool, int, float, type(None))
        values = {key: value if isinstance(value, plain) else _text(value) for key, value in said.items()}
        return self._resolve(name, (), f"{place} ({name})").name, values

    def sweep_runs(self, sweep: str) -> list[str]:
        """Canonical names of a sweep's runs."""
        return [name for name, _ in self.sweep_points(sweep)]

    @cached_property
    def evaluation_data(self) -> list[str]:
        """The datasets whose held-out rows every model is measured on; of a selected part, the whole."""
        if self.config.evaluation.data is not None:
            return self.config.evaluation.data
        tables = self.config.datasets
        used = {tables[run.data].from_ or run.data for run in self.config.runs.values()}
        return sorted(used or tables)

    @cached_property
    def held_out_data(self) -> list[str]:
        """The datasets whose held-out rows some model is measured on, by suites as well."""
        suites = self.config.evaluation.suites.values()
        return list(dict.fromkeys([*self.evaluation_data, *(suite.data for suite in suites if hasattr(suite, "data"))]))

    @cached_property
    def evaluation_judges(self) -> list[str]:
        """The reward runs that score answers in suites."""
        return [
            self._judge(f"{self.file}: evaluation.suites.{name}.by", suite.by, "reward", ())
            for name, suite in self.config.evaluation.suites.items()
            if suite.kind == "reward"
        ]

    def foreign_judges(self, name: str) -> dict[str, str]:
        """The reward suites that measure a run and whose judge has another base: that base, by the suite's name."""
        suites = {} if self.is_reward(name) else self.config.evaluation.suites
        own = self.lineage(name)[0]
        bases = {key: self.lineage(suite.by)[0] for key, suite in suites.items() if suite.kind == "reward"}
        return {key: base for key, base in bases.items() if base != own}

    def suite_data(self, *kinds: str) -> list[str]:
        """The datasets of the suites of these kinds."""
        suites = self.config.evaluation.suites.values()
        return list(dict.fromkeys(suite.data for suite in suites if suite.kind in kinds))

    @property
    def shots_data(self) -> list[str]:
        """The datasets whose training rows are worked examples in suites."""
        suites = self.config.evaluation.suites.values()
        return list(dict.fromkeys(suite.data for suite in suites if suite.kind == "generation" and suite.shots))

    @property
    def suite_files(self) -> list[str]:
        """The files of the user's own that suites read: prompts, task files, metrics."""
        files = []
        for suite in self.config.evaluation.suites.values():
            own = suite.own_metrics if suite.kind == "generation" else []
            files += [str(file) for metric in own for file in user_code.files(metric, self.folder)]
            files += (suite.files or []) if suite.kind == "safety" else []
            folder = self.folder / suite.include if suite.kind == "tasks" and suite.include else None
            files += [str(file) for file in sorted(folder.rglob("*")) if file.is_file()] if folder else []
        return files

    # ---- specs

    def spec(self, target: str) -> str:
        """What determines `results/{target}`, as canonical JSON: sorted keys, nothing else.

        A spec names what it is built from with that part's own hash, so any change upstream changes it.
        """
        if target not in self._specs:
            self._specs[target] = json.dumps(self._spec(target), sort_keys=True, indent=1)
        return self._specs[target]

    def spec_hash(self, target: str) -> str:
        """SHA-256 of the spec file of `target`."""
        return hashlib.sha256((self.spec(target) + "\n").encode()).hexdigest()

    def _spec(self, target: str) -> dict[str, Any]:
        if target.startswith("bases/"):
            base = self.config.bases[target.removeprefix("bases/")]
            text = {"text": self._ref("data", base.text)} if base.source == "random" else {}
            unset = {"sha256"} if not getattr(base, "sha256", None) else set()
            values = base.model_dump(exclude={"licence", *chat_templates.KEYS, *unset})
            return _stage("base") | values | text | chat_templates.settings(base, self.folder)
        if target.startswith("data/"):
            return self._data_spec(target.removeprefix("data/"))
        if target.endswith("/eval"):
            return self._eval_spec(target.removesuffix("/eval"))
        node = self.run(target)
        return (
            _stage(node.run.objective)
            | node.run.settings()
            | {"tokens": VERSIONS["tokens"]}
            | {"from": self._model_ref(node.parent), "data": self._ref("data", node.run.data)}
            | self._reward_spec(node)
            | self._metric_spec(node)
        )

    def _data_spec(self, name: str) -> dict[str, Any]:
        table = self.config.datasets[name]
        if table.mix:
            parts = [self._ref("data", part) | take.model_dump() for part, take in table.mix.items()]
            return _stage("mix") | {"mix": parts}
        if table.ratings:
            table = table.model_copy(update={"path": self._preferences(table.ratings), "format": "preference"})
        if not table.select:
            unset = {"system"} if is_default(table, "system") else set()
            return _stage("data") | table.model_dump(exclude={"licence", "from_", "select", "mix", "ratings"} | unset)
        by = self._model_ref(self._selector(name, ()))
        return _stage("select") | table.select.model_dump() | {"from": self._ref("data", table.from_), "by": by}

    def _reward_spec(self, node: Node) -> dict[str, Any]:
        """The reward with the specs of the runs that it comes from; a function of the user's has its files' hashes."""
        reward = node.run.reward
        if reward is None:
            return {}
        if reward.function:
            own = self._own_reward(node.run)
            return {"reward": {"function": reward.function, "sha256": self._hashes(own) if own else []}}
        judges = dict(zip(("from", "sequence"), map(self._model_ref, node.judges), strict=False))
        if reward.kind == "implicit":
            judged = self.run(node.judges[0])
            judges |= {"beta": judged.run.settings()["beta"], "reference": self._model_ref(judged.parent)}
        return {"reward": {"kind": reward.kind} | judges}

    def _metric_spec(self, node: Node) -> dict[str, Any]:
        """How a run stops early by a metric of the user's own, with the hashes of the metric's files."""
        function = early_stopping.own_metric(node.run)
        table = node.run.settings()["early_stopping"] if function else {}
        return {"early_stopping": table | {"sha256": self._hashes(function)}} if function else {}

    def _hashes(self, function: str) -> list[str]:
        """SHA-256 of the file of a function of the user's, and of those that it imports."""
        files = [self.folder / file for file in user_code.files(function, self.folder)]
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if is_file(file)]

    def _eval_spec(self, name: str) -> dict[str, Any]:
        idle = {
            key for key in ("precision", "repetition_penalty", "answers") if is_default(self.config.evaluation, key)
        }
        settings = self.config.evaluation.model_dump(exclude={"data", "suites"} | idle)
        data = [self._ref("data", dataset) for dataset in self.evaluation_data]
        against = [self._model_ref(other) for other in self.others(name)]
        suites = {} if self.is_reward(name) else self._suites()
        refs = {"model": self._model_ref(name), "data": data, "against": against}
        return _stage("eval") | settings | refs | {"suites": suites}

    def _suites(self) -> dict[str, dict[str, Any]]:
        """The configured suites, with the evaluation's own limits where they set none."""
        settings, suites = self.config.evaluation, {}
        for name, suite in settings.suites.items():
            values = suite.model_dump()
            for key in ("limit", "max_new_tokens"):
                if key in values and values[key] is None:
                    values[key] = getattr(settings, key)
            if "data" in values:
                values["data"] = self._ref("data", suite.data)
            if suite.kind == "reward":
                values["by"] = self._model_ref(self.run(suite.by).name)
            if suite.kind == "generation" and (own := suite.own_metrics):
                values["sha256"] = {metric: self._hashes(metric) for metric in own}
            suites[name] = values
        return suites

    def _ref(self, table: str, name: str) -> dict[str, str]:
        return {"name": name, "spec": self.spec_hash(f"{table}/{name}")}

    def _model_ref(self, name: str) -> dict[str, str]:
        if name in self.config.bases:
            return self._ref("bases", name)
        return {"name": name, "spec": self.spec_hash(name)}

    # ---- paths

    def model(self, name: str) -> str:
        """The folder that others load: a base's weights, or what a run ships."""
        return f"results/bases/{name}/model" if name in self.config.bases else f"results/{name}/model"

    def merged(self, name: str) -> str:
        """The folder of a base's weights, or of the trained model: what is trained on, the reference, what is evaluated."""
        return self.model(name) if name in self.config.bases else f"results/{name}/merged"

    def logprobs(self, name: str) -> str:
        """The file of the parent's log-probabilities that a run with a reference reads."""
        node = self.run(name)
        run = node.run
        form = reference_form(run.method, run.precision, run.peft_args, node.parent not in self.config.bases)
        return f"results/{node.parent}/logprobs/{run.data},max_length={run.max_length}{form}.parquet"

    def manifest(self, name: str) -> str:
        """The small file that carries the weights' hashes."""
        return f"results/bases/{name}/base.json" if name in self.config.bases else f"results/{name}/merge.json"

    def judge_models(self, name: str) -> list[str]:
        """The models that a run's reward is computed from: its judges, and the reference of an implicit one."""
        reward = json.loads(self.spec(name)).get("reward", {})
        return [reward[key]["name"] for key in ("from", "sequence", "reference") if key in reward]

    def tokens(self, name: str, dataset: str, max_length: int) -> str:
        """The folder of a dataset's tokens for the base that `name` descends from."""
        return f"results/tokens/{self.lineage(name)[0]}/{dataset},max_length={max_length}"

    def run_tokens(self, node: Node) -> str:
        """The folder of the tokens that a run trains on."""
        trained = "".join(f",{key}={_text(value)}" for key, value in node.run.settings().items() if key in TRAINED)
        return self.tokens(node.name, node.run.data, node.run.max_length) + trained

    def sources(self, dataset: str) -> list[str]:
        """The local files that a dataset's own rows are read from."""
        table = self.config.datasets[dataset]
        if table.ratings:
            return [self._preferences(table.ratings)]
        paths = [path for path in (table.path, table.validation) if isinstance(path, str)]
        return [str(file) for path in paths for file in expand(path, self.folder)]

    def tokens_of(self, dataset: str) -> list[str]:
        """The folders of a dataset's tokens that the configured runs read."""
        nodes = [self.run(name) for name in self.config.runs]
        users = [node for node in nodes if node.run.data == dataset and not OBJECTIVES[node.run.objective].on_policy]
        return sorted(set(map(self.run_tokens, users)))

    def pattern(self, objective: str) -> str:
        """Regular expression of the runs with this objective, for a rule's wildcard.

        Snakemake goes through its text several times a job, so it says which runs have another objective where those are fewer.
        """
        runs = self.config.runs.items()
        ours = [name for name, run in runs if run.objective == objective]
        others = [name for name, run in runs if run.objective != objective]
        if len(ours) <= len(others):
            return f"(?:{'|'.join(ours) or '(?!)'}){OVERRIDES}"
        return rf"(?!(?:{'|'.join(others) or '(?!)'})\b)[a-z][a-z0-9_]*{OVERRIDES}"

    def datasets_pattern(self, kind: str) -> str:
        """Regular expression of the datasets that are read from files (data), selected (select) or mixed (mix)."""
        tables = self.config.datasets.items()
        names = [
            name for name, table in tables if kind == ("select" if table.select else "mix" if table.mix else "data")
        ]
        return f"(?:{'|'.join(names) or '(?!)'})"

    def selector(self, dataset: str) -> str:
        """The reward run that selects a dataset's rows."""
        return self._selector(dataset, ())

    def template_file(self, base: str) -> list[str]:
        """The user's own file with a base's chat template, where there is one."""
        template = self.config.bases[base].chat_template
        return [template] if template and template not in chat_templates.shipped() else []

    def reward_file(self, name: str) -> list[str]:
        """The user's own file with a run's reward function, where there is one, and the files that it imports."""
        function = self._own_reward(self.run(name).run)
        return [str(file) for file in user_code.files(function, self.folder)] if function else []

    def metric_files(self, name: str) -> list[str]:
        """The user's own file with a metric that is measured while a run trains, where there is one, and what it imports."""
        function = early_stopping.own_metric(self.run(name).run)
        return [str(file) for file in user_code.files(function, self.folder)] if function else []

    def held_out_file(self, name: str) -> list[str]:
        """The file of a dataset's held-out rows, where a run answers their prompts while it trains."""
        node = self.run(name)
        planned = early_stopping.plan(json.loads(self.spec(name)))
        return [f"results/data/{node.run.data}/validation.parquet"] if planned and planned.of_answers else []

    def _own_reward(self, run: Run) -> str | None:
        function = run.reward.function if run.reward else None
        return function if function and user_code.is_own(function) else None

    # ---- ratings

    def rated(self, pair: str) -> tuple[str, str]:
        """Canonical names of the two models of `a~b`.

        Raises:
            UserError: it is no pair of a base or run and another.
        """
        a, _, b = pair.partition("~")
        names = tuple(name if name in self.config.bases else self.run(name).name for name in (a, b))
        if names[0] == names[1]:
            raise UserError(f"'{pair}': a model cannot be rated against itself; name two, as sft_lora~dpo_lora")
        for name in names:
            if self.is_reward(name):
                raise UserError(f"'{pair}': {name} is a reward model, which writes no answers; name two that do")
        return names

    def _preferences(self, pair: str) -> str:
        return f"results/ratings/{pair}/preferences.jsonl"

    @property
    def rating_files(self) -> list[str]:
        """The files that raters exported."""
        return [str(file) for path in self.config.ratings for file in expand(path, self.folder)]

    # ---- contexts

    def context(self, of: str, command: str) -> str:
        """What a script has to know that no spec says, as canonical JSON.

        Args:
            of: `data/NAME` for a dataset's report, `sweeps/NAME`, the empty text for the report of all runs, or a run for its preflight.
            command: the Snakemake command without a target, for the report.
        """
        table, _, name = of.rpartition("/")
        if table == "data":
            values: dict[str, Any] = {"licences": self.dataset_licences(name)}
        elif table == "sweeps":
            values = {"points": self.sweep_points(name)}
        else:
            values = self._preflight_context(self.run(name)) if name else self.report(command)
        return json.dumps(values, sort_keys=True, indent=1)

    def _preflight_context(self, node: Node) -> dict[str, Any]:
        """The checks that may fail, the licences and what they come through, and the models that judge with another tokenizer."""
        judges = {suite: self.model(base) for suite, base in self.foreign_judges(node.name).items()}
        context = {"allow": node.run.allow, "use": self.config.use, "licences": self.licences(node)}
        return context | {"chains": self.chains(node), "judges": judges}

    # ---- report

    @cached_property
    def reported_runs(self) -> list[str]:
        """Canonical names of the configured runs and of all that they are built from, parents first."""
        return [name for name in self.parents_first(self.config.runs) if name not in self.config.bases]

    def report(self, command: str) -> dict[str, Any]:
        """What the report cannot read from results: the graph, what belongs to what, prices; `command` has no target."""
        models = [{"name": base, "kind": "base", "parent": None, "also": []} for base in self.config.bases]
        for node in map(self.run, self.reported_runs):
            also = [*node.judges, *([node.selector] if node.selector else [])]
            models.append(
                {"name": node.name, "kind": "run", "parent": node.parent, "also": also, "data": node.run.data}
                | {"objective": node.run.objective, "method": node.run.method, "licences": self.licences(node)}
            )
        used = {model["parent"] for model in models}
        models = [model for model in models if model["kind"] == "run" or model["name"] in used]
        for model in models:
            model["command"] = f"{command} results/{model['name']}/eval.json"
        datasets = dict.fromkeys([*(model["data"] for model in models if "data" in model), *self.held_out_data])
        return {
            "config": self.file,
            "models": models,
            "datasets": list(datasets),
            "sweeps": {sweep: self.sweep_runs(sweep) for sweep in self.config.sweeps},
            "ratings": sorted({table.ratings for table in self.config.datasets.values() if table.ratings}),
            **self.config.cost.model_dump(),
        }

    # ---- targets

    def command(self, target: str) -> str:
        """The command that builds a file under results/."""
        where = "" if self.file == "config/config.yaml" else f"--configfile {self.file} "
        return f"snakemake {where}--cores 1 {target}"

    def check_targets(self, targets: list[str]) -> list[str]:
        """Look at what a command asks for before anything is built; returns the run names in it that are not canonical.

        Raises:
            UserError: a target under results/ that names nothing, or a data file that does not exist.
        """
        aliases = []
        models: set[str] = set() if targets else {*self.config.runs, *self.config.bases}
        datasets: set[str] = set()
        for target in targets:
            first, *rest = target.removeprefix("results/").rstrip("/").split("/")
            if target in ("results/report.html", "results/context.json"):
                models |= {*self.config.runs, *self.config.bases}
                continue
            if first in RESERVED:
                self._check_reserved(target, first, rest, models, datasets)
                continue
            known = MODEL_FILES if first in self.config.bases else RUN_FILES
            if first not in self.config.bases:
                node = self.run(first)
                aliases += [first] if node.name != first else []
            if "/".join(rest) not in known and rest[:1] != ["logprobs"]:
                raise UserError(f"'{target}' names no result; {nearest('/'.join(rest), known)}")
            models.add(first)
        models |= set(self.evaluation_judges if models else [])
        read = datasets | set(self.held_out_data if models else [])
        models |= {self.selector(name) for name in read if self.config.datasets[name].select}
        models |= {*self.parents_first(models - self.config.bases.keys())}
        for model in models:
            base = self.lineage(model)[0]
            self._check_base(base)
            text = self.config.bases[base]
            datasets |= {text.text} if text.source == "random" else set()
            datasets |= set(self.held_out_data)
            if model not in self.config.bases:
                datasets.add(self.run(model).run.data)
                self._check_function(self.run(model))
        self._check_files(datasets)
        templates = [file for base in self.config.bases for file in self.template_file(base)]
        self._check_inputs([*self.suite_files, *self.rating_files, *templates])
        return aliases

    def asked(self, targets: list[str]) -> list[str]:
        """The models that a command asks to evaluate, each after what it came from; all of them where it names no target."""
        names = [target.split("/")[1] for target in targets if re.fullmatch("results/[^/]+/eval.json", target)]
        names = names if targets else list(self.config.runs)
        return list(dict.fromkeys(model for name in names for model in self.lineage(name)))

    def _check_base(self, name: str) -> None:
        base = self.config.bases[name]
        if base.source == "path" and not is_folder(self.folder / base.path):
            raise UserError(
                f"{self.file}: bases.{name}.path: there is no folder '{base.path}'; write the model's folder"
            )

    def _check_function(self, node: Node) -> None:
        functions = {
            "reward.function": self._own_reward(node.run),
            "early_stopping.metric": early_stopping.own_metric(node.run),
        }
        for key, function in functions.items():
            why = user_code.refusal(function, self.folder) if function else None
            if why:
                raise UserError(f"{self.file}: runs.{node.name}.{key}: {why}")

    def _check_reserved(self, target: str, table: str, rest: list[str], models: set[str], datasets: set[str]) -> None:
        name = rest[0] if rest else ""
        if table == "sweeps":
            models |= set(self.sweep_runs(name))
        elif table == "ratings":
            pair = self.rated(name)
            if name != "~".join(pair):
                raise UserError(
                    f"'{target}': write the models by their canonical names, results/ratings/{'~'.join(pair)}"
                )
            if rest[1:] == ["rate.html"]:
                models |= set(pair)
            elif not self.rating_files:
                raise UserError(
                    f"'{target}' is made of exported ratings; name their files under ratings: in {self.file}"
                )
        elif table == "bases":
            _require(f"'{target}'", "base", name, self.config.bases)
            models.add(name)
        elif table == "data":
            _require(f"'{target}'", "dataset", name, self.config.datasets)
            datasets |= {name, *self.held_out_data}
        elif table == "tokens":
            _require(f"'{target}'", "base", name, self.config.bases)
            dataset = "".join(rest[1:2]).split(",")[0]
            _require(f"'{target}'", "dataset", dataset, self.config.datasets)
            datasets.add(dataset)
        else:
            raise UserError(f"'{target}': nothing is built under results/{table} by name; name a run's file")

    def _check_files(self, datasets: set[str]) -> None:
        for dataset in sorted({origin for name in datasets for origin in self._origins(name)}):
            table = self.config.datasets[dataset]
            for key, path in (("path", table.path), ("validation", table.validation)):
                found = expand(path, self.folder) if isinstance(path, str) else []
                self._check_inputs(map(str, found))
                if isinstance(path, str) and not found:
                    raise UserError(
                        f"{self.file}: datasets.{dataset}.{key}: there is no file '{path}'; "
                        f"write one that exists, relative to {self.folder.resolve()}"
                    )

    def _check_inputs(self, files: Iterable[str]) -> None:
        """Refuse names that Snakemake would replace (it has no quoted form of `{` and `<`) or print as they are."""
        for file in files:
            if re.search("[{<]", file) or printable(file) != file:
                raise UserError(
                    f"{self.file}: the file name '{file}' has {{, < or a control character in it; rename it"
                )


def _require(place: str, kind: str, name: str, table: Collection[str]) -> None:
    """Refuse a name that its table does not have."""
    if name not in table:
        raise UserError(f"{place}: there is no {kind} '{name}'; {nearest(name, table)}")


def _stage(stage: str) -> dict[str, Any]:
    return {"stage": stage, "version": VERSIONS[stage]}
