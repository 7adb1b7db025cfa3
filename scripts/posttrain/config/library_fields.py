"""The fields of TRL's and PEFT's configurations, read from the installed source: importing the libraries takes ten seconds."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES

# Fields of TRL's configurations that a run's own keys set, or that resuming depends on.
OWN_TRAINER_FIELDS = frozenset(
    (
        "output_dir seed learning_rate num_train_epochs max_steps max_length weight_decay warmup_steps "
        "lr_scheduler_type max_grad_norm per_device_train_batch_size gradient_accumulation_steps bf16 fp16 "
        "gradient_checkpointing activation_checkpointing train_sampling_strategy beta disable_dropout "
        "precompute_ref_log_probs save_strategy save_steps save_total_limit logging_steps logging_strategy "
        "report_to do_eval eval_strategy eval_steps eval_delay eval_on_start "
        "resume_from_checkpoint save_only_model ignore_data_skip loss_type loss_weights cpo_alpha simpo_gamma num_generations "
        "max_completion_length temperature shuffle_dataset steps_per_generation generation_batch_size num_iterations"
    ).split()
)
# Fields of PEFT's configuration that a run's own keys set.
OWN_PEFT_FIELDS = frozenset(
    (
        "r lora_alpha lora_dropout target_modules task_type peft_type inference_mode target_r init_r "
        "tinit tfinal deltaT total_step rank_pattern vera_dropout num_virtual_tokens base_model_name_or_path"
    ).split()
)


@cache
def trainer_fields(objective: str) -> frozenset[str]:
    """The fields of TRL's configuration of an objective; none for a trainer of our own."""
    return frozenset(annotations(trainer_files(objective)))


def free_trainer_fields(objective: str) -> frozenset[str]:
    """Those that no key of a run sets."""
    return trainer_fields(objective) - OWN_TRAINER_FIELDS


@cache
def trainer_files(objective: str) -> tuple[Path, ...]:
    """The source files of TRL's configuration of an objective, transformers' own last."""
    if not (own := OBJECTIVES[objective].trl_config):
        return ()
    trl, transformers = _folder("trl"), _folder("transformers")
    return *(trl / file for file in own), trl / "trainer/base_config.py", transformers / "training_args.py"


@cache
def peft_fields(method: str) -> frozenset[str]:
    """The fields of PEFT's configuration of a method; none for a method of our own."""
    return frozenset(annotations(peft_files(method)))


def free_peft_fields(method: str) -> frozenset[str]:
    """Those that no key of a run sets."""
    return peft_fields(method) - OWN_PEFT_FIELDS


@cache
def peft_files(method: str) -> tuple[Path, ...]:
    """The source files of PEFT's configuration of a method."""
    if not (own := METHODS[method].peft_config):
        return ()
    peft = _folder("peft")
    return (*(peft / f"tuners/{name}/config.py" for name in own), peft / "config.py")


def _folder(package: str) -> Path:
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


@cache
def annotations(files: tuple[Path, ...], only: str | None = None) -> dict[str, ast.expr]:
    """Names and types of the annotated fields of the classes in some files; of a name in several files, the first's.

    Args:
        only: a class; without it, all classes that inherit or are inherited from. (Others are types of fields.)
    """
    classes = [node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    parents = {base.id for item in classes for base in item.bases if isinstance(base, ast.Name)}
    kept = [item for item in classes if (item.name == only if only else item.bases or item.name in parents)]
    fields = [node for item in kept for node in item.body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: node.annotation for node in reversed(fields)}
