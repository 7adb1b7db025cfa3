"""One case of bench/memory_cases.py, trained by the workflow's own script in this process: prints its peak memory as JSON."""

import importlib
import json
import os
import sys
from argparse import Namespace
from pathlib import Path

import gpu_inputs as inputs
import pyarrow as pa
import pyarrow.parquet as pq
from memory_cases import CASES, PAIRS, ROWS, SHAPES, Case

PROMPT = "what is the sum of these numbers and why is it so "


def model(case: Case) -> Path:
    """The folder of the case's model, made when it is first asked for; weights are written as a base has them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    folder = Path("models") / case.shape.replace(" ", "_").replace(",", "")
    if not (folder / "model.safetensors").exists():
        special = {"eos_token_id": inputs.EOS, "pad_token_id": inputs.PAD, "bos_token_id": None}
        config = dict(SHAPES[case.shape])
        set_seed(0)
        built = AutoConfig.for_model(config.pop("model_type"), **(config | special))
        AutoModelForCausalLM.from_config(built, dtype=torch.float32).save_pretrained(folder)
        inputs.byte_tokenizer().save_pretrained(folder)
    return folder


def rows(case: Case, folder: Path) -> None:
    """The case's rows as `tokens` or `data` leave them."""
    from posttrain.data import rows as kinds

    folder.mkdir(parents=True, exist_ok=True)
    objective, half = case.keys["objective"], case.length // 2
    ids = [
        [(7 * i + 11 * k) % 250 for k in range(case.length)] for i in range(ROWS * (4 if "packing" in case.keys else 1))
    ]
    if objective == "sft":
        columns = {"id": [f"row{i}" for i in range(len(ids))], "input_ids": ids}
        columns |= {"labels": [[-100] * half + row[half:] for row in ids], "length": [case.length] * len(ids)}
    elif objective in PAIRS:
        columns = {"id": [f"row{i}" for i in range(len(ids))], "prompt_ids": [row[:half] for row in ids]}
        columns |= {"chosen_ids": [row[half:] for row in ids], "rejected_ids": [row[half:][::-1] for row in ids]}
        columns["length"] = [2 * case.length] * len(ids)
    else:
        given = [{"prompt": (PROMPT * 9)[: 190 - i], "completion": "12"} for i in range(ROWS)]
        made = [kinds.normalise(row, "prompt_completion", {}, f"row {i}") for i, row in enumerate(given)]
        pq.write_table(pa.Table.from_pylist(made, schema=kinds.schema("messages")), folder / "train.parquet")
        columns = None
    if columns:
        for name in ("train", "validation"):
            table = pa.table(columns)
            pq.write_table(table if name == "train" else table.slice(0, 4), folder / f"{name}.parquet")
    kind = "preference" if objective in PAIRS else "messages"
    for name in ("data.json", "report.json"):
        (folder / name).write_text(json.dumps({"shape": kind}))


def measure(number: int) -> None:
    """Train a case; the last line of its output is what it took."""
    case, objective = CASES[number], CASES[number].keys["objective"]
    base, run, data = model(case), Path(f"results/case{number}"), Path(f"rows{number}")
    run.mkdir(parents=True, exist_ok=True)
    (run / "spec.json").write_text(json.dumps(case.spec))
    rows(case, data)
    given = {"spec": run / "spec.json", "parent": base, "manifest": base / "config.json", "tokens": data, "data": data}
    logprobs = data / "logprobs.parquet" if objective == "dpo" else None
    if logprobs:  # another process in the workflow: its memory is not part of the peak
        columns = {f"ref_{side}_logps": [-float(case.length)] * ROWS for side in ("chosen", "rejected")}
        pq.write_table(pa.table(columns), logprobs)
    script = "train_grpo" if objective == "rloo" else f"train_{objective}"
    importlib.import_module(script).main(Namespace(reward_models=[], logprobs=logprobs, **given))
    made = json.loads((run / "train.json").read_text())
    print(json.dumps({"name": case.name, "shape": case.shape, "gib": made["memory_gib"], "attempts": made["attempts"]}))


def main() -> None:
    """Each case in a process of its own, forked when the libraries are imported, as the workflow's stages are."""
    import peft  # noqa: F401
    import trl.trainer.dpo_trainer
    import trl.trainer.grpo_trainer
    import trl.trainer.reward_trainer
    import trl.trainer.sft_trainer  # noqa: F401

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    numbers = list(map(int, sys.argv[2:])) or range(len(CASES))
    for number in numbers:
        for case in (CASES[number],):
            if not (Path("models") / case.shape.replace(" ", "_").replace(",", "") / "model.safetensors").exists():
                child = os.fork()
                if not child:
                    model(case)
                    os._exit(0)
                os.waitpid(child, 0)
        child = os.fork()
        if not child:
            try:
                measure(number)
                sys.stdout.flush()
            except BaseException as error:
                import traceback

                traceback.print_exc()
                print(json.dumps({"name": CASES[number].name, "error": str(error)[:300]}), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
