"""What a training stage leaves: the trained weights, train.jsonl with one line a step, and the summary in train.json."""

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from posttrain.compat.transformers_internals import attention_of
from posttrain.methods import METHODS
from posttrain.models import loading
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes, team_cache
from posttrain.runtime.atomic import link, read_json, whole_folder, write_json
from posttrain.runtime.console import say
from posttrain.runtime.hashes import visible_files
from posttrain.training import checkpoints, early_stopping, keeping, strategies, trained_card
from posttrain.training.arguments import fast_kernels

# Numbers of each step that train.jsonl has, under TRL's names.
REPORTED = (
    "loss learning_rate grad_norm mean_token_accuracy num_tokens rewards/accuracies rewards/margins "
    "rewards/chosen rewards/rejected logps/chosen logps/rejected accuracy margin nll_loss log_odds_chosen "
    "reward reward_std score kl kl_coefficient entropy policy_loss value_loss clip_fraction answer_length "
    "completions/mean_length completions/clipped_ratio clip_ratio/region_mean cispo_clip_ratio"
).split()
ADAPTER = "adapter_config.json"
# The files of a tokenizer, and of a processor.
TOKENIZER = (
    *("processor_config.json", "preprocessor_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("chat_template*", "additional_chat_templates/*"),
)
MEASURED = ("tokens_per_second", "memory_gib", "seconds", "cpu_percent", "gpu_percent")


def history(log: list[dict]) -> list[dict]:
    """The trainer's log as train.jsonl has it: one line a step, with what is worth keeping.

    An entropy of 0 is one that the compact head did not compute.
    """
    keep = ("step", *REPORTED, *MEASURED)
    lines = []
    for line in log:
        held_out = [key for key in line if key.startswith(early_stopping.EVALUATED)]
        if "loss" in line or held_out:
            shown = [key for key in (*keep, *held_out) if line.get(key) is not None]
            lines.append({key: line[key] for key in shown if key != "entropy" or line[key]})
    return lines


def memory_gib() -> float:
    """Peak memory of this process so far: of the GPU where there is one, else resident memory."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def trainable(model: Any) -> tuple[int, int]:
    """Numbers of trainable and of all parameters; PEFT knows how many a 4-bit weight stands for."""
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)


def is_finite(model: Any) -> bool:
    """Whether every trainable parameter is finite, in every process; each has to ask."""
    trained = (strategies.part(parameter) for parameter in model.parameters() if parameter.requires_grad)
    return processes.largest(not all(bool(parameter.isfinite().all()) for parameter in trained)) == 0


def non_finite(numbers: dict[str, float]) -> list[str]:
    """Which of some numbers are not finite, in words."""
    return [f"the {name} is {number}" for name, number in numbers.items() if not math.isfinite(number)]


def write(
    trainer: Any, model: Any, folder: Path, spec: dict, outcome: dict[str, Any], best: Path | None = None
) -> None:
    """Write the result to `folder`/finished, whole or not at all; in float32, whatever the base's type.

    Args:
        model: what is saved of the trainer's model.
        outcome: what train.json says beside what the trainer knows.
        best: the result of an earlier step, which is kept in place of the last one's.
    """
    lines = history(trainer.state.log_history)
    summary = {
        "steps": trainer.state.global_step,
        "loss": next(line["loss"] for line in reversed(lines) if "loss" in line),
        "precision": loading.precision(spec["precision"]),
        "attention": attention_of(model.config),
        **{name: getattr(trainer.args, name) for name in fast_kernels(spec)},  # as `trainer_args` may have changed them
        "threads": torch.get_num_threads() * processes.count(),
        "memory_gib": processes.largest(memory_gib()),
        "memory_of": "gpu" if torch.cuda.is_available() else "process",
        "processes": processes.count(),
        "strategy": processes.hardware()["strategy"],
    }
    if not processes.is_main():
        if not best:
            save_trained(model, spec, folder)
        return
    with whole_folder(folder / "finished") as finished:
        if best:
            for file in keeping.files(best):
                link(file, finished / "trained" / file.name)
        else:
            save_trained(model, spec, finished / "trained")
        (finished / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_json(finished / "train.json", summary | outcome)


def save_trained(model: Any, spec: dict, folder: Path) -> None:
    """Write what is trained of a model: the adapter as PEFT saves it, or all weights.

    The first process writes; the others, which have to call it too, give their parts of the weights.
    """
    state = strategies.state_to_save(model)
    if not processes.is_main():
        return
    only = {} if METHODS[spec["method"]].full else {"selected_adapters": ["default"]}
    for config in getattr(model, "peft_config", {}).values():
        sort_sets(config)
    if state is not None:
        only |= {"state_dict": state}
    model.save_pretrained(folder, **only)
    if OBJECTIVES[spec["objective"]].classifier and only:
        names = model.config.id2label
        write_json(folder / loading.CLASSES, [names[number] for number in sorted(names)])


def sort_sets(config: Any) -> None:
    """Make sorted lists of the sets in a PEFT configuration, which are saved in the order of this process's hashes."""
    for key, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, key, sorted(value))


def is_there(name: str, key: str, folder: Path) -> bool:
    """Whether a training need not take place: it is finished, or another run's result or the team's cache gives the same."""
    return (folder / "finished").exists() or take_over(folder) or fetch(name, key, folder)


def take_over(folder: Path) -> bool:
    """Link the result of another run with the same spec and inputs, such as the same run under an earlier name.

    Args:
        folder: of the stage, `RUN/checkpoints/KEY`; the key stands for everything that the result depends on.

    Returns:
        Whether there was one.
    """
    run = folder.parents[1]
    for finished in sorted(run.parent.glob(f"*/checkpoints/{folder.name}/finished")):
        other = finished.parents[2]
        if other != run and not other.is_symlink():  # rebuild-check trains among links to what is there
            with whole_folder(folder / "finished") as own:
                for file in visible_files(finished):
                    link(file, own / file.relative_to(finished))
            say(f"{run.name}: {other.name} has the same spec and is trained; its result is linked", "summary")
            return True
    return False


def fetch(name: str, key: str, folder: Path) -> bool:
    """Take a training's result from the team's cache, and note in train.json who trained it.

    Args:
        name: of the run.
        key: see `inputs.team_key`.
        folder: of the stage; its checkpoints are of no use any more.

    Returns:
        Whether there was one.
    """
    finished = folder / "finished"
    entry = team_cache.fetch(name, key, finished)
    if entry is None:
        return False
    summary = read_json(finished / "train.json")
    cached = entry | {"mlflow_run_id": summary["mlflow_run_id"]}  # a run of the one who trained it
    write_json(finished / "train.json", summary | {"mlflow_run_id": None, "cached": cached})
    checkpoints.clear(folder)
    keeping.clear(folder)
    return True


def link_results(options: Namespace, folder: Path) -> None:
    """Put the finished result where the rule declares it, by links; `trained/` with all that others need to load it."""
    finished, run, spec = folder / "finished", options.spec.parent, read_json(options.spec)
    manifest = read_json(options.manifest)
    parent = manifest.get("base", spec["from"]["name"])  # a base's own name, or a run's
    with whole_folder(run / "trained") as trained:
        for file in (finished / "trained").iterdir():
            if file.name == ADAPTER:
                text = json.dumps(read_json(file) | {"base_model_name_or_path": parent}, indent=2, sort_keys=True)
                (trained / ADAPTER).write_text(text)
            elif file.name != "README.md":  # PEFT's empty card
                link(file, trained / file.name)
        for pattern in TOKENIZER:
            for file in options.parent.glob(pattern):
                link(file, trained / file.relative_to(options.parent))
        (trained / "README.md").write_text(
            trained_card.card(run.name, spec, parent, manifest, loading.classes(trained))
        )
    for name in ("train.jsonl", "train.json"):
        (run / name).unlink(missing_ok=True)
        link(finished / name, run / name)
