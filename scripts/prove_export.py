"""Prove an export: load it from disk by the program that runs it, and compare what it says with the unquantised model.

Reads the proof's spec (rows, suites, limits), the export, and what the unquantised model says on the same rows; writes the proof. An
export that misses a limit is not proved: the sentence has the figures, and no proof is written.

    python scripts/prove_export.py --spec results/dpo_lora/export/spec.json --kind nf4 --export results/dpo_lora/export/nf4 \
        --reference results/dpo_lora/export/reference.parquet --model results/dpo_lora/merged \
        --manifest results/dpo_lora/merge.json --parent results/bases/smollm2/model --before results/bases/smollm2/base.json \
        --output results/dpo_lora/export/nf4.json
"""

from pathlib import Path

from posttrain.exports import EXPORTS
from posttrain.metrics.statistics import shown, verdict
from posttrain.provenance.records import sealed
from posttrain.runtime.atomic import read_json, write_json
from posttrain.runtime.console import Clock, say
from posttrain.runtime.hashes import folder_hashes, sha256, visible_files
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    from posttrain.data import conversations
    from posttrain.export import proof, reference
    from posttrain.models import adapters, loading

    clock, spec = Clock(), read_json(options.spec)
    name, rows = spec["model"]["name"], reference.read(options.reference)
    tokenizer = loading.tokenizer(options.model)
    stops = conversations.stops(reference.weights(options.model), tokenizer)
    program = proof.load(options.kind, options.export, options.parent, options.before)
    found = proof.measure(program, spec, rows, tokenizer, stops)
    found |= {
        "load_seconds": program.load_seconds,
        "tokens_per_second": proof.speed(program, rows, spec, stops),
        "peak_memory_bytes": program.peak_memory(),
        "size_bytes": sum(file.stat().st_size for file in visible_files(options.export)),
    }
    if EXPORTS[options.kind].is_adapter:  # who can serve it, and how far base and adapter are from the trained weights
        record = adapters.record(options.export)
        found |= {key: record[key] for key in ("stages", "servers", "weights") if key in record}
    program.close()
    proof.check(name, options.kind, found, spec["limits"])
    made = {"program": program.name, "program_version": program.version, "limits": spec["limits"]}
    records = {key: sha256(getattr(options, key)) for key in ("spec", "reference", "manifest")}
    records |= {"files": folder_hashes(options.export)}
    result = {"run": name, "kind": options.kind, **made, **found, **records, "seconds": clock.seconds()}
    write_json(options.output, sealed(result))
    tell(result)


def tell(result: dict) -> None:
    """Say what was found, in a line; each metric in a line of the details."""
    ratio, agreement, speed = (result.get(key) for key in ("perplexity_ratio", "greedy_agreement", "tokens_per_second"))
    parts = [f"{result['size_bytes'] / 1e6:,.0f} MB"]
    if ratio:
        parts.append(f"perplexity {ratio['value']:.3f} times ({ratio['low']:.3f} to {ratio['high']:.3f})")
        parts.append(f"the same likeliest token at {agreement['value']:.1%} of {agreement['tokens']:,}")
    parts += [f"{speed:.0f} tokens/s"] if speed else []
    (against,) = result["against"].values()
    for metric, row in result["metrics"].items():
        other = f", {verdict(against[metric])}" if metric in against else ""
        low, high = shown(metric, row["low"]), shown(metric, row["high"])
        say(f"  {metric} {shown(metric, row['value'])} ({low} to {high}){other}", "detail")
    for suite, rows in result.get("cases", {}).items():
        red = [f"{row['id']}{' (green unquantised)' if row['before'] else ''}" for row in rows if not row["passed"]]
        parts.append(
            f"{suite}: {len(rows) - len(red)} of {len(rows)} cases green{', red: ' * bool(red)}{', '.join(red)}"
        )
    worse = [metric for metric, row in against.items() if row["verdict"] == "worse"]
    parts.append(f"worse in {', '.join(worse)}" if worse else "no metric worse than unquantised")
    say(f"{result['run']}: {EXPORTS[result['kind']].words}: {', '.join(parts)}", "summary")


if __name__ == "__main__":
    paths = ("spec", "export", "reference", "model", "manifest", "parent", "before", "output")
    run(arguments(__doc__, kind=str, **dict.fromkeys(paths, Path)), main)
