"""Reference log-probabilities: the parent's, of every chosen and rejected completion, once for all its DPO runs.

Reads a model and the tokens of a preference dataset's training rows; writes one Parquet file, row by row as the tokens.
The model is held as it is while a run trains on it, which the file's name says (see `methods.reference_form`): `,nf4` in 4 bits, for
a QLoRA; `,whole` with all weights in float32, for full fine-tuning; `,fp32` or `,bf16` in that arithmetic.

    python scripts/compute_logprobs.py --model results/sft_lora/merged \
        --tokens results/tokens/smollm2/snips_pairs,max_length=1024 \
        --output results/sft_lora/logprobs/snips_pairs,max_length=1024.parquet
"""

from pathlib import Path

from posttrain.runtime import processes, team_cache
from posttrain.runtime.atomic import whole_file
from posttrain.runtime.console import Clock, say
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from posttrain.inference import media, scoring
    from posttrain.inference.sharing import shared
    from posttrain.models import loading
    from posttrain.training.inputs import check_dataset_type

    check_dataset_type(options.tokens / "report.json", "dpo", options.tokens.name.split(",")[0])
    name, key = options.output.parent.parent.name, team_key(options) if team_cache.is_used() else ""
    if processes.by_main(lambda: team_cache.fetch_file(name, key, options.output)):
        return
    clock = Clock()
    model = loading.parent(options.model, form(options.output)).eval()
    rows = pq.read_table(options.tokens / "train.parquet").to_pylist()
    found = scoring.reference(model, rows, each=shared, files=media.of_tokens(rows, options.tokens))
    if not processes.is_main():
        return
    chosen, rejected = (pa.array(scores, pa.float32()) for scores in found)
    columns = {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    with whole_file(options.output) as file:
        pq.write_table(pa.table(columns), file)
    team_cache.store(name, key, options.output)
    say(f"{name}: reference log-probabilities of {len(rows)} pairs in {clock.seconds():.0f} s", "summary")


def team_key(options) -> str:
    """The key in the team's cache: the stage's version, how the reference is held, its weights, the tokens."""
    from posttrain.inference import reward_models
    from posttrain.models import loading
    from posttrain.training.inputs import content
    from posttrain.workflow.specs import VERSIONS

    held = form(options.output)
    files = (reward_models.manifest(options.model.parent), options.tokens / "train.parquet")
    stage = ("logprobs", str(VERSIONS["logprobs"]), held["method"], loading.precision(held["precision"]))
    return team_cache.key([*stage, *map(content, files)])


def form(output: Path) -> dict[str, str]:
    """Method and precision of the runs whose reference this is, as far as they say how it is held."""
    parts = output.stem.split(",")
    held = {"nf4": "qlora", "whole": "full"}
    return {
        "method": next((held[part] for part in parts if part in held), "lora"),
        "precision": next((part for part in parts if part in ("fp32", "bf16")), "auto"),
    }


if __name__ == "__main__":
    run(arguments(__doc__, model=Path, tokens=Path, output=Path), main, replicas=True)
