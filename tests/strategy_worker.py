"""One of two processes that train one cell of tests/matrix/test_strategies.py after the other, each by the real scripts.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=PORT python tests/strategy_worker.py FOLDER CELL...

A cell is OBJECTIVE:METHOD:STRATEGY:MODE, where MODE is `train`, `kill` (at the third step, with a checkpoint), `resume` or
`unpatched` (without what lets accelerate share out a model on a CPU). FOLDER/strategies.jsonl gets one line a cell. The processes end
at the first cell that fails, since they would wait for each other.
"""

import contextlib
import gc
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from unittest.mock import patch

import test_matrix as matrix
import torch
from accelerate.state import AcceleratorState

from posttrain.compat import accelerate_state
from posttrain.models import loading
from posttrain.runtime import processes
from posttrain.runtime.errors import UserError
from posttrain.training import callbacks, checkpoints, results


class Killed(Exception):
    """What stands for kill -9 here: nothing of ours handles it."""


def die(self, args, state, *_, **__) -> None:
    processes.barrier()
    if processes.is_main():
        checkpoints.seal(self.folder / f"checkpoint-{state.global_step}")
    processes.barrier()
    raise Killed


def train(objective: str, method: str, strategy: str, mode: str) -> dict:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # of the cell before
    for variable in [name for name in os.environ if name.startswith(("ACCELERATE_USE_", "FSDP_"))]:
        del os.environ[variable]
    gc.collect()
    os.environ["POSTTRAIN_HARDWARE"] = json.dumps({"processes": processes.count(), "strategy": strategy})
    name = f"{objective}_{method}"
    run = Path("results") / name
    if processes.is_main() and mode != "resume":
        for part in ("checkpoints", "trained"):
            shutil.rmtree(run / part, ignore_errors=True)
    processes.barrier()
    with contextlib.ExitStack() as stack:
        if mode == "kill":
            stack.enter_context(patch.object(callbacks.SaveCheckpoints, "on_step_end", matrix.save_at_step_3))
            stack.enter_context(patch.object(callbacks.SaveCheckpoints, "on_save", die))
            stack.enter_context(contextlib.suppress(Killed))
        if mode == "unpatched":
            stack.enter_context(patch.object(accelerate_state, "shard_on_cpu", lambda **_: None))
            original = getattr(AcceleratorState.__init__, "__wrapped__", AcceleratorState.__init__)
            stack.enter_context(patch.object(AcceleratorState, "__init__", original))
        if objective == "dpo" and processes.is_main():
            shutil.copy(f"logprobs_{method}.parquet", "logprobs.parquet")
        processes.barrier()
        matrix.SCRIPTS[objective].main(matrix.options(objective, name))
    processes.barrier()
    if mode == "kill":
        return {}
    steps = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    kept = Path(f"{run}_{strategy}_{mode}")
    if processes.is_main():
        shutil.copytree(run / "trained", kept, dirs_exist_ok=True)
    return {
        "losses": [step["loss"] for step in steps],
        "resumed_from": json.loads((run / "train.json").read_text())["resumed_from"],
        "trained": str(kept),
    }


def main(folder: str, *cells: str) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    loading.precision = lambda wanted: "fp32"
    results.take_over = lambda folder: False
    processes.join()
    for cell in cells:
        error = None
        try:
            found = train(*cell.split(":"))
        except UserError as refused:
            found = {"refused": f"{refused.problem}; {refused.hint}"}
        except Exception as failed:  # whatever a library raises
            traceback.print_exc()
            found, error = {"error": f"{type(failed).__name__}: {failed}"}, failed
        if processes.is_main():
            with Path("strategies.jsonl").open("a") as file:
                file.write(json.dumps({"cell": cell} | found) + "\n")
        if error:
            os._exit(1)  # without waiting for the other process


if __name__ == "__main__":
    main(*sys.argv[1:])
