"""What must hold on a GPU, for bench/gpu.py's table: resuming, the answer to want of memory, the merge."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_inputs as inputs
import torch
from common import REPOSITORY
from gpu_rows import CUDA, Bench, free_memory, options, train
from peft import PeftModel
from safetensors.torch import load_file

from posttrain.models import loading
from posttrain.runtime import atomic, hashes
from posttrain.training import callbacks
from posttrain.training import inputs as stage_inputs


def adapter(given: Namespace) -> Path:
    """What a run trained."""
    return given.spec.parent / "trained" / "adapter_model.safetensors"


def difference(a: Path, b: Path) -> float:
    """The largest difference of two adapters' weights."""
    one, other = load_file(a), load_file(b)
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


def resumed(bench: Bench, shape: str, **keys: Any) -> dict[str, Any]:
    """Kill a training with signal 9 in the middle of a step, type the same command again, and compare the adapters.

    Where they differ, a second undisturbed training says whether two of those agree.
    """
    straight = options(bench, "straight", "sft", "lora", shape, **keys)
    train("sft", straight)
    kept = shutil.copy(adapter(straight), "straight.safetensors")
    command = [sys.executable, Path(__file__).with_name("gpu.py"), inputs.KILL, bench.folder, shape, json.dumps(keys)]
    command += ["--dry-run"] if bench.dry else []
    ended = subprocess.run(list(map(str, command)), cwd=REPOSITORY, stdin=subprocess.DEVNULL).returncode
    if ended != -signal.SIGKILL:
        raise RuntimeError(f"the training that was to be killed ended with status {ended}")
    killed = options_kept(bench, "killed", shape)
    train("sft", killed)
    begun = atomic.read_json(killed.spec.parent / "train.json")["resumed_from"]
    if begun is None:
        raise RuntimeError("the killed training left no checkpoint")
    digests = hashes.sha256(Path(kept)), hashes.sha256(adapter(killed))
    if digests[0] == digests[1]:
        return {"note": f"killed after {begun}; the same bits, sha256 {digests[0][:12]}"}
    apart = difference(Path(kept), adapter(killed))
    train("sft", options(bench, "straight", "sft", "lora", shape, **keys))
    again = difference(Path(kept), adapter(straight))
    return {"note": f"killed after {begun}; differs by {apart:.2g}; two undisturbed trainings differ by {again:.2g}"}


def options_kept(bench: Bench, name: str, shape: str) -> Namespace:
    """The options of a run that has begun."""
    made, model = bench.rows("sft", shape), bench.model(shape)
    return Namespace(spec=Path(f"results/{name}/spec.json"), parent=model, manifest=model / "config.json", tokens=made)


def killed(folder: Path, shape: str, keys: dict[str, Any], dry: bool) -> None:
    """Train with checkpoints, and end by signal 9 while a step is computed. Called in a process of its own."""

    class Killed(callbacks.SaveCheckpoints):
        """Sends the signal half a step after the second half of the training has begun, once there is a checkpoint."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now = time.monotonic()
            sealed = next(self.folder.glob("checkpoint-*/SHA256SUMS"), None)
            if sealed and state.global_step >= state.max_steps // 2:
                delay = (now - self.begun_at) / 2
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            self.begun_at = now

    os.environ["POSTTRAIN_TRACKING"] = json.dumps({"mlflow": False, "checkpoint_seconds": 0})
    bench = Bench(folder, dry)
    callbacks.SaveCheckpoints = Killed
    train("sft", options(bench, "killed", "sft", "lora", shape, **keys))


def out_of_memory(bench: Bench, shape: str) -> dict[str, Any]:
    """A batch that does not fit is split; the result is that of the batch split from the start.

    On a GPU the process is allowed less memory than the whole batch needs; on a CPU the allocator is asked for too much.
    """
    half = bench.work.batch // 2
    split = options(bench, "split", "sft", "lora", shape, accumulation=2)
    least = train("sft", split)[-1]["memory_gib"]
    whole = options(bench, "whole", "sft", "lora", shape)
    most = train("sft", whole)[-1]["memory_gib"]
    tight = options(bench, "tight", "sft", "lora", shape)
    free_memory()
    with no_room(half, least + 0.6 * (most - least)):
        train("sft", tight)
    attempts = atomic.read_json(tight.spec.parent / "train.json")["attempts"]
    if not attempts:
        raise RuntimeError(f"the batch fitted into {least + 0.6 * (most - least):.2f} GiB, though it needed {most:.2f}")
    apart, other = difference(adapter(split), adapter(tight)), difference(adapter(whole), adapter(tight))
    result = "the same bits as" if apart == 0 else f"{apart:.2g} from"
    return {
        "note": f"{attempts[0]['micro_batch']} rows, then {atomic.read_json(tight.spec.parent / 'train.json')['micro_batch']} "
        f"at once: {result} a batch split from the start, {other:.2g} from a whole one"
    }


@contextlib.contextmanager
def no_room(rows_at_once: int, gib: float) -> Iterator[None]:
    """Let no more than so many rows fit."""
    if CUDA:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    load = stage_inputs.load_parent

    def greedy(*arguments: Any, **named: Any) -> Any:
        model = load(*arguments, **named)

        def forward(module: Any, _: Any, given: dict[str, Any]) -> None:
            if len(given["input_ids"]) > rows_at_once:
                torch.empty(1 << 60, dtype=torch.uint8)

        model.model.register_forward_pre_hook(forward, with_kwargs=True)
        return model

    stage_inputs.load_parent = greedy
    try:
        yield
    finally:
        stage_inputs.load_parent = load


def merged(bench: Bench, shape: str) -> dict[str, Any]:
    """How far the merged model is from the trained one, over how far training moved it, merged in float32 and in bf16.

    The adapter is one that was trained; all logits are computed in float32.
    """
    given = options(bench, "merge", "sft", "lora", shape, learning_rate=1e-3)
    train("sft", given)
    ids = torch.tensor([inputs.sft_rows(bench.work, 256)["input_ids"][0][:256]], device=loading.DEVICE)

    @torch.no_grad()
    def logits(model: Any) -> torch.Tensor:
        return model.eval()(input_ids=ids).logits[0].float().cpu()

    parent = loading.load(given.parent, dtype=torch.float32)
    before = logits(parent)
    model = PeftModel.from_pretrained(parent, adapter(given).parent)
    trained = logits(model)
    model = model.merge_and_unload()
    in_fp32 = logits(model)
    in_bf16 = logits(model.to(torch.bfloat16).float())
    effect = (trained - before).abs().mean().item()
    shares = [(found - trained).abs().mean().item() / effect for found in (in_fp32, in_bf16)]
    return {"note": f"distance over effect: {shares[0]:.2g} in fp32, {shares[1]:.2g} in bf16 (effect {effect:.2g})"}
