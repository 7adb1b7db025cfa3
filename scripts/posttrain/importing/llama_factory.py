"""LLaMA-Factory's YAML: what becomes of its keys. Checked with LLaMA-Factory 0.9.5."""

import re
from pathlib import Path
from typing import Any

from posttrain.importing import dataset_info
from posttrain.importing.carried import Job, Row, carried, differs, elsewhere, listed, not_carried, read, same
from posttrain.importing.hugging_face import (
    DEFAULTS,
    KERNELS,
    RESULTS,
    TRAINING,
    length,
    modules,
    packed,
    recomputing,
    saved_modules,
)
from posttrain.importing.hugging_face import patience as _patience
from posttrain.runtime.errors import UserError

NAME = "LLaMA-Factory"
OBJECTIVES = {"pt": "sft", "sft": "sft", "rm": "reward", "dpo": "dpo", "kto": "kto"}
PREFERENCE = {
    "sigmoid": ("dpo", "sigmoid"), "hinge": ("dpo", "hinge"), "ipo": ("dpo", "ipo"), "orpo": ("orpo", None), "simpo": ("cpo", "simpo"),
}  # fmt: skip
IMAGES = re.compile(
    r"(^|[_-])vl([_-]|$)|vl_|llava|omni|pixtral|mllama|audio|video|minicpm_[vo]|paligemma|intern_?vl|moss_vl|glm4\.?[15]?v",
    re.I,
)
QUANTISED = re.compile(r"GPTQ|AWQ|AQLM|EXL2|HQQ", re.I)
LATER = "images come later; this file trains on images, video or audio"
OTHER = {
    "compute_environment": "it configures Accelerate, not a training; import the training file, with --devices N",
    "infer_backend": "it configures inference; posttrain chat and posttrain serve do that",
    "model_class": "it is for LLaMA-Factory's experimental v1 launcher, which is not read",
}
PACKED = "packed rows attend to each other there without neat_packing, and never here"
WRITE_OPTIM = "write trainer_args: {optim: NAME}, with an optimiser that transformers has"
NO_LOSS = "there is no such loss"


def is_one(values: dict[str, Any]) -> bool:
    """Whether a file is LLaMA-Factory's."""
    own = {
        "finetuning_type",
        "stage",
        "template",
        "cutoff_len",
        "infer_backend",
        "compute_environment",
        "model_class",
        "export_dir",
    }
    return bool(own & values.keys()) and "base_model" not in values


def merges(values: dict[str, Any]) -> bool:
    """Whether a file merges an adapter, which every run does here."""
    return "export_dir" in values and not values.get("do_train")


def job(file: Path, values: dict[str, Any], devices: int) -> Job:
    """Read a training file.

    Raises:
        UserError: it is not a training file, or one that cannot be carried over.
    """
    _check(file, values)
    stage = values.get("stage") or "sft"
    loss = str(values.get("pref_loss") or "sigmoid")
    objective, loss_type = PREFERENCE[loss] if stage == "dpo" else (OBJECTIVES[stage], None)
    kind = values.get("finetuning_type") or "lora"
    four = str(values.get("quantization_bit")) == "4" and kind == "lora"
    found = Job(
        str(file), NAME, values, DEFAULTS | OWN_DEFAULTS | ({"packing": True} if stage == "pt" else {}), devices,
        objective, "qlora" if four else kind, str(values["model_name_or_path"]),
        listed(values.get("adapter_name_or_path") or ""), [str(values["output_dir"])] if values.get("output_dir") else [],
    )  # fmt: skip
    if loss_type not in (None, "sigmoid"):
        found.set("loss_type", loss_type, "pref_loss")
    read(found, KEYS)
    names = listed(values.get("dataset") or "")
    if not names:
        raise UserError("missing-key", str(file), "it names no dataset")
    dataset_info.read(found, file, names, text=stage == "pt")
    return found


def _check(file: Path, values: dict[str, Any]) -> None:
    """Refuse what is not a training of text that can be carried over."""
    for key, why in OTHER.items():
        if key in values:
            raise UserError("cannot-import", str(file), why)
    if "model_name_or_path" not in values:
        raise UserError(
            "cannot-import", str(file), "it names no model", "import a training file, with model_name_or_path"
        )
    said = f"{values.get('template', '')} {values['model_name_or_path']}"
    if IMAGES.search(str(values.get("template") or "")) or re.search(r"-(VL|Omni)\b|llava", said, re.I):
        raise UserError("cannot-import", str(file), LATER)
    if merges(values):
        raise UserError(
            "cannot-import", str(file), "it merges an adapter, which every run does here", "import the training file"
        )
    if not values.get("do_train"):
        raise UserError(
            "cannot-import", str(file), "it trains nothing, as do_train is not true", "import a training file"
        )
    stage, kind, loss = (values.get(key) for key in ("stage", "finetuning_type", "pref_loss"))
    if stage == "ppo":
        why = "its reward is a value head beside an adapter; write objective: ppo, with reward: {from: RUN}"
        raise UserError("cannot-import", f"{file}: stage", why)
    if stage not in (None, *OBJECTIVES):
        raise UserError("cannot-import", f"{file}: stage", f"there is no stage {stage}")
    if kind == "freeze":
        why = "it trains the last layers, whose numbers depend on the model"
        raise UserError(
            "cannot-import",
            f"{file}: finetuning_type",
            why,
            "write method: full, and train: ['layers.(30|31)'], for example",
        )
    if kind not in (None, "lora", "full", "oft"):
        raise UserError("cannot-import", f"{file}: finetuning_type", f"there is no method {kind}")
    if stage == "dpo" and str(loss or "sigmoid") not in PREFERENCE:
        raise UserError(
            "cannot-import",
            f"{file}: pref_loss",
            f"there is no loss {loss}",
            "write sigmoid, hinge, ipo, orpo or simpo",
        )
    if found := QUANTISED.search(str(values["model_name_or_path"])):
        why = f"the weights of this model are stored in {found[0]}, which cannot be merged"
        raise UserError(
            "cannot-import", f"{file}: model_name_or_path", why, "name the model before quantisation, and method: qlora"
        )


# ---- values


def _bits(value: Any, job: Job) -> Row:
    return carried("method", "qlora") if str(value) == "4" else not_carried("only 4 bits are offered, as method: qlora")


def _neat(value: Any, job: Job) -> Row:
    packed(value, job)
    return carried("packing", "packed rows do not attend to each other") if value else same("it is off, as here")


def _held_out(value: Any, job: Job) -> Row:
    share = float(value)
    if not share:
        return differs(
            "datasets.validation",
            "all rows are trained there; here a tenth is held out to measure the result, as by default",
        )
    if share >= 1:
        return not_carried("a number of rows; write validation, a share or a file, at the dataset")
    job.set("datasets.validation", share)
    return differs("datasets.validation", "the same share, but other rows: they are chosen by a hash of their content")


def _with_sft(value: Any, job: Job) -> Row | None:
    if not float(value):
        return same("it is off, as here")
    job.set("loss_type", [job.run.get("loss_type") or "sigmoid", "sft"])
    job.set("loss_weights", [1.0, float(value)])
    return None


def _bases(value: Any, job: Job) -> None:
    job.set("bases.new_tokens", listed(value), "add_special_tokens")


def _thinking(value: Any, job: Job) -> Row | None:
    if value:
        return same("it is the template's default")
    job.set("bases.chat_template_kwargs", {"enable_thinking": False}, "enable_thinking")
    return None


def _template(value: Any, job: Job) -> Row:
    if job.source.get("stage") == "pt":
        return same("text is not rendered")
    return differs(
        "bases.chat_template", "rows are rendered by the model's own chat template; read results/RUN/preflight.txt"
    )


def _history(value: Any, job: Job) -> Row | None:
    if not value:
        return same("all assistant turns are trained by default")
    job.set("assistant_turns", "last")
    return None


def _pissa(value: Any, job: Job) -> Row | None:
    if not value:
        return same("it is off, as here")
    job.set("peft_args.init_lora_weights", "pissa")
    return None


def _dft(value: Any, job: Job) -> Row | None:
    if not value:
        return same("it is off, as here")
    job.set("loss_type", "dft")
    return None


def _no_recomputing(value: Any, job: Job) -> Row | None:
    recomputing(not value, job)
    return None


def _weights(value: Any, job: Job) -> None:
    job.weights = [float(weight) for weight in listed(value)]


def _adapters(value: Any, job: Job) -> Row:
    if job.source.get("create_new_adapter"):
        return carried("from", "the earlier adapter is merged, and a new one is trained")
    return differs(
        "from",
        "the earlier adapter is trained further there, and the reference of dpo is the model without it; here the earlier run is merged, "
        "a new adapter is trained, and the reference is the merged model",
    )


def _reference(value: Any, job: Job) -> Row:
    if str(value) in (job.model, *job.adapters):
        return same("the reference is the parent")
    return not_carried("the reference is always the parent, the model that from: names")


KEYS: dict[str, Row] = TRAINING | {
    # model and method
    "model_name_or_path": carried("from", "a base, or an earlier file's run", elsewhere),
    "adapter_name_or_path": differs("from", "the earlier run is merged, and a new adapter is trained", _adapters),
    "create_new_adapter": same("a new adapter is always trained on the merged parent"),
    "model_revision": carried("bases.revision"),
    "stage": carried("objective", "pt and sft are sft, rm is reward", elsewhere),
    "finetuning_type": carried("method", "lora, full or oft", elsewhere),
    "lora_rank": carried("rank"),
    "lora_alpha": carried("alpha"),
    "lora_dropout": carried("dropout"),
    "lora_target": carried("target_modules", "all is all-linear", modules),
    "additional_target": carried("peft_args.modules_to_save", read=saved_modules),
    "loraplus_lr_ratio": carried("lora_plus"),
    "loraplus_lr_embedding": not_carried("write learning_rates: {embed_tokens: RATE}"),
    "use_rslora": carried("peft_args.use_rslora"),
    "use_dora": carried("peft_args.use_dora"),
    "pissa_init": carried("peft_args.init_lora_weights", "pissa", _pissa),
    "pissa_iter": not_carried("the directions are computed exactly, not by iterations"),
    "pissa_convert": same("every run is merged"),
    "oft_rank": not_carried("write peft_args: {oft_block_size: SIZE}"),
    "oft_block_size": carried("peft_args.oft_block_size"),
    "oft_target": carried("target_modules", "all is all-linear", modules),
    "module_dropout": carried("peft_args.module_dropout"),
    "quantization_bit": carried("method", "4 is qlora", _bits),
    "quantization_method": same("bitsandbytes is the only kind"),
    "quantization_type": same("nf4 is the only type"),
    "double_quantization": same("constants are quantised too"),
    "pure_bf16": differs("precision", "trained weights are kept in float32 here", lambda value, job: job.set("precision", "bf16")),
    "resize_vocab": same("new_tokens of the base enlarge the vocabulary"),
    "add_special_tokens": carried("bases.new_tokens", read=_bases),
    "add_tokens": differs("bases.new_tokens", "the tokens are special ones here", _bases),
    "new_special_tokens_config": not_carried("write new_tokens at the base; their embeddings start at the mean of the others"),
    **dict.fromkeys(("flash_attn", "enable_liger_kernel", "use_unsloth", "use_v1_kernels", "use_kv_cache", "low_cpu_mem_usage"), KERNELS),
    **dict.fromkeys(("use_unsloth_gc", "use_reentrant_gc"), same("no result depends on it")),
    "disable_gradient_checkpointing": carried("gradient_checkpointing", "its opposite", _no_recomputing),
    "upcast_layernorm": same("trained weights are in float32"),
    "upcast_lmhead_output": same("losses are computed in float32"),
    **dict.fromkeys(
        ("cache_dir", "hf_hub_token", "ms_hub_token", "use_fast_tokenizer"),
        same("HF_HOME and HF_TOKEN are read from the environment"),
    ),
    **dict.fromkeys(("rope_scaling", "shift_attn", "mixture_of_depths", "train_from_scratch"), not_carried("the model is used as it is")),
    "moe_aux_loss_coef": not_carried("write trainer_args: {router_aux_loss_coef: NUMBER}"),
    # data
    "dataset": carried("data", "each becomes a dataset, several a mix", elsewhere),
    "dataset_dir": carried("datasets.path", read=elsewhere),
    "eval_dataset": carried("datasets.validation", "where it is a file, and one dataset is trained", elsewhere),
    "template": differs("bases.chat_template", "rows are rendered by the model's own chat template", _template),
    "default_system": carried("datasets.system"),
    "enable_thinking": carried("bases.chat_template_kwargs", "{enable_thinking: false}", _thinking),
    "preserve_thinking": not_carried("the template decides which earlier thoughts it prints"),
    "tool_format": not_carried("the model's own chat template prints tools"),
    "cutoff_len": differs("max_length", "longer rows lose their end here, and there a share of prompt and answer", length),
    "max_samples": carried("datasets.limit", "the first rows"),
    "val_size": differs("datasets.validation", "other rows are held out; a tenth if nothing is set", _held_out),
    "packing": differs("packing", PACKED, packed),
    "neat_packing": carried("packing", read=_neat),
    "train_on_prompt": not_carried("only the assistant's turns are trained; rows of format text are trained whole"),
    "mask_history": carried("assistant_turns", "last", _history),
    "mix_strategy": differs("datasets.mix", "concat: all rows; the interleaving ones: by weight, and no row twice", elsewhere),
    "interleave_probs": carried("datasets.mix", "as weights", _weights),
    "disable_shuffling": not_carried("rows are always shuffled, by seed"),
    "media_dir": same("there are no images in this data"),
    **dict.fromkeys(
        ("overwrite_cache", "preprocessing_num_workers", "preprocessing_batch_size", "tokenized_path", "data_shared_file_system"),
        same("rows are prepared once, on all cores, and kept under results/"),
    ),
    **dict.fromkeys(("streaming", "buffer_size"), not_carried("rows are read whole, into files")),
    "ignore_pad_token_for_loss": same("padding is never trained"),
    # losses
    "pref_beta": carried("beta"),
    "pref_loss": carried("loss_type", "sigmoid, hinge, ipo; orpo is an objective, simpo a loss of cpo", elsewhere),
    "pref_ftx": differs("loss_weights", "loss_type: [LOSS, sft]; the mean is over tokens here, and over rows there", _with_sft),
    "pref_bco_weight": not_carried("write loss_type: [sigmoid, bco_pair], loss_weights: [1, NUMBER]"),
    "dpo_label_smoothing": carried("trainer_args.label_smoothing"),
    "simpo_gamma": carried("simpo_gamma"),
    "kto_chosen_weight": carried("trainer_args.desirable_weight"),
    "kto_rejected_weight": carried("trainer_args.undesirable_weight"),
    "ld_alpha": not_carried("tokens of a completion are not weighted"),
    "ref_model": not_carried("the reference is the parent", _reference),
    "ref_model_adapters": not_carried("the reference is the parent", _reference),
    "ref_model_quantization_bit": not_carried("the reference is held as the parent is"),
    "use_dft_loss": carried("loss_type", "dft", _dft),
    **dict.fromkeys(("use_asft_loss", "asft_alpha", "use_eaft_loss", "eaft_alpha"), not_carried(NO_LOSS)),
    # optimisers of its own
    **dict.fromkeys(
        (
            "use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "galore_target", "galore_rank", "galore_scale",
            "galore_layerwise", "galore_update_interval", "galore_proj_type", "apollo_target", "apollo_rank", "apollo_scale",
            "apollo_layerwise", "apollo_scale_type", "apollo_update_interval", "badam_mode", "badam_switch_mode",
            "badam_switch_interval", "badam_verbose", "badam_update_ratio",
        ),
        not_carried(WRITE_OPTIM),
    ),
    "early_stopping_steps": carried("early_stopping", "measurements, not steps", _patience),
    # machines
    **dict.fromkeys(
        (
            "use_kt", "kt_config", "kt_cpu_activation", "kt_weight_path", "kt_non_expert_weight_path", "use_mca", "fp8", "fp8_backend",
            "fp8_enable_fsdp_float8_all_gather", "tensor_model_parallel_size", "pipeline_model_parallel_size",
            "expert_model_parallel_size", "context_parallel_size", "sequence_parallel", "use_distributed_optimizer",
            "overlap_param_gather", "overlap_grad_reduce", "bias_activation_fusion", "apply_rope_fusion", "moe_grouped_gemm",
            "moe_token_dispatcher_type", "recompute_granularity", "ray_num_workers", "fsdp_transformer_layer_cls_to_wrap",
        ),
        not_carried("the table hardware has processes and strategy: ddp, fsdp or zero1 to zero3"),
    ),
    # reports
    "plot_loss": same("the report has the curves"),
    "compute_accuracy": same("eval.json has the accuracy of tokens or pairs"),
    **dict.fromkeys(("include_effective_tokens_per_second", "include_num_input_tokens_seen"), same("train.jsonl has it")),
    **dict.fromkeys(("predict_with_generate", "eval_num_beams"), not_carried("write evaluation: {suites: {NAME: {kind: generation}}}")),
    **dict.fromkeys(
        ("use_swanlab", "swanlab_project", "swanlab_run_name"),
        not_carried("MLflow is the default; see tracking: {also: [...]}"),
    ),
    **dict.fromkeys(
        ("freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model", "image_max_pixels", "video_max_pixels"),
        not_carried("images come later"),
    ),
    **dict.fromkeys(("export_dir", "export_size", "export_device", "export_legacy_format"), same(RESULTS)),
}  # fmt: skip

# LLaMA-Factory's own defaults where ours differ.
OWN_DEFAULTS: dict[str, Any] = {
    "cutoff_len": 2048,
    "lora_rank": 8,
    "lora_dropout": 0.0,
    "bf16": False,
    "disable_gradient_checkpointing": False,
    "val_size": 0.0,
    "oft_block_size": 32,
    "simpo_gamma": 0.5,
    "pref_beta": 0.1,
    "pissa_iter": 16,
}
