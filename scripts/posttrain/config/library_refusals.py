"""What TRL, transformers and PEFT would refuse once a model is loaded, as far as `trainer_args` and `peft_args` alone tell it.

The fields' types are read from the installed source; importing the libraries takes ten seconds.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.runtime.errors import nearest

# What needs more than one process, which this workflow never starts.
ONE_PROCESS = ("deepspeed", "fsdp", "fsdp_config", "parallelism_config")
# What chooses among checkpoints that transformers itself would have to write and measure.
BEST = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")
# Of `optim`, by what its name contains: the package that it is in, and what pip calls that.
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
OF_LAYERS = ("galore", "apollo")  # they act on the matrices that `optim_target_modules` names
PACKAGES = {
    "use_vllm": ("vllm", "vllm"),
    "use_liger_kernel": ("liger_kernel", "liger-kernel"),
    "use_liger_loss": ("liger_kernel", "liger-kernel"),
}
TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
SIMPLE = {"int": int, "float": float, "bool": bool, "str": str}


def trainer(arguments: dict[str, Any], files: tuple[Path, ...]) -> Iterator[str]:
    """What is wrong with a run's `trainer_args`; `files` are the sources of TRL's and transformers' configurations."""
    for field, value in arguments.items():
        if field in ONE_PROCESS and value:
            yield f"trainer_args.{field}: a run trains in one process, on one GPU or on the CPU; take it out"
        if field in BEST:
            yield f"trainer_args.{field}: write the run's own key keep: best"
        if field in PACKAGES and value:
            yield from _package(f"trainer_args.{field}", *PACKAGES[field])
    yield from _typed("trainer_args", arguments, annotations(files))
    if isinstance(arguments.get("optim"), str):
        yield from _optimiser(arguments["optim"], arguments, files[-1])
    if arguments.get("dataloader_prefetch_factor") and not arguments.get("dataloader_num_workers"):
        yield "trainer_args.dataloader_prefetch_factor needs dataloader_num_workers: 1 or more beside it"


def _optimiser(name: str, arguments: dict[str, Any], file: Path) -> Iterator[str]:
    names = optimisers(file)
    if name not in names:
        yield f"trainer_args.optim: there is no optimiser '{name}'; {nearest(name, names)}"
        return
    package = next((package for part, package in OPTIMISERS.items() if part in name), None)
    if package:
        yield from _package(f"trainer_args.optim: {name}", *package)
    if any(part in name for part in OF_LAYERS) and not arguments.get("optim_target_modules"):
        yield f"trainer_args.optim: {name} acts on named layers; write optim_target_modules: [q_proj, v_proj] beside it"


def peft(
    method: str, arguments: dict[str, Any], targets: str | list[str] | None, files: tuple[Path, ...]
) -> Iterator[str]:
    """What is wrong with a run's `peft_args`; `targets` are its `target_modules`, `files` the sources of PEFT's configuration."""
    for field in ("layers_to_transform", "layers_pattern"):
        if arguments.get(field) is not None and not isinstance(targets, list):
            said = f"the regular expression '{targets}'" if targets not in (None, "all-linear") else "all-linear"
            yield (
                f"peft_args.{field} picks layers for names, and target_modules is {said}; write target_modules as a list of "
                "names, such as [q_proj, v_proj]"
            )
    if arguments.get("layers_pattern") and arguments.get("layers_to_transform") is None:
        yield "peft_args.layers_pattern needs layers_to_transform: [NUMBER, ...] beside it"
    if method == "adalora" and arguments.get("use_dora"):
        yield "peft_args.use_dora: AdaLoRA has no DoRA; take it out, or write method: lora"
    yield from _typed("peft_args", arguments, annotations(files))
    if arguments.get("eva_config") is not None:
        yield from _eva(arguments["eva_config"], annotations(files, "EvaConfig"))


def _eva(given: Any, fields: dict[str, ast.expr]) -> Iterator[str]:
    if not isinstance(given, dict):
        yield "peft_args.eva_config: write a table, such as {rho: 2}"
        return
    for name in given.keys() - fields.keys():
        yield f"peft_args.eva_config: EVA has no '{name}' in PEFT; {nearest(name, fields)}"
    yield from _typed("peft_args.eva_config", given, fields)


def _package(place: str, module: str, package: str) -> Iterator[str]:
    if not _is_there(module):
        yield f"{place} needs a package that is not installed; pip install {package}, or take it out"


def missing_tracker(names: list[str]) -> str | None:
    """Why the first of some trackers cannot be had, or None."""
    for name in names:
        if not any(map(_is_there, TRACKERS[name])):
            return f"also: {name} is not installed; run: pip install {name}"
    return None


def _is_there(package: str) -> bool:
    """Whether a package is installed; a folder of its name, such as the one that wandb writes, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


# ---- types


def _typed(table: str, arguments: dict[str, Any], fields: dict[str, ast.expr]) -> Iterator[str]:
    """Values that no type of their field allows, as far as the source says it in words that are known here."""
    for field, value in arguments.items():
        allowed = kinds(fields[field]) if field in fields else None
        if allowed is None or value is None:
            continue
        types, words = allowed
        if isinstance(value, str) and str not in types and value not in words and not value.startswith("pissa_niter"):
            what = nearest(value, words) if words else f"write {_what(types)}"
            yield f"{table}.{field}: '{value}' is not allowed; {what}"
        elif isinstance(value, int | float) and not _is_of(value, types):
            yield f"{table}.{field}: {str(value).lower()} is not allowed; write {_what(types, words)}"
        elif isinstance(value, list | dict):
            yield f"{table}.{field}: a {'list' if isinstance(value, list) else 'table'} is not allowed; write {_what(types, words)}"


def _is_of(value: float, types: set[type]) -> bool:
    if isinstance(value, bool) or (value in (0, 1) and bool in types):
        return bool in types
    return isinstance(value, tuple(types - {bool}) or ()) or (isinstance(value, int) and float in types)


def _what(types: set[type], words: set[str] = frozenset()) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return " or ".join([*sorted(words), *(name for kind, name in names.items() if kind in types)])


def kinds(annotation: ast.expr) -> tuple[set[type], set[str]] | None:
    """The simple types and the words that an annotation allows; None where it allows anything else."""
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
def annotations(files: tuple[Path, ...], only: str | None = None) -> dict[str, ast.expr]:
    """Names and types of the annotated fields of the classes in some files; of a name in several, the first's.

    Args:
        only: a class; without it, those that inherit or are inherited from: the others stand in a field of theirs.
    """
    classes = [node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    parents = {base.id for item in classes for base in item.bases if isinstance(base, ast.Name)}
    kept = [item for item in classes if (item.name == only if only else item.bases or item.name in parents)]
    fields = [node for item in kept for node in item.body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: node.annotation for node in reversed(fields)}


@cache
def optimisers(file: Path) -> list[str]:
    """The names in transformers' `OptimizerNames`."""
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    names = next(node for node in classes if node.name == "OptimizerNames")
    return [node.value.value for node in names.body if isinstance(node, ast.Assign)]
