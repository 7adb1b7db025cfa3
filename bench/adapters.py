"""Several adapters on one base, on the demo's models: are the answers those of the merged models, and what does sharing batches save?

    snakemake --cores 1 results/sft_lora/export/adapter.json results/dpo_lora/export/adapter.json
    python bench/adapters.py --results results

48 held-out commands are each asked of the base, of sft_lora or of dpo_lora, by 16 clients at once, each of which asks again when it has
its answer; the faster of two times counts. The other road is one request at a time, with PEFT's `set_adapter` before it. Printed: how
far base and adapter are from the merged model of dpo_lora in logits; how many answers are equal to those that the merged models give
alone; tokens/s of both roads and their ratio.
"""

import argparse
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))
CLIENTS, REQUESTS, TOKENS = 16, 48, 64  # of the answers, at most
NAMES = ("smollm2", "sft_lora", "dpo_lora")

Request = tuple[str, list[int]]
"""The name of the model, and a prompt's tokens."""


def main(options: argparse.Namespace) -> None:
    import pyarrow.parquet as pq
    import torch

    from posttrain.inference import scoring
    from posttrain.models import adapters, loading, merge_proof

    results = options.results
    base = results / "bases/smollm2/model"
    folders = {name: results / name / "export/adapter" for name in NAMES[1:]}
    models = {name: loading.load(results / name / "merged", torch.float32, arithmetic="fp32") for name in NAMES[1:]}
    models["smollm2"] = loading.load(base, torch.float32, arithmetic="fp32")
    tokenizer = loading.tokenizer(base)
    file = results / "tokens/smollm2/snips,max_length=1024/validation.parquet"
    rows = pq.read_table(file).slice(0, options.requests).to_pylist()
    prompts = [row["input_ids"][: next(i for i, label in enumerate(row["labels"]) if label >= 0)] for row in rows]

    start, trained = (merge_proof.logits(models[name], prompts[:8]) for name in ("smollm2", "dpo_lora"))
    found = merge_proof.logits(adapters.load(base, folders["dpo_lora"]), prompts[:8])
    proof = merge_proof.Reference(start, trained).measure(found)
    print(f"dpo_lora, {proof['n']} positions: training moved logits by {proof['effect']:.3g} on average")
    print(f"base and adapter are {proof['relative']:.2g} of that from the merged model (limit {merge_proof.MERGED})")

    requests = [(NAMES[i % 3], prompt) for i, prompt in enumerate(prompts)]
    wanted = [scoring.generate_batch(models[name], tokenizer, [p], TOKENS)[0].ids for name, p in requests]
    del models
    model, internal = adapters.load_several(base, folders, base_name="smollm2")
    shared, answers = min((at_once(model, tokenizer, internal, requests) for _ in range(2)), key=lambda run: run[0])
    equal = sum(a == b for a, b in zip(answers, wanted, strict=True))
    print(f"{equal} of {len(requests)} answers to {CLIENTS} clients equal those of the merged models, asked alone")
    apart, answers = one_by_one(model, tokenizer, internal, requests)
    equal = sum(a == b for a, b in zip(answers, wanted, strict=True))
    print(f"{equal} of {len(requests)} answers one at a time equal them")
    tokens = sum(map(len, wanted))
    print(f"{tokens / shared:.1f} tokens/s shared, {tokens / apart:.1f} one at a time, ratio {apart / shared:.2f}")


def at_once(model: Any, tokenizer: Any, internal: dict, requests: list[Request]) -> tuple[float, list[list[int]]]:
    """Seconds and answers with all clients at once."""
    from posttrain.serving.backends import Options
    from posttrain.serving.engine import Engine
    from posttrain.serving.engine import Request as Asked

    engine = Engine(model, tokenizer, frozenset(internal.values()))
    engine.start()
    answers: list[list[int]] = [[] for _ in requests]

    def client(first: int) -> None:
        for i in range(first, len(requests), CLIENTS):
            name, prompt = requests[i]
            found: SimpleQueue = SimpleQueue()
            options = Options(most=TOKENS, temperature=0.0, top_p=1.0, seed=None, schema=None)
            engine.submit(Asked(prompt, options, lambda ids, end, found=found: found.put((ids, end)), internal[name]))
            end = None
            while end is None:
                ids, end = found.get()
                answers[i] += ids

    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    engine.stop()
    return seconds, answers


def one_by_one(model: Any, tokenizer: Any, internal: dict, requests: list[Request]) -> tuple[float, list[list[int]]]:
    """Seconds and answers with the adapter switched before each request."""
    from posttrain.inference import scoring
    from posttrain.models.adapters import NO_ADAPTER

    begin, answers = time.perf_counter(), []
    for name, prompt in requests:
        if internal[name] == NO_ADAPTER:
            with model.disable_adapter():
                answers.append(scoring.generate_batch(model, tokenizer, [prompt], TOKENS)[0].ids)
        else:
            model.set_adapter(internal[name], inference_mode=True)
            answers.append(scoring.generate_batch(model, tokenizer, [prompt], TOKENS)[0].ids)
    return time.perf_counter() - begin, answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="of the demo, with both adapters exported"
    )
    parser.add_argument("--requests", type=int, default=REQUESTS)
    main(parser.parse_args())
