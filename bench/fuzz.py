"""Change configurations and override paths at random: each is read, or refused in one sentence, soon and with no process.

    python bench/fuzz.py                                       # 10,000 configurations and 10,000 targets: about 2 minutes
    python bench/fuzz.py --configurations 300 --overrides 300  # what the tests run
    python bench/fuzz.py --only overrides/1234 --seed 1        # one case again, with what it was

Every shipped configuration is a start. A configuration is changed as a tree (keys and values removed, renamed, exchanged, replaced by
hostile ones, nested, referred to twice or by themselves) or as text, and then read as the Snakefile reads it: Snakemake's loader,
`Project`, `check_targets`; of what is accepted, everything that the rules ask is asked. A file that Snakemake itself cannot load counts
as `not loaded`, whatever Snakemake says of it. An audit hook sees every process, connection and written file.
"""

import argparse
import contextlib
import copy
import functools
import io
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]

from security.hostile import STRINGS  # noqa: E402

from posttrain.config.datasets import Dataset  # noqa: E402
from posttrain.config.evaluation import Evaluation  # noqa: E402
from posttrain.config.plain_values import RESERVED, check_text  # noqa: E402
from posttrain.config.project_file import Config  # noqa: E402
from posttrain.config.runs import Run  # noqa: E402
from posttrain.runtime.errors import UserError, printable  # noqa: E402
from posttrain.workflow.paths import MODEL_FILES, RUN_FILES  # noqa: E402
from posttrain.workflow.project import Project  # noqa: E402

LIMIT = 1.0  # seconds of processor time for a case
STOP = 20  # seconds after which a case is ended
SENTENCE = 2100  # characters
SHIPPED = {
    file.name: yaml.load(file.read_text(), yaml.CSafeLoader) for file in sorted((REPOSITORY / "config").rglob("*.yaml"))
}
VALUES = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**70, 10**400, 0.0, 0.5, -0.5, 1e-4, 1e308, 5e-324, float("nan"), float("inf"),
    "", " ", "1e-4", [], {}, [[]], [None], {"a": {}}, {"": ""}, {1: 2}, {None: None}, {(1, 2): 3}, (1, 2), {1, 2}, b"x", 1j,
    os.system, yaml.safe_load("2024-01-01"), yaml.safe_load("2024-01-01 10:00:00"),
]  # fmt: skip


TAGS = "&a *a !!str !!int !!set !!binary !!timestamp !!python/name:os.system !!python/object/apply:os.getcwd !x <<:".split()
SIGNS = ['"', "'", ":", "{", "]", "\t", "\n", "#", "&a ", "*a", "|", "\0", "\ud800", "é"]
PREFIXES = ("results/", "results/", "results/", "results//", "./results/", "results/sweeps/", "results/data/", "/")
FREE = [  # what the tables that pass anything on are given
    {"init_lora_weights": "pissa"}, {"optim": "adamw_torch"}, {"optim": STRINGS[0]}, {"use_dora": True}, ["truncation"],
    {"logging_first_step": [1, {"a": None}]}, {"group_by_length": {"a": [0.1, float("nan")]}}, ["sigmoid", "hinge"], [1.0, 0.5],
    {"from": "sft_lora"}, {"function": "answer_format"}, {"function": "/etc/passwd.py:x"}, {"function": "../x.py:main"},
    {"from": "reward,rank=2", "kind": "implicit"}, "sft_lora,rank={rank}", "{from}", "{{rank}}", "{rank", "q_proj", [], ["x"],
    "sft_lora,rank={seed},seed={rank}", "{trainer_args}", "sft_lora,trainer_args={peft_args}",
]  # fmt: skip


class Case(NamedTuple):
    """What became of a case."""

    kind: str
    """accepted, refused, not loaded, or failed"""
    seconds: float
    said: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=10_000)
    parser.add_argument("--overrides", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="configurations/NUMBER or overrides/NUMBER: this case alone")
    options = parser.parse_args()
    if options.only:
        part, number = options.only.split("/")
        print(attempt(part, int(number), options.seed, shown=True))
        return
    failures = {}
    for part, number in (("configurations", options.configurations), ("overrides", options.overrides)):
        failures |= report(part, number, options.seed)
    sys.exit(f"{len(failures)} cases failed" if failures else 0)


def report(part: str, number: int, seed: int) -> dict[str, Case]:
    """Try `number` cases of a part, print what became of them, and return those that failed, by name."""
    cases = {f"{part}/{i}": attempt(part, i, seed) for i in range(number)}
    counts = Counter(case.kind for case in cases.values())
    slowest = max(cases, key=lambda name: cases[name].seconds)
    print(f"{part}: {', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))}")
    print(f"  slowest {cases[slowest].seconds:.2f} s, {slowest}; limit {LIMIT} s")
    failed = {name: case for name, case in cases.items() if case.kind == "failed"}
    for name, case in failed.items():
        print(f"  failed: --only {name} --seed {seed}: {case.said.splitlines()[-1][:300]}")
    return failed


def attempt(part: str, number: int, seed: int, shown: bool = False) -> Case:
    """Make and try one case."""
    chance = random.Random(f"{seed}/{part}/{number}")
    run = {"configurations": configuration, "overrides": override}[part](chance, shown)
    begin = time.process_time()
    del seen[:]
    try:
        with ended_after(STOP):
            kind, said = run()
    except UserError as error:
        kind, said = "refused", str(error)
        if printable(said) != said or len(said) > SENTENCE:
            kind, said = "failed", f"no sentence: {said[:300]!r}"
    except BaseException:  # the harness must outlive whatever it finds
        kind, said = "failed", traceback.format_exc()
    seconds = time.process_time() - begin
    if seen:
        kind, said = "failed", f"it did {seen}"
    if seconds > LIMIT and kind != "failed":
        kind, said = "failed", f"{kind}, but it took {seconds:.1f} s"
    return Case(kind, seconds, said)


@contextlib.contextmanager
def ended_after(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block after so long."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not ended after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---- what must not happen

seen: list[str] = []
FORBIDDEN = re.compile(
    r"subprocess\.Popen|os\.(system|exec|posix_spawn|spawn|fork|forkpty|remove|rename|mkdir)|socket\.connect|pty\.spawn"
)


def watch(event: str, arguments: tuple) -> None:
    """Note a process, a connection or a file that is written."""
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or FORBIDDEN.fullmatch(event):
        seen.append(f"{event} {arguments[0]!r}")


# ---- configurations


def configuration(chance: random.Random, shown: bool) -> Any:
    """A changed configuration, as a function that reads it and asks it everything."""
    values = copy.deepcopy(SHIPPED[chance.choice(list(SHIPPED))])
    pool = known_values()
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        values = change(values, chance, pool)
    text = None
    if chance.random() < 0.2:
        with contextlib.suppress(Exception):  # what cannot be written as YAML is tried as a tree
            text = change_text(yaml.dump(values, Dumper=yaml.Dumper, sort_keys=False), chance)
    if shown:
        print(text if text is not None else values)
    targets = [] if chance.random() < 0.7 else [target(chance, list(names(values)))]
    return lambda: examine(read(text) if text is not None else values, targets)


def read(text: str) -> Any:
    """A configuration's text as Snakemake loads it, after our own look at it."""
    from snakemake.common.configfile import load_configfile
    from snakemake.utils import update_config

    check_text(text, "config.yaml")
    merged: dict = {}
    try:
        update_config(merged, load_configfile(io.StringIO(text)))
    except Exception:  # Snakemake's own end
        return None
    return merged


def examine(values: Any, targets: list[str]) -> tuple[str, str]:
    """Read values as the Snakefile does, and ask what the rules ask."""
    if not isinstance(values, dict):
        return "not loaded", ""
    project = Project(values, "config.yaml")
    project.check_targets(targets)
    for name in project.config.runs:
        node = project.run(name)
        for spec in (name, f"{name}/eval", *(f"data/{one}" for one in project.config.datasets)):
            project.spec(spec)
        if project.run(node.name) != node:
            raise AssertionError(f"{node.name} does not read back")
        project.lineage(name), project.graph.others(name), project.reward_models(name), project.graph.licences(node)
    for name in project.config.sweeps:
        project.names.sweep_points(name)
    project.context("", "snakemake")
    for pattern in (project.pattern("sft"), project.datasets_pattern("data")):
        re.compile(pattern)
    return "accepted", ""


@functools.cache
def known_values() -> dict[str, list[Any]]:
    """Every key of the shipped configurations and of the tables, with the values that it has there."""
    pool: dict[str, list[Any]] = {}
    for table in (Config, Run, Dataset, Evaluation):
        for key, field in table.model_fields.items():
            pool.setdefault(field.alias or key, [])
    for values in SHIPPED.values():
        for holder, key in places(values):
            if isinstance(key, str):
                pool.setdefault(key, []).append(holder[key])
    return pool


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (dict or list, key or index) inside a value, each holder once, whatever refers to whatever."""
    found, holders, waiting = [], set(), [value]
    while waiting:
        holder = waiting.pop()
        if not isinstance(holder, dict | list) or id(holder) in holders:
            continue
        holders.add(id(holder))
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            found.append((holder, key))
            waiting.append(holder[key])
    return found


def names(values: Any) -> Iterator[str]:
    """The names of runs, bases, datasets and sweeps in what may be no configuration any more."""
    for table in ("runs", "bases", "datasets", "sweeps"):
        rows = values.get(table) if isinstance(values, dict) else None
        yield from (str(name) for name in rows) if isinstance(rows, dict) else ()


def odd(chance: random.Random, pool: dict[str, list[Any]]) -> Any:
    """A value that somebody might write, or nobody."""
    return chance.choice(
        (
            lambda: chance.choice(VALUES),
            lambda: chance.choice(STRINGS),
            lambda: copy.deepcopy(chance.choice(pool[chance.choice(list(pool))] or [None])),
            lambda: nested(chance),
            lambda: "".join(chr(chance.randrange(0x20, 0x250)) for _ in range(chance.randrange(12))),
        )
    )()


def nested(chance: random.Random) -> Any:
    """Something deep, long, or that unfolds to more than fits into a memory."""
    depth = chance.choice((3, 50, 900, 3000))
    value: Any = chance.choice(STRINGS)
    if chance.random() < 0.3:
        for _ in range(40):
            value = [value] * 9 if chance.random() < 0.5 else dict.fromkeys("abcdefghi", value)
        return value
    for _ in range(depth):
        value = [value] if chance.random() < 0.5 else {"from": value}
    return value


def change(values: Any, chance: random.Random, pool: dict[str, list[Any]]) -> Any:
    """The same with one change somewhere."""
    found = places(values)
    if not found:
        return odd(chance, pool)
    holder, key = chance.choice(found)
    other, place = chance.choice(found)
    if chance.random() < 0.6:
        mend(chance.choice(found), chance, pool, values)
        return values
    kind = chance.randrange(9)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = odd(chance, pool)
    elif kind == 2:
        holder[key], other[place] = other[place], holder[key]
    elif kind == 3:  # the same object in two places; where one holds the other, without an end
        other[place] = holder[key]
    elif kind == 4:
        other[place] = copy.copy(holder[key])
    elif kind == 5 and isinstance(holder, dict):
        new = chance.choice(
            [chance.choice(STRINGS), chance.choice(list(pool)), chance.choice(RESERVED), 1, None, True, (1, 2)]
        )
        holder[new] = holder.pop(key)
    elif kind == 6 and isinstance(holder, dict):
        new = chance.choice(list(pool))
        holder[new] = copy.deepcopy(chance.choice(pool[new])) if pool[new] else odd(chance, pool)
    elif kind == 7 and isinstance(key, str) and pool.get(key):
        holder[key] = copy.deepcopy(chance.choice(pool[key]))
    else:
        value = holder[key]
        text = repr(type(value)) if isinstance(value, dict | list) else str(value)[:10_000]  # a tree may have no end
        holder[key] = chance.choice(([value], {"a": value}, text, [value] * 3))
    return values


def mend(place: tuple[Any, Any], chance: random.Random, pool: dict[str, list[Any]], values: Any) -> None:
    """A small change, after which the configuration may still be one."""
    holder, key = place
    runs = values.get("runs") if isinstance(values, dict) else None
    if isinstance(runs, dict) and chance.random() < 0.5:
        run = runs.get(chance.choice(list(runs) or [""]))
        if isinstance(run, dict):
            field = chance.choice([field.alias or name for name, field in Run.model_fields.items()])
            run[field] = copy.deepcopy(chance.choice(pool[field])) if pool[field] else chance.choice([*VALUES, *FREE])
    elif isinstance(holder[key], bool):
        holder[key] = not holder[key]
    elif isinstance(holder[key], int | float):
        holder[key] = chance.choice(
            [value for value in VALUES if isinstance(value, int | float)] + [holder[key] * 2, -holder[key]]
        )
    elif isinstance(holder[key], str):
        text = chance.choice(STRINGS)
        at = chance.randrange(len(holder[key]) + 1)
        holder[key] = chance.choice(
            (text, holder[key][:at] + text + holder[key][at:], holder[key].upper(), word(chance))
        )
    elif isinstance(holder[key], list):
        holder[key].append(odd(chance, pool))


def change_text(text: str, chance: random.Random) -> str:
    """A YAML file with one to four changes, most of them where a value begins."""
    for _ in range(chance.randrange(1, 5)):
        lines = text.split("\n")
        i = chance.randrange(len(lines))
        kind = chance.randrange(7)
        if kind == 0:
            del lines[i]
        elif kind == 1:
            lines.insert(i, lines[chance.randrange(len(lines))])
        elif kind == 2:
            lines[i] = lines[i].replace(": ", f": {chance.choice(TAGS)} ", 1)
        elif kind == 3:
            lines[i] = lines[i].split(":")[0] + ": " + chance.choice(STRINGS)
        elif kind == 4:
            lines[i] = chance.choice((" ", "\t", "- ", "")) + lines[i].strip()
        else:
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(SIGNS) + text[at + kind - 5 :]
            continue
        text = "\n".join(lines)
    return text


# ---- override paths


def override(chance: random.Random, shown: bool) -> Any:
    """A changed target of a shipped configuration, as a function that asks for it."""
    file = chance.choice(list(SHIPPED))
    wanted = target(chance, list(names(SHIPPED[file])))
    if shown:
        print(file, repr(wanted))

    def ask() -> tuple[str, str]:
        project = shipped(file)
        project.check_targets([wanted])
        run = wanted.removeprefix("results/").split("/")[0]
        if wanted.startswith("results/") and run not in {*project.config.bases, *RESERVED, "report.html"}:
            name = project.run(run).name
            if project.run(name) is not project.run(run) or project.spec(name) != project.spec(run):
                raise AssertionError(f"{name} does not read back as {run}")
            if (
                not re.fullmatch(r"[a-z][a-z0-9_]*(,[a-z_]+=[A-Za-z0-9_.+-]+)*", name)
                or len(name) > 255
                or ".." in name
            ):
                raise AssertionError(f"{name} is no name of a folder")
        return "accepted", ""

    return ask


@functools.cache
def shipped(file: str) -> Project:
    """The project of a shipped configuration, as it is."""
    return Project(SHIPPED[file], file)


def target(chance: random.Random, known: list[str]) -> str:
    """`results/RUN,KEY=VALUE,.../FILE` with faults."""
    keys = [field.alias or key for key, field in Run.model_fields.items()]
    name = chance.choice([*known, *RESERVED, chance.choice(STRINGS)])
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 200))):
        key = chance.choice(keys) if chance.random() < 0.9 else chance.choice(STRINGS)
        name += (
            chance.choice(",,,,,,, ;&/") + key + chance.choice(("=", "=", "=", "=", "==", ":", "")) + str(word(chance))
        )
    file = chance.choice(
        [*RUN_FILES, *MODEL_FILES, chance.choice(STRINGS), "logprobs/x", "train.parquet", "report.html", ""]
    )
    path = f"{chance.choice(PREFIXES)}{name}/{file}"
    if chance.random() < 0.2:
        at = chance.randrange(len(path) + 1)
        path = path[:at] + chance.choice(STRINGS) + path[at:]
    return path


def word(chance: random.Random) -> Any:
    """The value of an override."""
    if chance.random() < 0.3:
        return chance.choice(STRINGS)
    return chance.choice(
        "0 1 -1 4 1e-4 1e400 -1e400 0.5 .5 5. 1_0 0x10 0o7 010 1e5 1E-5 +1 -0 nan .nan .inf -.inf null true false on off yes no lora "
        "full dpo sft all-linear fp32 2024-01-01 2024-99-99 1:30 9999999999999999999999 4294967296 1e15 1e16 123456789.123456789 gsm8k a.b "
        "a+b - + . ..".split()
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(
            scratch, "1/2/3/4"
        )  # `..` is a path that cases name: what lies about in /tmp is not searched for rows
        folder.mkdir(parents=True)
        (folder / "examples").symlink_to(REPOSITORY / "examples")
        os.chdir(folder)
        import snakemake.common.configfile
        import snakemake.utils  # noqa: F401  (imported before anything is watched)

        sys.addaudithook(watch)
        main()
