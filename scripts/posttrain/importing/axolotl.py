"""Axolotl's YAML: what becomes of its keys. Checked with Axolotl 0.19.0."""

import re
from pathlib import Path
from typing import Any

from posttrain.importing import axolotl_datasets
from posttrain.importing.carried import Job, Row, carried, differs, elsewhere, not_carried, read, same
from posttrain.importing.hugging_face import (
    BATCH,
    CHECKPOINTS,
    DECIDED,
    EVALUATED,
    KERNELS,
    RESULTS,
    TRAINING,
    batch,
    four_bits,
    length,
    modules,
    optimiser,
    packed,
    patience,
    saved_modules,
    schedule,
)
from posttrain.importing.llama_factory import LATER, QUANTISED
from posttrain.methods import METHODS
from posttrain.runtime.errors import UserError

NAME = "Axolotl"
OBJECTIVES = {
    "dpo": ("dpo", None),
    "ipo": ("dpo", "ipo"),
    "kto": ("kto", None),
    "orpo": ("orpo", None),
    "simpo": ("cpo", "simpo"),
}
# A template of Axolotl: the one of TRL's that renders the same kind of conversation.
TEMPLATES = {
    "llama3": "llama3", "qwen3": "qwen3", "qwen_25": "qwen2_5", "gemma": "gemma", "gemma3": "gemma3", "phi_3": "phi3", "phi_35": "phi3_5",
    "cohere": "cohere", "deepseek_v3": "deepseekv3",
}  # fmt: skip
REFUSED = {
    "process_reward_model": "it trains a reward for each step of an answer; only whole answers are scored",
    "diffusion": "it trains a diffusion model of text; only autoregressive models are trained",
    "ebft": "energy-based fine-tuning is not an objective here",
    "use_onebitllms": "weights of 1.58 bits are not trained",
    "qat": "quantisation-aware training is not offered; exports are quantised after training, and proved",
    "relora": "ReLoRA is not a method here; a chain of lora runs merges each before the next",
    "llmcompressor": "sparse models are not trained",
    "num_labels": "classifiers are not trained",
    "gptq": "the weights of this model are stored in GPTQ, which cannot be merged",
}


def is_one(values: dict[str, Any]) -> bool:
    """Whether a file is Axolotl's."""
    return "base_model" in values


def job(file: Path, values: dict[str, Any], devices: int) -> Job:
    """Read a training file.

    Raises:
        UserError: one that cannot be carried over.
    """
    _check(file, values)
    rl = values.get("rl")
    objective, loss = ("reward", None) if values.get("reward_model") else OBJECTIVES[rl] if rl else ("sft", None)
    adapter = values.get("adapter")
    four = adapter == "qlora" or (adapter and values.get("load_in_4bit"))
    found = Job(
        str(file), NAME, values, DEFAULTS, devices, objective, "qlora" if four else "lora" if adapter else "full",
        str(values["base_model"]), [str(values["lora_model_dir"])] if values.get("lora_model_dir") else [],
        [str(values.get("output_dir") or "./model-out")],
    )  # fmt: skip
    if loss:
        found.set("loss_type", loss, "rl")
    read(found, KEYS)
    if values.get("lora_target_linear"):
        found.run.pop("target_modules", None)
    axolotl_datasets.read(found)
    return found


def _check(file: Path, values: dict[str, Any]) -> None:
    rl = values.get("rl")
    if values.get("processor_type") and values.get("skip_prepare_dataset"):
        raise UserError("cannot-import", str(file), LATER)
    for key, why in REFUSED.items():
        if values.get(key) and not (key == "num_labels" and values.get("reward_model")):
            raise UserError("cannot-import", f"{file}: {key}", why)
    if str(rl) in ("grpo", "gdpo"):
        why = "its rewards are functions with TRL's arguments"
        hint = "write objective: grpo, with reward: {function: FILE.py:NAME}, a function of an answer and a reference"
        raise UserError("cannot-import", f"{file}: rl", why, hint)
    if rl and str(rl) not in OBJECTIVES:
        raise UserError("cannot-import", f"{file}: rl", f"{rl} is not an objective here")
    if values.get("adapter") not in (None, "lora", "qlora"):
        raise UserError(
            "cannot-import", f"{file}: adapter", f"the adapter {values['adapter']} is not read", "write lora or qlora"
        )
    if found := QUANTISED.search(str(values["base_model"])):
        why = f"the weights of this model are stored in {found[0]}, which cannot be merged"
        raise UserError(
            "cannot-import", f"{file}: base_model", why, "name the model before quantisation, and adapter: qlora"
        )
    if not (values.get("datasets") or values.get("pretraining_dataset")):
        raise UserError("cannot-import", str(file), "it names no dataset")


# ---- values


def _share(value: Any, job: Job) -> Row:
    share = float(value)
    if not share:
        return differs(
            "datasets.validation",
            "all rows are trained there; here a tenth is held out to measure the result, as by default",
        )
    if share > 1:
        return not_carried("a number of rows; write validation, a share or a file, at the dataset")
    job.set("datasets.validation", min(share, 0.9))
    return differs("datasets.validation", "the same share, but other rows: they are chosen by a hash of their content")


def _template(value: Any, job: Job) -> Row:
    if value == "tokenizer_default":
        return same("rows are rendered by the model's own chat template")
    if value in TEMPLATES:
        job.set("bases.chat_template", TEMPLATES[value], "chat_template")
        return differs("bases.chat_template", f"TRL's template {TEMPLATES[value]}; compare results/RUN/preflight.txt")
    return not_carried("the model's own template is used; for another write chat_template: FILE at the base")


def _tokens(value: Any, job: Job) -> Row:
    for key in ("eos_token", "pad_token"):
        if value.get(key):
            job.set(f"bases.{key}", value[key], "special_tokens")
    rest = value.keys() - {"eos_token", "pad_token"}
    return (
        differs("bases.eos_token, bases.pad_token", f"not carried: {', '.join(sorted(rest))}")
        if rest
        else carried("bases.eos_token, bases.pad_token")
    )


def _new_tokens(value: Any, job: Job) -> Row:
    if isinstance(value, dict):
        return _tokens(value, job)
    job.set("bases.new_tokens", [str(token) for token in value], "tokens")
    return carried("bases.new_tokens", "they are special tokens here")


def _linear(value: Any, job: Job) -> Row:
    return same("all-linear is the default") if value else same("lora_target_modules names them")


def _targets(value: Any, job: Job) -> Row | None:
    if job.source.get("lora_target_linear"):
        return same("all-linear has them")
    return modules(value, job)


def _parameters(value: Any, job: Job) -> None:
    job.set("peft_args.target_parameters", value if isinstance(value, list) else [value])


def _frozen(value: Any, job: Job) -> Row:
    if not METHODS[job.method].full:
        return not_carried("with an adapter only the adapter is trained; write peft_args: {modules_to_save: [NAME]}")
    parts = [_pattern(pattern) for pattern in value]
    if not all(parts):
        return not_carried("write train: [PATTERN], a pattern of whole parts of a name between its dots")
    job.set("train", parts)
    return differs("train", "patterns match whole parts of a name between its dots")


def _pattern(pattern: str) -> str | None:
    """A pattern of the start of a parameter's name, as one of whole parts; None where it is more than names and numbers."""
    plain = str(pattern).removeprefix("^").removesuffix("$").removesuffix(".*").removesuffix(".weight")
    plain = re.sub(r"\\?\.", ".", plain).rstrip(".")
    return plain if re.fullmatch(r"[\w.]+", plain) else None


def _alpha(value: Any, job: Job) -> Row | None:
    job.set("beta" if job.source.get("rl") == "orpo" else "trainer_args.alpha", float(value))
    return None


def _plugins(value: Any, job: Job) -> Row:
    other = [
        str(name).rpartition(".")[2]
        for name in value
        if not re.search(r"Liger|CutCrossEntropy|Kernels|SwanLab|ExpertParallel", str(name))
    ]
    return not_carried(f"there is no counterpart of {', '.join(other)}") if other else KERNELS


def _long(value: Any, job: Job) -> Row:
    return (
        same("longer rows lose their end")
        if value == "truncate"
        else differs("max_length", "longer rows lose their end; none is dropped")
    )


def _eaten(value: Any, job: Job) -> Row | None:
    if not value:
        return same("only the assistant's turns are trained")
    return not_carried("only the assistant's turns are trained; rows of format text are trained whole")


def _bf16_words(value: Any, job: Job) -> Row:
    return TRAINING["bf16"].read("auto" if value == "auto" else value, job)


KEYS: dict[str, Row] = TRAINING | {
    # model and method
    "base_model": carried("from", "a base, or an earlier file's run", elsewhere),
    "base_model_config": same("the configuration is the model's own"),
    "revision_of_model": carried("bases.revision"),
    **dict.fromkeys(
        ("model_type", "tokenizer_type", "processor_type", "tokenizer_config", "tokenizer_use_fast", "tokenizer_legacy", "cls_model_config",
         "tokenizer_use_mistral_common", "base_model_ignore_patterns", "is_llama_derived_model"),
        same("class and tokenizer are those of the model's files"),
    ),
    "adapter": carried("method", "lora, qlora, or full where it is empty", elsewhere),
    "lora_model_dir": differs(
        "from", "the adapter is trained further there; here the earlier run is merged, and a new adapter trained", elsewhere
    ),
    "rl": carried("objective", "dpo, kto, orpo; ipo is a loss of dpo, simpo one of cpo", elsewhere),
    "reward_model": carried("objective", "reward", elsewhere),
    "num_labels": same("a reward model has one score"),
    "load_in_4bit": carried("method", "qlora", four_bits),
    "load_in_8bit": not_carried("the base is held in its own type, or in 4 bits with method: qlora"),
    "bnb_config_kwargs": same("nf4 with double quantisation is the only kind"),
    "lora_r": carried("rank"),
    "lora_alpha": carried("alpha"),
    "lora_dropout": carried("dropout"),
    "lora_target_modules": carried("target_modules", "a list, or a regular expression", _targets),
    "lora_target_linear": carried("target_modules", "true is all-linear, the default", _linear),
    "lora_target_parameters": carried("peft_args.target_parameters", read=_parameters),
    "lora_modules_to_save": carried("peft_args.modules_to_save", read=saved_modules),
    "lora_fan_in_fan_out": same("it is known of the model"),
    "peft_use_dora": carried("peft_args.use_dora"),
    "peft_use_rslora": carried("peft_args.use_rslora"),
    "peft_layers_to_transform": carried("peft_args.layers_to_transform"),
    "peft_init_lora_weights": carried("peft_args.init_lora_weights"),
    "peft": not_carried("write peft_args: {init_lora_weights: loftq}, with method: qlora"),
    "loraplus_lr_ratio": carried("lora_plus"),
    "loraplus_lr_embedding": not_carried("write learning_rates: {embed_tokens: RATE}"),
    "unfrozen_parameters": differs("train", "patterns match whole parts of a name between its dots", _frozen),
    **dict.fromkeys(("relora_prune_ratio", "relora_cpu_offload", "jagged_restart_steps", "jagged_restart_warmup_steps",
                     "jagged_restart_anneal_steps", "lisa_n_layers", "lisa_step_interval", "lisa_layers_attribute"),
                    not_carried("ReLoRA and LISA are not methods here; a chain of lora runs merges each before the next")),
    **dict.fromkeys(("model_config", "resize_token_embeddings_to_32x", "reinit_weights", "overrides_of_model_config",
                     "llama4_linearized_experts", "model_quantization_config", "model_quantization_config_kwargs",
                     "quantize_moe_experts", "torch_dtype"),
                    not_carried("the model is used as it is")),
    # data
    "datasets": carried("data", "each becomes a dataset, several a mix; see the table of a dataset's keys", elsewhere),
    "pretraining_dataset": differs("data", "rows are text, which is read whole and not streamed", elsewhere),
    "test_datasets": not_carried("write validation: FILE at the dataset"),
    "val_set_size": differs("datasets.validation", "other rows are held out; a tenth if nothing is set", _share),
    "sequence_len": carried("max_length", read=length),
    "excess_length_strategy": differs("max_length", "drop is the default there; longer rows lose their end here", _long),
    "sample_packing": carried("packing", "packed rows do not attend to each other", packed),
    "train_on_inputs": not_carried("only the assistant's turns are trained", _eaten),
    "chat_template": differs("bases.chat_template", "TRL's template of that kind; others: the model's own", _template),
    "chat_template_jinja": not_carried("write it to a file, and chat_template: FILE at the base"),
    "chat_template_kwargs": carried("bases.chat_template_kwargs"),
    "default_system_message": carried("datasets.system"),
    "special_tokens": carried("bases.eos_token, bases.pad_token", "other special tokens are the model's", _tokens),
    "tokens": carried("bases.new_tokens", read=_new_tokens),
    "eot_tokens": same("the token that the template ends a turn with is trained"),
    "dataset_exact_deduplication": same("exact duplicates are always dropped"),
    **dict.fromkeys(("eval_sample_packing", "pad_to_sequence_len", "sample_packing_eff_est", "sample_packing_seq_len_multiplier",
                     "sample_packing_sequentially", "total_num_tokens", "max_packed_sequence_len", "pretrain_multipack_attn",
                     "streaming_multipack_buffer_size", "shuffle_merged_datasets", "curriculum_sampling", "dataset_processes",
                     "dataset_prepared_path", "skip_prepare_dataset", "dataset_num_proc", "push_dataset_to_hub", "hf_use_auth_token"),
                    same("rows are prepared, shuffled and packed once, before training")),
    "streaming": not_carried("rows are read whole, into files"),
    "min_sample_len": not_carried("short rows are kept"),
    # optimisation
    "micro_batch_size": differs("batch_size", BATCH, batch),
    "batch_size": not_carried("micro_batch_size and gradient_accumulation_steps decide"),
    "eval_batch_size": same("batches are split to fit into memory"),
    "num_epochs": carried("epochs"),
    "lr_scheduler": carried("lr_scheduler_type", "cosine, linear or constant; cosine takes the place of others", schedule),
    **dict.fromkeys(("cosine_min_lr_ratio", "cosine_constant_lr_ratio", "lr_quadratic_warmup", "eta_min", "lr_div_factor"),
                    not_carried("the cosine schedule goes to 0")),
    "optimizer": carried("trainer_args.optim", "AdamW is the default, for qlora in 8 bits and paged", optimiser),
    "torchdistx_path": same("no optimiser here needs it"),
    "adam_eps": carried("trainer_args.adam_epsilon"),
    "bf16": carried("precision", "auto is auto", _bf16_words),
    "bfloat16": differs("precision", "trained weights are kept in float32 here", lambda value, job: job.set("precision", "bf16")),
    "float16": TRAINING["fp16"],
    "gradient_checkpointing": TRAINING["gradient_checkpointing"],
    **dict.fromkeys(("activation_offloading", "layer_offloading", "low_cpu_mem_usage", "experimental_skip_move_to_device", "max_memory"),
                    not_carried("what does not fit is named before training; see hardware: {offload}")),
    **dict.fromkeys(("loss_watchdog_threshold", "loss_watchdog_patience"),
                    same("training stops on a loss that is not finite, and posttrain doctor finds one that grows")),
    # losses
    "rl_beta": carried("beta"),
    "orpo_alpha": carried("beta", "of orpo", _alpha),
    "cpo_alpha": carried("cpo_alpha"),
    "simpo_gamma": carried("simpo_gamma"),
    "kto_desirable_weight": carried("trainer_args.desirable_weight"),
    "kto_undesirable_weight": carried("trainer_args.undesirable_weight"),
    "dpo_label_smoothing": carried("trainer_args.label_smoothing"),
    "dpo_loss_type": carried("loss_type"),
    "dpo_loss_weights": carried("loss_weights"),
    "dpo_use_weighting": carried("trainer_args.use_weighting"),
    "precompute_ref_log_probs": same("the reference's log-probabilities are computed once, before training"),
    "center_rewards_coefficient": carried("trainer_args.center_rewards_coefficient"),
    **dict.fromkeys(("use_eaft", "eaft_alpha", "eaft_k"), not_carried("there is no such loss")),
    "trl": not_carried("sampling and rewards are keys of a run with objective: grpo"),
    # held-out rows, checkpoints, reports
    "evals_per_epoch": not_carried(EVALUATED),
    **dict.fromkeys(("saves_per_epoch", "save_first_step"), same(CHECKPOINTS)),
    "early_stopping_patience": carried("early_stopping", "by the objective's first measure on held-out rows", patience),
    **dict.fromkeys(("do_causal_lm_eval", "eval_causal_lm_metrics", "eval_max_new_tokens", "eval_table_size", "do_bench_eval"),
                    not_carried("write evaluation: {suites: {NAME: {kind: generation}}}")),
    **dict.fromkeys(("wandb_project", "wandb_entity", "wandb_watch", "wandb_name", "wandb_log_model", "wandb_run_id", "use_wandb",
                     "use_tensorboard", "trackio_project_name", "trackio_run_name", "trackio_space_id", "use_swanlab", "swanlab_project",
                     "swanlab_experiment_name", "swanlab_description", "swanlab_mode", "swanlab_workspace", "swanlab_log_model",
                     "swanlab_log_completions", "swanlab_completion_log_interval", "swanlab_completion_max_buffer",
                     "use_otel_metrics", "otel_metrics_host", "otel_metrics_port"),
                    not_carried("MLflow is the default; for others write tracking: {also: [wandb], experiment: NAME}")),
    **dict.fromkeys(
        ("auto_resume_from_checkpoints", "strict", "debug", "test_value"),
        same("the same command resumes; keys are always checked"),
    ),
    "output_dir": same(RESULTS),
    # kernels and machines
    **dict.fromkeys(("attn_implementation", "flash_attention", "xformers_attention", "sdp_attention", "flex_attention",
                     "flex_attn_compile_kwargs", "flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_mlp",
                     "flash_optimum", "fused_attn_kernel", "gemma4_hybrid_attn_impl", "liger_rope", "liger_rms_norm",
                     "liger_rms_norm_gated", "liger_glu_activation", "liger_layer_norm", "liger_fused_linear_cross_entropy",
                     "cut_cross_entropy", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "use_kernels", "use_scattermoe",
                     "use_sonicmoe", "experts_implementation", "tiled_mlp", "gptq_groupsize", "gptq_model_v1", "gptq_disable_exllama",
                     "use_dsv4_kernels", "use_glm_dsa_kernels", "dsv4_fp4_grouped_mode"), KERNELS),
    "plugins": same("attention and kernels are chosen from what is installed", _plugins),
    **dict.fromkeys(("torch_compile", "torch_compile_mode"), not_carried("write trainer_args: {torch_compile: true}")),
    **dict.fromkeys(("ddp", "device_map", "gpu_count", "gpu", "use_ray", "ray_num_workers"), same(DECIDED)),
    **dict.fromkeys(("fsdp_version", "dp_shard_size", "dp_replicate_size", "tensor_parallel_size", "context_parallel_size",
                     "expert_parallel_size", "expert_parallel_num_nvl_bytes", "expert_parallel_token_capacity", "fp8",
                     "fp8_enable_fsdp_float8_all_gather", "nvfp4_merge_aware"),
                    not_carried("the table hardware has processes and strategy: ddp, fsdp or zero1 to zero3")),
    **dict.fromkeys(("freeze_mm_modules",), not_carried("images come later")),
}  # fmt: skip

# Axolotl's defaults where ours differ.
DEFAULTS: dict[str, Any] = {
    "micro_batch_size": 1,
    "num_epochs": 1.0,
    "sequence_len": 512,
    "excess_length_strategy": "drop",
    "lora_dropout": 0.0,
    "val_set_size": 0.0,
    "optimizer": "adamw_torch_fused",
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.03,
    "rl_beta": 0.1,
}
