"""Names of runs with their overrides, resolved to what they mean.

A run in a path is `NAME[,KEY=VALUE]*`. Its canonical name lists the overrides that differ from the file, sorted by key,
each value written one way, so that equal runs have equal paths.
"""

import itertools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from posttrain.config import overrides
from posttrain.config.loading import joined, validate
from posttrain.config.overrides import text
from posttrain.config.project_file import Config
from posttrain.config.runs import Run
from posttrain.config.sweeps import Sweep
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError, nearest
from posttrain.workflow import paths

MAX_NAME = 120  # characters of a run's name with its overrides: two make the name of one folder
MAX_DEPTH = 100  # runs that are built on each other


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
    writer: str | None = None
    """canonical name of the run, or name of the base, that has written its data"""
    teacher: str | None = None
    """canonical name of the run, or name of the base, that it learns from"""

    @property
    def models(self) -> list[str]:
        """The models that the run is directly built from."""
        return [self.parent, *self.judges, *(name for name in (self.selector, self.writer, self.teacher) if name)]


class Names:
    """Resolves the name of a run, an override of it, a pair or a sweep."""

    def __init__(
        self,
        config: Config,
        raw_runs: dict[str, Any],
        file: str,
        check: Callable[[Run, str], None],
        accept: Callable[[Node], None],
    ) -> None:
        """Resolve names in a configuration.

        Args:
            config: the validated configuration.
            raw_runs: its runs as the file has them, to which overrides are applied.
            file: its name, for error messages.
            check: refuses a run by itself; the second argument is the place that an error names.
            accept: refuses a resolved run that somebody asks for.
        """
        self.config, self.file = config, file
        self._raw_runs, self._check, self._accept = raw_runs, check, accept
        self._nodes: dict[str, Node] = {}
        self._depths: dict[str, int] = {}

    def run(self, target: str) -> Node:
        """The run that `target`, such as `dpo_lora,rank=4`, names.

        Raises:
            UserError: unknown run or key, a value outside its type, a parent that does not exist, a cycle.
        """
        if target not in self._nodes:
            self._nodes[target] = self._resolve(target, ())
        return self._nodes[target]

    def model(self, name: str) -> str:
        """A base's name, or the canonical name of a run."""
        return name if name in self.config.bases else self.run(name).name

    def sweep_points(self, sweep: str) -> list[tuple[str, dict[str, Any]]]:
        """Canonical name and overrides of a sweep's runs, in the grid's order; lists as they are written in names.

        Raises:
            UserError: unknown sweep, run, key or value.
        """
        require(self.file, "sweep", sweep, self.config.sweeps)
        table = self.config.sweeps[sweep]
        grid = itertools.product(*([(key, value) for value in values] for key, values in table.over.items()))
        points = [point | dict(cell) for point, cell in itertools.product(table.points or [{}], grid)]
        return [self._point(f"sweeps.{sweep}", table, point) for point in points]

    def pair(self, pair: str) -> tuple[str, str]:
        """Canonical names of the two models of `a~b`.

        Raises:
            UserError: `pair` does not name two different models that generate text.
        """
        a, _, b = pair.partition("~")
        names = (self.model(a), self.model(b))
        if names[0] == names[1]:
            problem = "a model cannot be rated against itself"
            raise UserError("invalid-pair", f"'{pair}'", problem, "name two, as sft_lora~dpo_lora")
        for name in names:
            if self.is_reward(name):
                problem = f"{name} is a {self._kind(name)}, which generates no text"
                raise UserError("invalid-pair", f"'{pair}'", problem, "name two models that do")
        return names

    def is_reward(self, name: str) -> bool:
        """Whether `name` is a run that trains a model that scores and generates nothing: a reward model, or a classifier."""
        return name not in self.config.bases and OBJECTIVES[self.run(name).run.objective].scores

    def _kind(self, name: str) -> str:
        return "classifier" if OBJECTIVES[self.run(name).run.objective].classifier else "reward model"

    def reward_model(self, place: str, name: str, implicit: bool = False, seen: tuple[str, ...] = ()) -> str:
        """The canonical name of the run that a key names as a reward model.

        Args:
            place: the key.
            name: its value.
            implicit: whether the run's policy is the reward, as a dpo run's is, and not a model of its own.
            seen: the runs that are being resolved, the outermost first.

        Raises:
            UserError: there is no such run, or it has another objective.
        """
        require(place, "run", name.split(",")[0], self.config.runs)
        node = self._resolve(name, seen)
        row = OBJECTIVES[node.run.objective]
        if row.implicit_reward if implicit else row.reward_model:
            return node.name
        objective = "dpo" if implicit else "reward"
        asked = not implicit and place.endswith("reward.from")
        raise UserError(
            "wrong-reward-model",
            place,
            f"{name} is a run with objective: {node.run.objective}",
            f"write one with objective: {objective}{'; with kind: implicit it takes a dpo run' if asked else ''}",
        )

    def selector(self, dataset: str, seen: tuple[str, ...] = ()) -> str | None:
        """The reward run that selects a dataset's rows, where one does."""
        select = self.config.datasets[dataset].select
        place = f"datasets.{dataset}.select.by"
        return self.reward_model(place, select.by, seen=seen) if select else None

    def writer(self, dataset: str, seen: tuple[str, ...] = ()) -> str | None:
        """The base or run that completes a dataset's rows, where one does."""
        generated = self.config.datasets[dataset].generated
        return self._writer(f"datasets.{dataset}.generated.by", generated.by, seen) if generated else None

    # ---- resolution

    def _resolve(self, target: str, seen: tuple[str, ...], place: str | None = None) -> Node:
        """The run of a target; `place` is where it stands in the file, where nobody has typed it."""
        if target in self._nodes:
            return self._nodes[target]
        name, *written = target.split(",")
        require(self.file, "run", name, self.config.runs)
        place = place or (paths.of(target) if written else f"runs.{name}")
        if len(target) > MAX_NAME:
            problem = f"a name of {len(target)} characters, more than the {MAX_NAME} that fit into a folder's"
            raise UserError("invalid-override", place, problem, f"write the run under runs: in {self.file}")
        _check_order(self.config.runs, name, target, seen)
        changed = overrides.read(written, self._raw_runs[name], place)
        run = validate(Run, overrides.applied(self._raw_runs[name], changed), place)
        self._check(run, place)
        inner = (*seen, target)
        parent, judges = self._parent(run, place, inner), self._judges(run, place, inner)
        selector, writer = self.selector(run.data, inner), self.writer(run.data, inner)
        kept = _needed(self._raw_runs[name], changed, run)
        canonical = ",".join([name, *(f"{key}={text(overrides.of(run, key, changed[key]))}" for key in kept)])
        node = Node(canonical, run, parent, judges, selector, writer, self._teacher(run, place, inner))
        below = (self._depths[other] for other in node.models if other not in self.config.bases)
        self._depths[canonical] = 1 + max(below, default=0)
        if self._depths[canonical] > MAX_DEPTH:
            raise _too_deep(place)
        if not seen:  # what it is built on is looked at with it
            self._accept(node)
        self._nodes[target] = self._nodes.setdefault(canonical, node)
        return self._nodes[target]

    def _parent(self, run: Run, place: str, seen: tuple[str, ...]) -> str:
        place = joined(place, "from")
        parent = overrides.filled(run.from_, run, place)
        if parent in self.config.bases:
            return parent
        require(place, "base or run", parent.split(",")[0], [*self.config.bases, *self.config.runs])
        node = self._resolve(parent, seen)
        if not METHODS[node.run.method].mergeable:
            raise UserError(
                "wrong-parent",
                place,
                f"{node.name} is trained with {node.run.method}, which cannot be merged, so nothing can start from it",
                f"train it with lora, or start from {node.parent}",
            )
        if OBJECTIVES[node.run.objective].scores:
            if OBJECTIVES[node.run.objective].classifier:
                raise UserError("wrong-parent", place, f"{node.name} is a classifier", f"start from {node.parent}")
            problem = f"{node.name} is a reward model, which scores completions and generates none"
            raise UserError("wrong-parent", place, problem, f"start from {node.parent}, and name it under reward:")
        return node.name

    def _teacher(self, run: Run, place: str, seen: tuple[str, ...]) -> str | None:
        """The model that a run learns from."""
        place = joined(place, "teacher")
        return self._writer(place, overrides.filled(run.teacher, run, place), seen) if run.teacher else None

    def _writer(self, place: str, name: str, seen: tuple[str, ...]) -> str:
        """The canonical name of a model that writes text; `place` is the key that names it."""
        if name in self.config.bases:
            return name
        require(place, "base or run", name.split(",")[0], [*self.config.bases, *self.config.runs])
        node = self._resolve(name, seen)
        if OBJECTIVES[node.run.objective].reward_model:
            problem = f"{node.name} is a reward model, which scores completions and writes none"
            raise UserError("wrong-parent", place, problem, f"write another run, or {node.parent}")
        return node.name

    def _judges(self, run: Run, place: str, seen: tuple[str, ...]) -> tuple[str, ...]:
        """The runs that a run's reward comes from."""
        if run.reward is None or run.reward.from_ is None:
            return ()
        asked = {"from": (run.reward.from_, run.reward.kind == "implicit")}
        if run.reward.sequence:
            asked["sequence"] = (run.reward.sequence, False)
        return tuple(self.reward_model(joined(place, f"reward.{key}"), *value, seen) for key, value in asked.items())

    def _point(self, place: str, table: Sweep, point: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Canonical name and overrides of one point; `place` is the sweep's."""
        own = {key: value for key, value in point.items() if key in table.over}
        raw = self._raw_runs.get(table.run) or {}
        written = overrides.of_point(own, raw, f"{place}.over")
        written |= overrides.of_point({key: point[key] for key in point if key not in own}, raw, f"{place}.points")
        name = ",".join([table.run, *(f"{key}={value}" for key, value in written.items())])
        said = overrides.flat(point, raw)
        plain = (str, bool, int, float, type(None))
        values = {key: value if isinstance(value, plain) else text(value) for key, value in said.items()}
        return self._resolve(name, (), f"{place} ({name})").name, values


def _check_order(runs: dict[str, Run], name: str, target: str, seen: tuple[str, ...]) -> None:
    """Refuse runs that are built on themselves, whatever their overrides: each round would only make another name."""
    names = [earlier.split(",")[0] for earlier in seen]
    if name in names:
        cycle = [*seen[names.index(name) :], target]
        links = [(runs[one.split(",")[0]].from_, other) for one, other in itertools.pairwise(cycle)]
        parents = all(parent.split(",")[0] == other.split(",")[0] for parent, other in links)
        way = "" if parents else ", through a reward or a selected dataset"
        place = f"runs.{name}{'.from' if parents else ''}"
        raise UserError("cyclic-reference", place, f"the runs form a cycle{way}: {' -> '.join(cycle)}")
    if len(seen) >= MAX_DEPTH:
        raise _too_deep(f"runs.{name}")


def _needed(raw: Any, changed: dict[str, Any], run: Run) -> list[str]:
    """The overrides, sorted, without which `run` would be another; the rest say what holds anyway."""
    kept = dict(changed)
    for key in sorted(changed):
        rest = {other: value for other, value in kept.items() if other != key}
        try:
            without = validate(Run, overrides.applied(raw, rest))
        except UserError:
            continue
        if _meaning(without) == _meaning(run):
            kept = rest
    return sorted(kept)


def _meaning(run: Run) -> tuple:
    return run.settings(), run.data, run.reward, run.teacher


def require(place: str, kind: str, name: str, table: Collection[str]) -> None:
    """Refuse a name that its table does not have."""
    if name not in table:
        raise UserError("unknown-name", place, f"there is no {kind} '{name}'", nearest(name, table))


def _too_deep(place: str) -> UserError:
    problem = f"more than {MAX_DEPTH} runs are built on each other"
    return UserError("chain-too-long", place, problem, "build on fewer")
