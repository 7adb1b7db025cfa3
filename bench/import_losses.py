"""The same tiny job trained by TRL or LLaMA-Factory and here, from the same file: the losses, step by step.

    python bench/import_losses.py
    python bench/import_losses.py --llama-factory PATH/TO/ITS/python

A step sees all rows, so that their order does not matter, and every weight is trained, so that no initial weights are random: the
losses are then the same numbers. LoRA in small batches is compared over seeds, beside the differences of the seeds themselves.
LLaMA-Factory needs an environment of its own, because it wants older versions of transformers and TRL.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from common import REPOSITORY, parser, snakemake

ROWS, PAIRS, SEEDS = 32, 16, (1, 2, 3)
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALL_ROWS = {
    "gradient_accumulation_steps": 2, "learning_rate": 3e-3, "num_train_epochs": 8, "lr_scheduler_type": "cosine", "bf16": False,
    "use_cpu": True, "logging_steps": 1, "report_to": "none", "save_strategy": "no", "seed": 1,
}  # fmt: skip
SMALL_BATCHES = ALL_ROWS | {"per_device_train_batch_size": 4, "num_train_epochs": 4, "learning_rate": 1e-2}
LORA = {"lora_alpha": 16, "lora_dropout": 0.0}
# What a peer's process runs: each file named as an argument; the losses of its steps are written beside it.
TRL = """
import importlib, sys, transformers, trl
for name in sys.argv[1:]:
    kind = name.split("_")[0]
    losses = []
    class Log(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **more):
            losses.extend([logs["loss"]] if "loss" in logs else [])
    trainer = {"sft": trl.SFTTrainer, "dpo": trl.DPOTrainer}[kind]
    train = trainer.train
    trainer.train = lambda self: (self.add_callback(Log()), train(self))
    script = importlib.import_module(f"trl.scripts.{kind}")
    script.main(*script.make_parser().parse_args_and_config(args=["--config", f"{name}.yaml"]))
    trainer.train = train
    open(f"{name}.loss", "w").write(" ".join(map(str, losses)))
"""
LLAMA_FACTORY = """
import sys, transformers, yaml
from llamafactory.train.tuner import run_exp
for name in sys.argv[1:]:
    losses = []
    class Log(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **more):
            losses.extend([logs["loss"]] if "loss" in logs else [])
    run_exp(yaml.safe_load(open(f"{name}.yaml")), callbacks=[Log()])
    open(f"{name}.loss", "w").write(" ".join(map(str, losses)))
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--llama-factory", metavar="PYTHON", help="train by LLaMA-Factory instead of TRL")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _material(folder)
        names = _llama_factory(folder) if options.llama_factory else _trl(folder)
        program = [options.llama_factory, "-c", LLAMA_FACTORY] if options.llama_factory else [sys.executable, "-c", TRL]
        subprocess.run([*program, *names], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        theirs = {name: [float(loss) for loss in (folder / f"{name}.loss").read_text().split()] for name in names}
        ours = _here(folder, names)
    for name in names[:2]:
        apart = [abs(a - b) for a, b in zip(theirs[name], ours[name], strict=True)]
        print(
            f"{name}: {len(apart)} steps, {theirs[name][0]:.4f} to {theirs[name][-1]:.4f}, at most {max(apart):.1e} apart"
        )
    _seeds([theirs[name] for name in names[2:]], [ours[name] for name in names[2:]])


def _seeds(theirs: list[list[float]], ours: list[list[float]]) -> None:
    """Mean losses over seeds, and how far a seed is from the others of the same program."""
    steps = range(len(theirs[0]))
    means = [[statistics.mean(run[step] for run in runs) for step in steps] for runs in (theirs, ours)]
    apart = [abs(a - b) for a, b in zip(*means, strict=True)]
    spread = [statistics.stdev(run[step] for run in runs) for runs in (theirs, ours) for step in steps]
    print(
        f"lora, {len(theirs)} seeds, {len(steps)} steps: mean losses {statistics.mean(apart):.4f} apart (at most {max(apart):.4f}); "
        f"standard deviation of a seed {statistics.mean(spread):.4f}"
    )


def _material(folder: Path) -> None:
    """A random tiny model and rows, as both programs read them."""
    sys.path[:0] = [str(REPOSITORY / "tests")]
    import tiny_bases

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = tiny_bases.tokenizer(special, TEMPLATE, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tiny_bases.save(folder / "base", tokens, hidden_size=64, intermediate_size=128, max_position_embeddings=1024)
    rows, pairs = (_short(name, number) for name, number in (("train", ROWS), ("pairs", PAIRS)))
    user, assistant = (lambda text, role=role: [{"role": role, "content": text}] for role in ("user", "assistant"))
    _lines(
        folder / "rows.jsonl",
        [{"prompt": user(row["question"]), "completion": assistant(row["answer"])} for row in rows],
    )
    both = ("chosen", "rejected")
    _lines(
        folder / "pairs.jsonl",
        [{"prompt": user(row["question"])} | {side: assistant(row[side]) for side in both} for row in pairs],
    )
    (folder / "data").mkdir()
    alpaca = [{"instruction": row["question"], "input": "", "output": row["answer"]} for row in rows]
    (folder / "data/rows.json").write_text(json.dumps(alpaca))
    alpaca = [{"instruction": row["question"], "input": ""} | {side: row[side] for side in both} for row in pairs]
    (folder / "data/pairs.json").write_text(json.dumps(alpaca))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = {
        "rows": {"file_name": "rows.json"},
        "pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns},
    }
    (folder / "data/dataset_info.json").write_text(json.dumps(info))


def _short(name: str, number: int) -> list[dict]:
    lines = (REPOSITORY / f"examples/data/gsm8k_{name}.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if sum(map(len, map(str, row.values()))) < 700][:number]


def _lines(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _trl(folder: Path) -> list[str]:
    """TRL's files; their names."""
    common = {"model_name_or_path": "base", "max_length": 1024}
    rows, pairs = ({"datasets": [{"path": "json", "data_files": f"{name}.jsonl"}]} for name in ("rows", "pairs"))
    lora = LORA | {"use_peft": True, "lora_r": 8, "lora_target_modules": ["q_proj", "v_proj"]}
    jobs = {
        "sft_all": common | ALL_ROWS | rows | {"per_device_train_batch_size": ROWS // 2},
        "dpo_all": common | ALL_ROWS | pairs | {"per_device_train_batch_size": PAIRS // 2, "learning_rate": 1e-3},
        **{f"sft_lora_{seed}": common | SMALL_BATCHES | rows | lora | {"seed": seed} for seed in SEEDS},
    }
    return _written(folder, jobs)


def _llama_factory(folder: Path) -> list[str]:
    """LLaMA-Factory's files; their names."""
    common = {"model_name_or_path": "base", "do_train": True, "cutoff_len": 1024, "overwrite_output_dir": True}
    sft, dpo = (
        common | {"stage": "sft", "dataset": "rows"},
        common | {"stage": "dpo", "dataset": "pairs", "pref_beta": 0.1},
    )
    full = {"finetuning_type": "full"}
    lora = LORA | {"finetuning_type": "lora", "lora_rank": 8, "lora_target": "q_proj,v_proj"}
    jobs = {
        "sft_all": sft | full | ALL_ROWS | {"per_device_train_batch_size": ROWS // 2},
        "dpo_all": dpo | full | ALL_ROWS | {"per_device_train_batch_size": PAIRS // 2, "learning_rate": 1e-3},
        **{f"sft_lora_{seed}": sft | lora | SMALL_BATCHES | {"seed": seed} for seed in SEEDS},
    }
    return _written(folder, jobs)


def _written(folder: Path, jobs: dict[str, dict]) -> list[str]:
    for name, keys in jobs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(keys | {"output_dir": f"out_{name}"}))
    return [*jobs]


def _here(folder: Path, names: list[str]) -> dict[str, list[float]]:
    """The losses of the imported files, whose datasets hold nothing out."""
    command = [
        sys.executable,
        "-m",
        "posttrain.cli",
        "import",
        *(f"{name}.yaml" for name in names),
        "--output",
        "imported.yaml",
    ]
    found = json.loads(
        subprocess.run([*command, "--json"], cwd=folder, check=True, capture_output=True, text=True).stdout
    )
    values = yaml.safe_load((folder / "imported.yaml").read_text())
    for dataset in values["datasets"].values():
        dataset["validation"] = 0
    for run in values["runs"].values():
        run["allow"] = ["held_out", "overlap", "learning_rate"]
    (folder / "imported.yaml").write_text(yaml.safe_dump(values | {"tracking": {"mlflow": False}}))
    targets = [f"results/{run}/train.json" for run in found["runs"]]
    subprocess.run(snakemake(folder, "--configfile", "imported.yaml", "--cores", 2, *targets), cwd=folder, check=True)
    records = [(folder / f"results/{run}/train.jsonl").read_text().splitlines() for run in found["runs"]]
    return {name: [json.loads(line)["loss"] for line in lines] for name, lines in zip(names, records, strict=True)}


if __name__ == "__main__":
    main()
