"""Keys and values of public example files of LLaMA-Factory, Axolotl and TRL, by name; read on 2026-11-27."""

_LLAMA_FACTORY = {
    "model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "trust_remote_code": True, "do_train": True, "finetuning_type": "lora",
    "lora_rank": 8, "lora_target": "all", "template": "qwen3_nothink", "cutoff_len": 2048, "max_samples": 1000,
    "preprocessing_num_workers": 16, "dataloader_num_workers": 4, "logging_steps": 10, "save_steps": 500, "plot_loss": True,
    "overwrite_output_dir": True, "save_only_model": False, "report_to": "none", "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8, "num_train_epochs": 3.0, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": True,
    "ddp_timeout": 180000000, "resume_from_checkpoint": None,
}  # fmt: skip
LLAMA_FACTORY = {
    "train_lora/qwen3_lora_sft": _LLAMA_FACTORY
    | {"stage": "sft", "dataset": "identity,alpaca_en_demo", "output_dir": "saves/qwen3-4b/lora/sft", "learning_rate": 1e-4},
    "train_lora/qwen3_lora_dpo": _LLAMA_FACTORY
    | {
        "stage": "dpo", "pref_beta": 0.1, "pref_loss": "sigmoid", "dataset": "dpo_en_demo", "output_dir": "saves/qwen3-4b/lora/dpo",
        "learning_rate": 5e-6,
    },
    "train_lora/qwen3_lora_kto": _LLAMA_FACTORY
    | {"stage": "kto", "pref_beta": 0.1, "dataset": "kto_en_demo", "output_dir": "saves/qwen3-4b/lora/kto", "learning_rate": 5e-6},
    "train_lora/qwen3_lora_reward": _LLAMA_FACTORY
    | {"stage": "rm", "dataset": "dpo_en_demo", "output_dir": "saves/qwen3-4b/lora/reward", "learning_rate": 1e-4},
    "train_lora/qwen3_lora_pretrain": {key: value for key, value in _LLAMA_FACTORY.items() if key != "template"}
    | {"stage": "pt", "dataset": "c4_demo", "output_dir": "saves/qwen3-4b/lora/pretrain", "learning_rate": 1e-4},
    "train_qlora/qwen3_lora_sft_otfq": _LLAMA_FACTORY
    | {
        "quantization_bit": 4, "quantization_method": "bnb", "stage": "sft", "dataset": "identity,alpaca_en_demo",
        "output_dir": "saves/qwen3-4b/lora/sft", "learning_rate": 1e-4,
    },
    "train_full/qwen3_full_sft": {key: value for key, value in _LLAMA_FACTORY.items() if not key.startswith("lora")}
    | {
        "finetuning_type": "full", "deepspeed": "examples/deepspeed/ds_z3_config.json", "stage": "sft",
        "dataset": "identity,alpaca_en_demo", "output_dir": "saves/qwen3-4b/full/sft", "learning_rate": 1e-5,
        "gradient_accumulation_steps": 2,
    },
}  # fmt: skip
MERGE = {
    "model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "adapter_name_or_path": "saves/qwen3-4b/lora/sft", "template": "qwen3_nothink",
    "trust_remote_code": True, "export_dir": "saves/qwen3_sft_merged", "export_size": 5, "export_device": "cpu",
    "export_legacy_format": False,
}  # fmt: skip
DATASET_INFO = {
    "identity": {"file_name": "identity.json"},
    "alpaca_en_demo": {"file_name": "alpaca_en_demo.json"},
    "c4_demo": {"file_name": "c4_demo.jsonl", "columns": {"prompt": "text"}},
    "dpo_en_demo": {
        "file_name": "dpo_en_demo.json", "ranking": True, "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    },
    "kto_en_demo": {
        "file_name": "kto_en_demo.json", "formatting": "sharegpt", "columns": {"messages": "messages", "kto_tag": "label"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "orca_pairs": {
        "hf_hub_url": "Intel/orca_dpo_pairs", "ranking": True,
        "columns": {"prompt": "question", "chosen": "chosen", "rejected": "rejected", "system": "system"},
    },
    "mllm_demo": {"file_name": "mllm_demo.json", "formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"}},
}  # fmt: skip

AXOLOTL = {
    "llama-3/lora-1b": {
        "base_model": "NousResearch/Llama-3.2-1B", "datasets": [{"path": "teknium/GPT4-LLM-Cleaned", "type": "alpaca"}],
        "val_set_size": 0.1, "output_dir": "./outputs/lora-out", "adapter": "lora", "lora_model_dir": None, "sequence_len": 2048,
        "sample_packing": True, "eval_sample_packing": True, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05,
        "lora_target_modules": ["gate_proj", "down_proj", "up_proj", "q_proj", "v_proj", "k_proj", "o_proj"],
        "wandb_project": None, "gradient_accumulation_steps": 2, "micro_batch_size": 2, "num_epochs": 1, "optimizer": "adamw_8bit",
        "lr_scheduler": "cosine", "learning_rate": 0.0002, "bf16": "auto", "tf32": False, "gradient_checkpointing": True,
        "resume_from_checkpoint": None, "logging_steps": 1, "attn_implementation": "flash_attention_2", "loss_watchdog_threshold": 5.0,
        "loss_watchdog_patience": 3, "warmup_ratio": 0.1, "evals_per_epoch": 4, "saves_per_epoch": 1, "weight_decay": 0.0,
        "special_tokens": {"pad_token": "<|end_of_text|>"},
    },
    "qwen2/dpo": {
        "base_model": "Qwen/Qwen2.5-0.5B", "chat_template": "qwen_25", "rl": "dpo",
        "datasets": [{
            "path": "fozziethebeat/alpaca_messages_2k_dpo_test", "type": "chat_template.default", "field_messages": "conversation",
            "field_chosen": "chosen", "field_rejected": "rejected", "message_property_mappings": {"role": "role", "content": "content"},
            "roles": {"system": ["system"], "user": ["user"], "assistant": ["assistant"]},
        }],
        "dataset_prepared_path": None, "val_set_size": 0.0, "output_dir": "./outputs/dpo-out", "sequence_len": 2048,
        "sample_packing": False, "gradient_accumulation_steps": 4, "micro_batch_size": 2, "num_epochs": 4, "optimizer": "adamw_bnb_8bit",
        "lr_scheduler": "cosine", "learning_rate": 0.0002, "bf16": "auto", "tf32": False, "gradient_checkpointing": True,
        "attn_implementation": "flash_attention_2", "warmup_ratio": 0.1, "evals_per_epoch": 4, "saves_per_epoch": 1, "weight_decay": 0.0,
    },
    "mistral/orpo/mistral-qlora-orpo": {
        "base_model": "mistralai/Mistral-7B-v0.1", "model_type": "MistralForCausalLM", "load_in_4bit": True, "rl": "orpo",
        "orpo_alpha": 0.1, "remove_unused_columns": False, "chat_template": "chatml",
        "datasets": [{"path": "argilla/ultrafeedback-binarized-preferences-cleaned", "type": "chat_template.argilla"}],
        "val_set_size": 0.1, "output_dir": "./outputs/mistral-qlora-orpo-out", "adapter": "qlora", "sequence_len": 4096, "lora_r": 32,
        "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_linear": True, "gradient_accumulation_steps": 4, "micro_batch_size": 2,
        "num_epochs": 1, "optimizer": "adamw_bnb_8bit", "lr_scheduler": "cosine", "learning_rate": 0.0002, "bf16": "auto",
    },
}  # fmt: skip

TRL = {
    "sft": "python trl/scripts/sft.py --model_name_or_path Qwen/Qwen2-0.5B --dataset_name trl-lib/Capybara --learning_rate 2.0e-4 "
    "--num_train_epochs 1 --packing --per_device_train_batch_size 2 --gradient_accumulation_steps 8 --eos_token '<|im_end|>' "
    "--eval_strategy steps --eval_steps 100 --use_peft --lora_r 32 --lora_alpha 16 --output_dir Qwen2-0.5B-SFT --push_to_hub",
    "dpo": "trl dpo --model_name_or_path Qwen2-0.5B-SFT --dataset_name trl-lib/ultrafeedback_binarized --learning_rate 5.0e-7 "
    "--per_device_train_batch_size 2 --max_steps 1000 --gradient_accumulation_steps 8 --output_dir Qwen2-0.5B-DPO "
    "--no_remove_unused_columns",
}
