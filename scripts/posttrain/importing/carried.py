"""What becomes of each key of another tool's configuration: tables of rows, and the job that is read by them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from posttrain.config import foreign_names, library_fields, trainer_args
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError

Kind = Literal["carried", "differs", "same", "not_carried"]
KINDS: tuple[Kind, ...] = ("carried", "differs", "same", "not_carried")
YAML_WORDS = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")  # which are no text in a file
OFF = (False, 0, "", "none", "no", "None", "disabled", "disable")


class Row(NamedTuple):
    """What becomes of a key of another tool."""

    kind: Kind
    """carried: under another name; differs: carried, with another meaning; same: what is done here anyway; not_carried"""
    ours: str = ""
    """our key: of the run, or of another table as `bases.KEY`, `datasets.KEY`, `trainer_args.FIELD`, `peft_args.FIELD`"""
    note: str = ""
    """what differs, or why it is not carried"""
    read: Callable[[Any, "Job"], "Row | None"] | None = None
    """sets our keys from the value, if it is not copied to `ours`; a row that it returns is the answer for this value"""


def carried(ours: str, note: str = "", read: Callable[[Any, "Job"], Row | None] | None = None) -> Row:
    """A row of a key that has a counterpart."""
    return Row("carried", ours, note, read)


def differs(ours: str, note: str, read: Callable[[Any, "Job"], Row | None] | None = None) -> Row:
    """A row of a key whose counterpart has another meaning."""
    return Row("differs", ours, note, read)


def same(note: str, read: Callable[[Any, "Job"], Row | None] | None = None) -> Row:
    """A row of a key that asks for what is done here anyway."""
    return Row("same", "", note, read)


def not_carried(note: str, read: Callable[[Any, "Job"], Row | None] | None = None) -> Row:
    """A row of a key that has no counterpart."""
    return Row("not_carried", "", note, read)


def elsewhere(value: Any, job: "Job") -> None:
    """For rows whose key another function reads."""


class Entry(NamedTuple):
    """One key of a file, and what became of it."""

    key: str
    value: Any
    ours: str
    note: str


@dataclass
class Job:
    """One training of another tool, as far as it has been read."""

    file: str
    tool: str
    source: dict[str, Any]
    """the keys of the file"""
    defaults: Mapping[str, Any]
    """the tool's own values of keys that the file leaves out, where ours differ"""
    devices: int = 1
    objective: str = "sft"
    method: str = "lora"
    model: str = ""
    """the base, or the folder that an earlier job wrote"""
    adapters: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    """folders that hold its result, by which a later job finds it"""
    run: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    """keys that all its datasets get"""
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    hardware: dict[str, Any] = field(default_factory=dict)
    tracking: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, list[Entry]] = field(default_factory=lambda: {kind: [] for kind in (*KINDS, "defaults")})
    origins: dict[str, str] = field(default_factory=dict)
    """our key: the key that it was carried from"""

    def value(self, key: str) -> Any:
        """The value of a key of the tool: the file's, or the tool's default as far as it is known."""
        found = self.source.get(key)
        return self.defaults.get(key) if found is None else found

    def set(self, ours: str, value: Any, key: str = "") -> None:
        """Set one of our keys, named as `Row.ours` does."""
        table, _, name = ours.rpartition(".")
        tables = {"bases": self.base, "datasets": self.dataset, "hardware": self.hardware, "tracking": self.tracking}
        if table in tables:
            tables[table][name] = value
        elif table:
            self.run.setdefault(table, {})[name] = value
        else:
            self.run[name] = value
        if key:
            self.origins[ours] = key

    def tell(self, row: Row, key: str, value: Any) -> None:
        """Put a key into the list that it belongs to."""
        self.lists[row.kind].append(Entry(key, value, row.ours, row.note))

    def drop(self, ours: str, note: str) -> None:
        """Take back one of our keys that has no effect here, and list the key that it came from as not needed."""
        table, _, name = ours.rpartition(".")
        holder = self.run[table] if table else self.run
        del holder[name]
        if table and not holder:
            del self.run[table]
        for kind in ("carried", "differs", "defaults"):
            for entry in [entry for entry in self.lists[kind] if f"{entry.ours}.".startswith(f"{ours}.")]:
                self.lists[kind].remove(entry)
                if kind != "defaults":
                    self.lists["same"].append(entry._replace(ours="", note=note))


def read(job: Job, table: Mapping[str, Row]) -> None:
    """Put each key of a job's file, and the tool's defaults, into our keys and into one of the job's lists."""
    for key, value in job.source.items():
        row = table.get(key) or _unknown(key, job)
        if value is None:
            row = same("it is empty, so the tool's default applies")
        elif row.kind == "not_carried" and not row.read and _off(value):
            row = same("it is off, as here")
        else:
            row = _applied(row, key, value, job)
        job.tell(row, key, value)
    for key, value in job.defaults.items():
        if job.source.get(key) is None and (row := _applied(table[key], key, value, job)).kind in (
            "carried",
            "differs",
        ):
            job.lists["defaults"].append(Entry(key, value, row.ours, row.note))
    for ours, key in job.origins.items():
        if job.source.get(key) is None and key in job.defaults:
            job.origins[ours] = f"{job.tool}'s default"


def _applied(row: Row, key: str, value: Any, job: Job) -> Row:
    if row.read:
        before = dict(job.run)
        try:
            found = row.read(value, job) or row
        except (ValueError, TypeError, AttributeError):  # text for a number, a number for a list
            raise UserError(
                "invalid-value", f"{job.file}: {key}", f"{job.tool} has no value '{value}' for it"
            ) from None
        for ours in [ours for ours in job.run if job.run[ours] != before.get(ours)]:
            job.origins.setdefault(ours, key)
        return found
    if row.kind in ("carried", "differs"):
        job.set(row.ours, value, key)
    return row


def _off(value: Any) -> bool:
    return value in OFF if isinstance(value, str | int | float) else not value


def _unknown(key: str, job: Job) -> Row:
    """The row of a key that a tool's table does not have: a field of TRL's configuration, a known foreign name, or neither."""
    if key in library_fields.free_trainer_fields(job.objective):
        why = trainer_args.refusal(job.objective, key)
        return not_carried(f"{why[0]}; {why[1]}") if why else carried(f"trainer_args.{key}")
    meant = foreign_names.RUN.get(key)
    if meant and not meant.startswith("remove it"):
        return not_carried(f"write {meant}")
    return not_carried("there is no counterpart" if not meant else meant.removeprefix("remove it: "))


def prune(job: Job) -> None:
    """Take back keys that have no effect on the job's objective or method."""
    for kind, table, own in (("method", METHODS, job.method), ("objective", OBJECTIVES, job.objective)):
        for key in list(job.run):
            acting = [name for name, row in table.items() if key in row.keys]
            if acting and own not in acting:
                job.drop(key, f"it has no effect with {kind}: {own}")
    for name in job.run.get("peft_args", {}).keys() - library_fields.free_peft_fields(job.method):
        job.drop(f"peft_args.{name}", f"it has no effect with method: {job.method}")
    if "simpo_gamma" in job.run and job.run.get("loss_type") != "simpo":
        job.drop("simpo_gamma", "it has no effect without the loss simpo")
    if job.run.get("max_steps") and "epochs" in job.run:
        job.drop("epochs", "max_steps decides")


def tables(job: Job, key: str, value: Any) -> list[dict[str, Any]]:
    """A list of datasets, of which one may be written without a list, and one of a path alone as text.

    Raises:
        UserError: it is something else.
    """
    entries = [
        {"path": entry} if isinstance(entry, str) else entry
        for entry in (value if isinstance(value, list) else [value])
    ]
    if not all(isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries):
        raise UserError("invalid-value", f"{job.file}: {key}", "each dataset is a table with a path")
    return entries


def listed(value: Any) -> list[str]:
    """A list that may be written as text with commas."""
    items = value if isinstance(value, list) else str(value).split(",")
    return [text for item in items if (text := str(item).strip())]


def name_of(text: str) -> str:
    """A name for a table of ours, of a path or a hub id.

    >>> name_of("Qwen/Qwen3-4B-Instruct-2507"), name_of("data/7 b.json")
    ('qwen3_4b_instruct_2507', 'n7_b')
    """
    last = re.sub(r"\.(jsonl?|csv|tsv|parquet|arrow)(\.gz|\.zst)?$", "", text.rstrip("/").rpartition("/")[2])
    name = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_") or "imported"
    return name if name[0].isalpha() and name not in YAML_WORDS else f"n{name}"
