"""What a run's card says, read from the files that the run and all that it was made from left behind."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.data.licences import with_cards
from posttrain.reports import cost, overruled, work
from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths

SAMPLE = 300  # rows of a dataset whose language is told
LEAST_SHARE = 0.05  # of these rows, for a language to be named

Facts = dict[str, Any]


def collect(name: str, context: dict[str, Any]) -> Facts:
    """Everything that the card of a run says.

    Args:
        name: the run's.
        context: `licences` as the configuration has them, `price_per_hour`, `currency`, `watts`.
    """
    line = list(reversed(list(_line(name))))
    base = line[0]["spec"]["from"]["name"]
    found = with_cards(context["licences"])
    evaluated = read_json(Path(paths.evaluation(name)))
    datasets = [_dataset(part, context["licences"], line) for part in _datasets(line, context["licences"])]
    return {
        "name": name,
        "line": line,
        "spec": line[-1]["spec"],
        "base": {"name": base} | _read(paths.base(base), spec="spec.json", manifest="base.json"),
        "licences": context["licences"],
        "found": found,
        "datasets": datasets,
        "eval": evaluated,
        "measured": read_json(Path(paths.of(name, "eval/spec.json"))),
        "merge": read_json(Path(paths.of(name, "merge.json"))),
        "overruled": overruled.of(name),
        "cost": cost.cost([_costly(stage, stage["name"] == name and evaluated) for stage in line], context),
        "work": work.of_each([stage["name"] for stage in line]),
        "exports": exports(name),
    }


def _line(name: str) -> Iterator[Facts]:
    """A run and the runs that it starts from, itself first."""
    while Path(paths.of(name, "spec.json")).exists():
        stage = _read(paths.of(name), spec="spec.json", train="train.json", provenance="provenance.json")
        yield {"name": name} | stage
        name = stage["spec"]["from"]["name"]


def _read(folder: str, **files: str) -> Facts:
    return {key: read_json(Path(folder, file)) for key, file in files.items()}


def _costly(stage: Facts, evaluated: Facts | bool) -> Facts:
    """A training as `cost` takes it; only the run's own evaluation counts."""
    return stage | {"kind": "run", "eval": evaluated or {"seconds": 0}}


def exports(name: str) -> dict[str, Facts]:
    """The exports of a run that have a proof: kind to what the proof says."""
    files = sorted(Path(paths.of(name, "export")).glob("*.json"))
    return {file.stem: read_json(file) for file in files if file.stem != "spec"}


# ---- data


def _datasets(line: list[Facts], licences: dict[str, Any]) -> list[str]:
    """What the runs train on, and after it what that is made from and what else the run is built on."""
    trained = [stage["spec"]["data"]["name"] for stage in line]
    read = [part.removeprefix("datasets.") for part in licences if part.startswith("datasets.")]
    return list(dict.fromkeys([*trained, *read]))


def _dataset(name: str, licences: dict[str, Any], line: list[Facts]) -> Facts:
    """What the record of a dataset says, which runs train on it, and in which languages its rows are."""
    folder = paths.data(name)
    used = [stage["name"] for stage in line if stage["spec"]["data"]["name"] == name]
    return {
        "name": name,
        "used": used,
        "part": f"datasets.{name}" if f"datasets.{name}" in licences else None,
        "languages": languages(Path(folder, "train.parquet")) if used else {},
        **_read(folder, spec="spec.json", record="data.json"),
    }


def languages(file: Path) -> dict[str, float]:
    """ISO 639 codes of the languages of a dataset's first rows and their shares, the commonest first."""
    from posttrain.data.profile import language
    from posttrain.data.rows import batches, without_nulls

    first = next(batches(file, SAMPLE), None)
    rows = without_nulls(first.to_pylist()) if first is not None else []
    counts = Counter(map(language, rows))
    del counts["undetermined"]
    shares = {code: n / len(rows) for code, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))}
    return {code: share for code, share in shares.items() if share >= LEAST_SHARE}
