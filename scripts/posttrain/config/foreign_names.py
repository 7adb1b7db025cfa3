"""Names that other tools use for keys: what an unknown key most probably means, and what to write instead.

The names come from transformers, TRL, PEFT, LLaMA-Factory, Axolotl, Unsloth and torchtune. Exact synonyms of a key are not here
but in aliases.py: they are accepted.
"""

from collections.abc import Callable, Iterable

from posttrain.config import aliases

BATCH = "batch_size, the total number of examples per optimiser step"
SPLIT = "gradient_accumulation_steps, the number of forward passes that batch_size is split into"
LENGTH = "max_length, the length of a prompt together with its completion"
RATE = "learning_rate"
WARMUP = "warmup_ratio, a share of the steps"
PRECISION = "precision: bf16 or fp32"
START = "from: NAME, and describe the base under bases:"
ROWS = "data: NAME, and describe the dataset under datasets:"
HELD_OUT = "validation, a share or a file, at the dataset under datasets:"
TEMPLATE = "chat_template at the base under bases:"
SYSTEM = "system at the dataset under datasets:"
FIRST = "limit at the dataset under datasets:"
COLUMNS = "columns: {prompt: NAME, completion: NAME}, our column: the file's column"
TURNS = "assistant_turns: all or last (only assistant turns are trained)"
QUANTISED = "method: qlora"
STOPPING = "early_stopping: {metric: NAME, patience: NUMBER}"
BEST = "keep: best"
TRACKERS = "tracking: {also: [tensorboard, wandb, trackio]} at the top of the file"
SAVING = "tracking: {checkpoint_seconds: NUMBER} at the top of the file"
RESULTS = "remove it: results are under results/, in a folder with the run's name"
LOGGED = "remove it: every step is logged"
RESUMED = "remove it: the same command resumes an interrupted run"
PROCESSES = "hardware: {processes: N, strategy: ddp | fsdp | zero1 | zero2 | zero3} at the top of the file"
KERNELS = "remove it: attention and kernels are chosen from what is installed"
REMOTE = "remove it: code that comes with a model is never executed"
MEASURED = "measure_every: STEPS, to measure held-out rows during training"
PATTERNS = "freeze or train, patterns of parameters' names"


def _names(meaning: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), meaning)


RUN = {
    **_names(RATE, "lr peak_lr base_lr max_lr"),
    **_names("epochs", "num_epochs n_epochs train_epochs max_epochs"),
    **_names("max_steps", "steps num_steps max_train_steps train_steps total_steps max_steps_per_epoch"),
    **_names(
        BATCH,
        "per_device_train_batch_size micro_batch_size train_batch_size per_device_batch_size global_batch_size batch bs "
        "rollout_batch_size",
    ),
    **_names(SPLIT, "gradient_accumulation grad_accum grad_accumulation_steps"),
    **_names(
        LENGTH,
        "max_seq_length max_seq_len max_sequence_length cutoff_len sequence_len sequence_length seq_length seq_len block_size "
        "model_max_length max_prompt_length max_tokens",
    ),
    **_names("lr_scheduler_type", "lr_scheduler scheduler lr_schedule"),
    **_names(WARMUP, "warmup_steps num_warmup_steps lr_warmup_steps warmup_fraction"),
    **_names("max_grad_norm", "gradient_clipping clip_grad_norm grad_clip max_gradient_norm gradient_clip_val"),
    **_names("weight_decay", "wd"),
    **_names(PRECISION, "bf16 fp16 tf32 dtype torch_dtype compute_dtype pure_bf16 mixed_precision half_precision"),
    **_names("seed", "random_seed random_state data_seed"),
    **_names(
        "gradient_checkpointing", "activation_checkpointing use_gradient_checkpointing enable_activation_checkpointing"
    ),
    **_names("method", "finetuning_type adapter peft_type peft use_peft use_lora tuner train_type"),
    **_names("objective", "stage task rl trainer algorithm rlhf_type training_type"),
    **_names(START, "model base base_model model_name model_name_or_path model_id base_model_name parent checkpoint"),
    **_names("the base's own name in from: NAME", "ref_model reference_model ref_model_name_or_path"),
    **_names(
        ROWS, "dataset datasets dataset_name dataset_path train_dataset train_file data_path data_files train_data"
    ),
    # LoRA and its relatives
    **_names("rank", "lora_r lora_rank lora_dim lora_n"),
    **_names(
        "target_modules", "lora_target lora_target_modules lora_modules target lora_target_linear lora_attn_modules"
    ),
    **_names("lora_plus", "loraplus_ratio lora_plus_ratio"),
    **_names(
        QUANTISED, "load_in_4bit load_in_8bit quantization_bit quantization bnb_4bit_quant_type quantize use_4bit qlora"
    ),
    **_names("peft_args: {init_lora_weights: pissa}", "pissa_init pissa use_pissa"),
    **_names("peft_args: {init_lora_weights: loftq}", "loftq use_loftq loftq_config loftq_bits"),
    **_names("peft_args: {init_lora_weights: eva}", "eva use_eva eva_config"),
    **_names("peft_args: {modules_to_save: [NAME]}", "additional_target lora_modules_to_save"),
    **_names("peft_args: {use_dora: true}", "dora"),
    **_names("peft_args: {use_rslora: true}", "rslora"),
    **_names(
        PATTERNS, "freeze_trainable_layers freeze_extra_modules unfrozen_parameters trainable_layers freeze_layers"
    ),
    # objectives
    **_names("beta", "pref_beta dpo_beta kto_beta kl_beta orpo_alpha"),
    **_names("loss_type", "pref_loss loss dpo_loss_type dpo_loss"),
    **_names("simpo_gamma, with objective: cpo, loss_type: simpo", "gamma_beta_ratio simpo_gamma_beta_ratio"),
    **_names(
        "variant: gspo, dapo, cispo or dr_grpo",
        "policy_loss adv_estimator loss_agg_mode grpo_variant importance_sampling_level",
    ),
    **_names(
        "variant, which sets it as a paper does, or the same field under trainer_args",
        "epsilon epsilon_high scale_rewards mask_truncated_completions",
    ),
    **_names(
        "reward: {from: RUN} or {function: NAME}",
        "reward_model reward_funcs reward_function reward_fn reward_functions",
    ),
    **_names("max_new_tokens", "response_length max_response_length completion_length"),
    **_names("num_generations", "group_size num_samples rollout_n n_samples_per_prompt"),
    **_names("kl_coef", "init_kl_coef kl_penalty kl_loss_coef"),
    **_names("kl_target", "target_kl ppo_target"),
    **_names("ppo_epochs", "noptepochs"),
    **_names(
        "num_mini_batches",
        "num_minibatches ppo_mini_batch_size mini_batch_size steps_per_generation generation_batch_size num_iterations",
    ),
    **_names("cliprange", "clip_range clip_ratio"),
    **_names("vf_coef", "value_loss_coef"),
    **_names("gae_lambda", "lambda"),
    **_names("whiten_rewards", "ppo_whiten_rewards"),
    **_names(
        TURNS, "train_on_inputs train_on_input mask_history mask_prompt roles_to_train train_on_eos assistant_only_loss"
    ),
    # what the data and the base say
    **_names(HELD_OUT, "val_size val_set_size test_size eval_dataset valid_data_path val_data"),
    **_names(FIRST, "max_samples max_train_samples"),
    **_names(TEMPLATE, "template prompt_template chat_template_path"),
    **_names("chat_template_kwargs: {enable_thinking: false} at the base under bases:", "enable_thinking"),
    **_names(SYSTEM, "system_prompt default_system"),
    # control
    **_names("packing", "sample_packing pack neat_packing"),
    **_names("neftune_noise_alpha", "neftune_alpha"),
    **_names(STOPPING, "early_stopping_patience early_stopping_steps early_stopping_threshold"),
    **_names(BEST, "load_best_model_at_end metric_for_best_model greater_is_better save_best save_only_best"),
    **_names(MEASURED, "eval_steps eval_strategy evaluation_strategy evals_per_epoch do_eval eval_on_start eval_delay"),
    **_names("measure_rows, the number of held-out rows measured during training", "max_eval_samples eval_samples"),
    **_names("early_stopping: {metric: FILE.py:NAME}", "compute_metrics eval_metrics"),
    **_names(TRACKERS, "report_to wandb use_wandb wandb_project wandb_entity wandb_run_id use_tensorboard logging_dir"),
    **_names("tracking: {experiment: NAME} at the top of the file", "run_name mlflow_experiment_name project_name"),
    **_names(LOGGED, "logging_steps logging_strategy log_every_n_steps logging_first_step"),
    **_names(
        SAVING,
        "save_steps save_strategy save_total_limit saves_per_epoch save_interval checkpoint_steps save_only_model",
    ),
    **_names(RESULTS, "output_dir overwrite_output_dir output"),
    **_names(RESUMED, "resume_from_checkpoint auto_resume_from_checkpoints resume ignore_data_skip"),
    **_names(
        PROCESSES, "deepspeed fsdp fsdp_config fsdp_version ddp ddp_timeout tensor_parallel_size num_gpus devices"
    ),
    **_names(PROCESSES, "parallelism_config n_gpu world_size"),
    **_names(
        KERNELS, "flash_attn flash_attention use_flash_attention_2 attn_implementation xformers_attention sdp_attention"
    ),
    **_names(KERNELS, "enable_liger_kernel use_unsloth unsloth"),
    **_names(REMOTE, "trust_remote_code"),
    **_names("trainer_args: {optim: NAME}", "optimizer optimizer_type optim_name"),
}

DATASET = {
    **_names("format", "type ds_type formatting style file_type dataset_type conversation"),
    **_names("path", "file files data_files data_dir file_name filename file_path local_path"),
    **_names("hub", "repo repo_id hf_hub_url dataset dataset_name hf_id"),
    **_names("subset", "name config config_name"),
    **_names(
        HELD_OUT.partition(" at")[0],
        "val_size val_set_size test_size valid_size eval_size holdout test validation_split",
    ),
    **_names("limit", "max_samples num_samples max_rows n shards max_examples"),
    **_names("columns: {messages: NAME}", "messages conversations field_messages message_field"),
    **_names(
        COLUMNS,
        "prompt query instruction question input response output answer completion chosen rejected text field text_column "
        "text_field column column_mapping map field_instruction field_output field_input",
    ),
    **_names("system", "system_prompt default_system"),
    **_names("weight in the `mix` of another dataset", "weight probs sampling_ratio interleave_probs"),
    **_names("near_duplicates", "dedup deduplicate dedup_threshold"),
    **_names("remove it: rows are split by a hash of their content", "shuffle seed"),
    **_names(TEMPLATE, "template prompt_template"),
}

BASE = {
    **_names(
        "model, the hub id, beside source: hub",
        "model_name_or_path model_name name repo repo_id hub hub_id id base_model",
    ),
    **_names("source: hub, path, wheel or random", "type kind"),
    **_names("path, beside source: path", "folder dir directory local_path model_path"),
    **_names("chat_template", "template prompt_template chat_template_path"),
    **_names("chat_template_kwargs: {enable_thinking: false}", "enable_thinking thinking"),
    **_names("revision", "branch commit model_revision"),
    **_names("new_tokens", "additional_special_tokens special_tokens tokens add_tokens new_special_tokens"),
    **_names("precision at a run under runs:", "dtype torch_dtype bf16 fp16 precision"),
    **_names("method: qlora at a run under runs:", "load_in_4bit load_in_8bit quantization quantization_bit"),
    **_names("remove it: the tokenizer is the one in the model's folder", "tokenizer tokenizer_name tokenizer_path"),
    **_names(KERNELS, "flash_attn attn_implementation"),
    **_names(REMOTE, "trust_remote_code"),
}

EVALUATION = {
    **_names("limit", "max_samples num_samples n samples"),
    **_names("data", "dataset datasets eval_dataset"),
    **_names("max_new_tokens", "max_tokens max_gen_toks max_completion_length"),
    **_names("batch_tokens", "batch_size per_device_eval_batch_size eval_batch_size"),
    **_names("suites: {NAME: {kind: tasks, tasks: [NAME]}}", "tasks task benchmarks benchmark"),
    **_names("suites: {NAME: {kind: generation, data: DATASET, metrics: [NAME]}}", "metrics metric"),
    **_names("remove it: decoding is greedy", "temperature top_p top_k do_sample num_beams"),
    **_names("precision", "dtype bf16 fp16"),
    **_names("max_length", "max_seq_length cutoff_len sequence_len"),
}

TRACKING = {
    **_names("also: [tensorboard, wandb, trackio]", "wandb tensorboard trackio report_to trackers use_wandb"),
    **_names("experiment", "project experiment_name run_name project_name name"),
    **_names("checkpoint_seconds", "save_steps checkpoint_steps save_every save_interval"),
    **_names("MLFLOW_TRACKING_URI in the environment", "uri tracking_uri mlflow_tracking_uri"),
}

SWEEP = {
    **_names("over: {KEY: [VALUE, VALUE]}", "parameters params grid values space search_space"),
    **_names("run", "base from of model"),
    **_names("points", "list configs combinations"),
}

TOP = {
    **_names("bases", "models model base base_model"),
    **_names("datasets", "data dataset"),
    **_names("runs", "run training train experiments stages jobs steps"),
    **_names("evaluation", "eval evaluate evals"),
    **_names("sweeps", "sweep grid"),
    **_names("tracking", "logging log mlflow wandb"),
}

TABLES = {
    "": TOP,
    "runs": RUN,
    "datasets": DATASET,
    "bases": BASE,
    "evaluation": EVALUATION,
    "tracking": TRACKING,
    "sweeps": SWEEP,
}
A_TABLE = {"runs": "a run", "datasets": "a dataset", "bases": "a base", "sweeps": "a sweep"}


def meant(
    table: str, key: str, elsewhere: dict[str, Iterable[str]], library: Callable[[str], str | None]
) -> str | None:
    """What to write instead of an unknown key of a table, as the end of a sentence; None if it is not known.

    Args:
        table: `runs`, `datasets`, ..., or nothing for the file's own keys.
        elsewhere: the keys of the file's tables, by their name.
        library: what to write for a field of TRL's or PEFT's configuration.

    >>> meant("runs", "lr", {}, lambda key: None)
    'write learning_rate'
    """
    if key in TABLES.get(table, {}):
        return _write(TABLES[table][key])
    if table == "runs" and (hint := library(key)):
        return hint
    for other, keys in elsewhere.items():
        if other != table and key in keys:
            return f"it belongs to {A_TABLE[other]} under {other}:" if other in A_TABLE else f"it belongs to {other}:"
    if table == "" and key in RUN:
        return f"in a run under runs:, {_write(RUN[key])}"
    return None


def of_library(field: str, keys: Iterable[str]) -> str:
    """What to write instead of a field of TRL's or PEFT's configuration that a run's own keys set, as the end of a sentence.

    Args:
        keys: the keys of a run.

    >>> of_library("num_train_epochs", ["epochs"]), of_library("train_sampling_strategy", [])
    ("write the run's own key epochs", 'remove it')
    """
    key = aliases.OF_RUN.get(field, field)
    return f"write the run's own key {key}" if key in keys else _write(RUN.get(field, "remove it"))


def _write(meaning: str) -> str:
    return meaning if meaning.startswith("remove it") else f"write {meaning}"
