"""What TRL, transformers and PEFT would refuse only once a model is loaded, found by a run's `trainer_args` and `peft_args` alone."""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.config import foreign_names, library_fields, trainer_args
from posttrain.config.fields import keys_of
from posttrain.config.foreign_names import of_library
from posttrain.config.library_fields import annotations
from posttrain.runtime.errors import UserError, nearest

# Fields that need more than one process, which this workflow never starts.
PROCESSES = ("deepspeed", "fsdp", "fsdp_config", "parallelism_config")
# Fields that choose among checkpoints which transformers itself would have to write and measure.
BEST = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")
# Part of the name of an optimiser: the module that it is in, and what pip calls that.
OPTIMISERS = {
    "galore": ("galore_torch", "galore-torch"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "torch_4bit": ("torchao", "torchao"),
    "torch_8bit": ("torchao", "torchao"),
    "anyprecision": ("torchdistx", "torchdistx"),
    "bnb": ("bitsandbytes", "bitsandbytes"),
    "paged": ("bitsandbytes", "bitsandbytes"),
    "8bit": ("bitsandbytes", "bitsandbytes"),
    "lion": ("bitsandbytes", "bitsandbytes"),
    "ademamix": ("bitsandbytes", "bitsandbytes"),
}
OF_LAYERS = ("galore", "apollo")  # they act on the layers that `optim_target_modules` names
PACKAGES = {
    "use_vllm": ("vllm", "vllm"),
    "use_liger_kernel": ("liger_kernel", "liger-kernel"),
    "use_liger_loss": ("liger_kernel", "liger-kernel"),
}
TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
SIMPLE = {"int": int, "float": float, "bool": bool, "str": str}


def mistakes(run: Any) -> Iterator[UserError]:
    """What is wrong with a run's `trainer_args` and `peft_args`: unknown fields, fields that other keys set, values of a wrong type."""
    yield from _wrong_trainer_fields(run)
    yield from _wrong_peft_fields(run)
    if run.trainer_args:
        yield from trainer(run.trainer_args, library_fields.trainer_files(run.objective))
    if run.peft_args:
        yield from peft(run.peft_args, run.target_modules, library_fields.peft_files(run.method))


def _wrong_trainer_fields(run: Any) -> Iterator[UserError]:
    fields = library_fields.trainer_fields(run.objective)
    keys = keys_of(type(run))
    for field in run.trainer_args:
        place = f"trainer_args.{field}"
        if field in library_fields.OWN_TRAINER_FIELDS:
            yield UserError("conflicting-keys", place, "this field is set by the workflow", of_library(field, keys))
        elif field not in fields:
            known = field in foreign_names.RUN or field in keys or field in type(run).other_spellings
            acting = library_fields.free_trainer_fields(run.objective) - trainer_args.IGNORED.keys()
            hint = of_library(field, keys) if known else nearest(field, acting)
            yield UserError("unknown-key", place, f"the trainer has no field '{field}'", hint)
        elif why := trainer_args.refusal(run.objective, field):
            yield UserError("key-without-effect", place, f"it has no effect: {why[0]}", why[1])


def _wrong_peft_fields(run: Any) -> Iterator[UserError]:
    for field in run.peft_args:
        place = f"peft_args.{field}"
        if field in library_fields.OWN_PEFT_FIELDS:
            hint = of_library(field, keys_of(type(run)))
            yield UserError("conflicting-keys", place, "this field is set by the workflow", hint)
        elif field not in library_fields.peft_fields(run.method):
            hint = nearest(field, library_fields.free_peft_fields(run.method))
            yield UserError("unknown-key", place, f"{run.method} has no field '{field}' in PEFT", hint)


# ---- values


def trainer(arguments: dict[str, Any], files: tuple[Path, ...]) -> Iterator[UserError]:
    """What is wrong with a run's `trainer_args`; `files` are the sources of TRL's and transformers' configurations."""
    for field, value in arguments.items():
        place = f"trainer_args.{field}"
        if field in PROCESSES and value:
            problem = "the table hardware at the top of the file says how several processes share a model"
            yield UserError(
                "unsupported-combination",
                place,
                problem,
                "remove it, and write hardware: {processes: N, strategy: NAME}",
            )
        if field in BEST:
            problem = "the checkpoints that transformers would choose from are not written"
            yield UserError("unsupported-combination", place, problem, "write the run's own key keep: best")
        if field in PACKAGES and value:
            yield from _package(place, "", *PACKAGES[field])
    yield from _typed("trainer_args", arguments, annotations(files))
    if isinstance(arguments.get("optim"), str):
        yield from _optimiser(arguments["optim"], arguments, files[-1])
    if arguments.get("dataloader_prefetch_factor") and not arguments.get("dataloader_num_workers"):
        place = "trainer_args.dataloader_prefetch_factor"
        yield UserError(
            "missing-key", place, "it needs worker processes", "write dataloader_num_workers: 1 or more as well"
        )


def _optimiser(name: str, arguments: dict[str, Any], file: Path) -> Iterator[UserError]:
    place, names = "trainer_args.optim", optimisers(file)
    if name not in names:
        yield UserError("unknown-name", place, f"there is no optimiser '{name}'", nearest(name, names))
        return
    package = next((package for part, package in OPTIMISERS.items() if part in name), None)
    if package:
        yield from _package(place, name, *package)
    if any(part in name for part in OF_LAYERS) and not arguments.get("optim_target_modules"):
        hint = "write optim_target_modules: [q_proj, v_proj] as well"
        yield UserError("missing-key", place, f"{name} acts on named layers", hint)


def peft(arguments: dict[str, Any], targets: str | list[str] | None, files: tuple[Path, ...]) -> Iterator[UserError]:
    """What is wrong with a run's `peft_args`; `targets` are its `target_modules`, `files` the sources of PEFT's configuration."""
    for field in ("layers_to_transform", "layers_pattern"):
        if arguments.get(field) is not None and not isinstance(targets, list):
            said = f"the regular expression '{targets}'" if targets not in (None, "all-linear") else "all-linear"
            problem = f"it selects layers of listed modules, and target_modules is {said}"
            hint = "write target_modules as a list of names, such as [q_proj, v_proj]"
            yield UserError("conflicting-keys", f"peft_args.{field}", problem, hint)
    if arguments.get("layers_pattern") and arguments.get("layers_to_transform") is None:
        hint = "write layers_to_transform: [NUMBER, ...] as well"
        yield UserError("missing-key", "peft_args.layers_pattern", "it needs layers_to_transform", hint)
    yield from _typed("peft_args", arguments, annotations(files))
    if arguments.get("eva_config") is not None:
        yield from _eva(arguments["eva_config"], annotations(files, "EvaConfig"))


def _eva(given: Any, fields: dict[str, ast.expr]) -> Iterator[UserError]:
    place = "peft_args.eva_config"
    if not isinstance(given, dict):
        yield UserError("invalid-value", place, "it must be a table", "write {rho: 2}, for example")
        return
    for name in given.keys() - fields.keys():
        yield UserError("unknown-key", f"{place}.{name}", f"EVA has no field '{name}' in PEFT", nearest(name, fields))
    yield from _typed(place, given, fields)


def _package(place: str, value: str, module: str, package: str) -> Iterator[UserError]:
    if not _is_there(module):
        what = value or "it"
        yield UserError(
            "missing-package", place, f"{what} needs a package that is not installed", f"run: pip install {package}"
        )


def missing_tracker(names: list[str]) -> UserError | None:
    """The error for the first of some trackers that is not installed."""
    for name in names:
        if not any(map(_is_there, TRACKERS[name])):
            return UserError("missing-package", "", f"{name} is not installed", f"run: pip install {name}")
    return None


def _is_there(package: str) -> bool:
    """Whether a package is installed; a folder with its name, such as the one that wandb writes, does not count."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


# ---- types


def _typed(table: str, arguments: dict[str, Any], fields: dict[str, ast.expr]) -> Iterator[UserError]:
    """Values that no type of their field allows, for the types that are understood here."""
    for field, value in arguments.items():
        allowed = kinds(fields[field]) if field in fields else None
        if allowed is None or value is None:
            continue
        types, words = allowed
        place = f"{table}.{field}"
        if isinstance(value, str) and str not in types and value not in words and not value.startswith("pissa_niter"):
            hint = nearest(value, words) if words else f"write {_what(types)}"
            yield UserError("invalid-value", place, f"invalid value '{value}'", hint)
        elif isinstance(value, int | float) and not _is_of(value, types):
            hint = f"write {_what(types, words)}"
            yield UserError("invalid-value", place, f"invalid value {str(value).lower()}", hint)
        elif isinstance(value, list | dict):
            what = "list" if isinstance(value, list) else "table"
            yield UserError("invalid-value", place, f"it cannot be a {what}", f"write {_what(types, words)}")


def _is_of(value: float, types: set[type]) -> bool:
    if isinstance(value, bool) or (value in (0, 1) and bool in types):
        return bool in types
    return isinstance(value, tuple(types - {bool}) or ()) or (isinstance(value, int) and float in types)


def _what(types: set[type], words: set[str] = frozenset()) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return " or ".join([*sorted(words), *(name for kind, name in names.items() if kind in types)])


def kinds(annotation: ast.expr) -> tuple[set[type], set[str]] | None:
    """The simple types and the words that an annotation allows; None if it allows anything else."""
    types: set[type] = set()
    words: set[str] = set()
    waiting = [annotation]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            waiting += [node.left, node.right]
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if node.value.id == "Literal":
                words |= {
                    item.value for item in inner if isinstance(item, ast.Constant) and isinstance(item.value, str)
                }
            elif node.value.id in ("Optional", "Union"):
                waiting += inner
            else:
                return None
        elif isinstance(node, ast.Name) and node.id in SIMPLE:
            types.add(SIMPLE[node.id])
        elif not (isinstance(node, ast.Constant) and node.value is None):
            return None
    return types, words


@cache
def optimisers(file: Path) -> list[str]:
    """The names in transformers' `OptimizerNames`."""
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    names = next(node for node in classes if node.name == "OptimizerNames")
    return [node.value.value for node in names.body if isinstance(node, ast.Assign)]
