"""What a base in bfloat16 keeps of training: SFT and DPO of SmolLM2 on GSM8K, cast to bfloat16, merged, evaluated, shipped.

    python bench/merges.py

The workflow builds both runs. Printed for each: the effect of training on the logits, and how far the merged and the shipped model
are from the trained one as a share of it. Then the mean margin of DPO on the held-out pairs, log-probability of the chosen minus
the rejected answer, each against the SFT model: of the trained model (base and both adapters in float32), as eval.json has it, of
the weights that a child in bfloat16 arithmetic holds, as that arithmetic sees them, and of the merged model rounded to bfloat16,
with the share of the update that its weights keep. Last, how far a pair moves with threads and batches, and the seconds of the
evaluation, in fp32 and in bf16.
"""

import json
import os
import sys
import time
from pathlib import Path

import yaml
from common import BASE, REPOSITORY, parser, project, snakemake, timed

sys.path.insert(0, str(REPOSITORY / "scripts"))

RUNS = ("sft_lora", "dpo_lora")
PAIRS = "gsm8k_pairs,max_length=1024/validation.parquet"
CHILD = {"method": "lora", "precision": "bf16"}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, default=REPOSITORY / ".bench/merges", help="where the runs are built")
    options.add_argument("--base", type=Path, default=None, help="SmolLM2's folder, instead of the demo's own base")
    options = options.parse_args()
    folder = options.folder.resolve()
    config = prepare(folder, options.base.resolve() if options.base else base())
    target = f"results/{RUNS[-1]}/eval.json"
    seconds = timed(snakemake(folder, "--configfile", config, "--cores", 2, target), folder, folder / "build.log")
    print(f"built in {seconds:.0f} s")
    os.chdir(folder)
    for run in RUNS:
        tell(run)
    margins()
    steady()
    times()


def base() -> Path:
    project()
    return BASE


def prepare(folder: Path, source: Path) -> Path:
    """The base in bfloat16 and config/examples/gsm8k.yaml on it."""
    import torch

    from posttrain.models import loading

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "bf16/config.json").exists():
        loading.save(loading.load(source, torch.bfloat16), loading.tokenizer(source), folder / "bf16")
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(REPOSITORY / "examples")
    values = yaml.safe_load((REPOSITORY / "config/examples/gsm8k.yaml").read_text())
    values["bases"]["smollm2"] = {"source": "path", "path": "bf16", "licence": "apache-2.0"}
    values["tracking"] = {"mlflow": False}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    return config


def tell(run: str) -> None:
    """What merge.json says of a run, and what a bfloat16 copy would keep."""
    proof = json.loads(Path(f"results/{run}/merge.json").read_text())
    print(f"{run}: effect {proof['effect']:.4f}, merged {proof['relative']:.2e} of it away")
    shipped = proof["shipped"]
    print(f"{run}: ships in {shipped['dtype']}, {shipped['relative']:.2e} of it away")


def margins() -> None:
    """The mean held-out margin of DPO, by four ways to hold what was trained."""
    import torch

    from posttrain.models import loading, merge_proof

    parent = loading.load(Path("results/sft_lora/merged"), torch.float32, arithmetic="fp32")
    reference = differences(parent)
    start = loading.add_adapter(
        loading.load(Path("bf16"), torch.float32, arithmetic="fp32"), Path("results/sft_lora/trained")
    )
    trained = loading.add_adapter(start.merge_and_unload(), Path("results/dpo_lora/trained"))
    truth = differences(trained) - reference
    say("trained model, adapters in fp32", truth, truth)
    said = json.loads(Path("results/dpo_lora/eval.json").read_text())["metrics"]["preference_margin"]["value"]
    print(f"margin as eval.json has it: {said:+.4f}, {said - truth.mean().item():+.4f} from the trained one's")
    merged = Path("results/dpo_lora/merged")
    held = [loading.parent(Path("results", run, "merged"), CHILD).float() for run in RUNS]
    for model in held:
        model.arithmetic = "fp32"
    say("of the weights that a child holds", differences(held[1]) - differences(held[0]), truth)
    del held
    child = differences(loading.parent(merged, CHILD)) - differences(
        loading.parent(merged.parents[1] / "sft_lora/merged", CHILD)
    )
    say("as a child sees it, in bf16 arithmetic", child, truth)
    rounded = loading.load(merged, torch.bfloat16).float()
    rounded.arithmetic = "fp32"
    say("of the merged model in bf16 weights", differences(rounded) - reference, truth)
    prompts = merge_proof.real_prompts(Path("results/tokens/smollm2", PAIRS).parent)
    logits = [merge_proof.logits(model.eval(), prompts) for model in (parent, trained, rounded)]
    proof = merge_proof.Reference(logits[0], logits[1]).measure(logits[2])
    kept = merge_proof.kept(Path("results/sft_lora/merged"), merged, torch.bfloat16)
    print(
        f"a bf16 copy of dpo_lora is {proof['relative']:.3f} of the effect away, its weights keep {kept:.3f} of the update"
    )


def steady() -> None:
    """How far the held-out pairs' differences move between one thread and two, and between batches, in both arithmetics."""
    import torch

    from posttrain.models import loading

    for precision in ("fp32", "bf16"):
        model = loading.load(Path("results/dpo_lora/merged"), torch.float32, arithmetic=precision)
        found = []
        for threads, batch_tokens in ((1, 1024), (2, 1024), (1, 512)):
            torch.set_num_threads(threads)
            found.append(differences(model, batch_tokens))
        moved = max((other - found[0]).abs().max().item() for other in found[1:])
        print(f"in {precision} a pair moves by up to {moved:.1e} nats with threads and batches")


def differences(model, batch_tokens: int = 1024):
    """Log-probability of the chosen minus the rejected answer of each held-out pair (n,)."""
    import pyarrow.parquet as pq
    import torch

    from posttrain.inference import scoring

    rows = pq.read_table(Path("results/tokens/smollm2", PAIRS)).to_pylist()
    sides = [[scoring.answer(row["prompt_ids"], row[f"{side}_ids"]) for row in rows] for side in ("chosen", "rejected")]
    totals = [
        torch.tensor([total for total, _ in scoring.log_probs(model.eval(), side, batch_tokens)]) for side in sides
    ]
    return totals[0] - totals[1]


def say(name: str, margin, truth) -> None:
    """One line of margins, with their distance from the trained model's."""
    pairs = (margin - truth).abs().mean().item()
    mean = margin.mean().item()
    print(f"margin {name}: {mean:+.4f}, {mean - truth.mean().item():+.4f} from the trained one's, {pairs:.4f} a pair")


def times() -> None:
    """Seconds of the DPO run's evaluation in both arithmetics, on one thread."""
    import torch

    torch.set_num_threads(1)
    for precision in ("fp32", "bf16"):
        start = time.perf_counter()
        evaluate(precision)
        print(f"evaluation in {precision}, one thread: {time.perf_counter() - start:.0f} s")


def evaluate(precision: str) -> None:
    """What evaluate_model.py measures of the DPO run, with nothing remembered."""
    import evaluate_model
    from posttrain.evaluation import suites
    from posttrain.models import loading
    from posttrain.runtime.atomic import read_json

    spec = read_json(Path("results/dpo_lora/eval/spec.json")) | {"precision": precision}
    answers = Path(f"answers_{precision}.jsonl")
    answers.unlink(missing_ok=True)
    folder, tokens = Path("results/dpo_lora/merged"), Path("results/tokens/smollm2")
    model, tokenizer = evaluate_model.load(folder, spec), loading.tokenizer(folder)
    data = {folder.name: folder for folder in Path("results/data").iterdir()}
    evaluate_model.measure(suites.Candidate("dpo_lora", model, tokenizer, tokens, answers, precision, spec, data, {}))


if __name__ == "__main__":
    main()
