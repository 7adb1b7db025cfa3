"""The GSM8K example beside one plain TRL script that does the same work, and a sweep beside separate chains, in one run.

    python bench/pipeline.py

The example is config/examples/gsm8k.yaml. Both sides go from the base's folder to the last evaluation; the results of both are
printed. A sweep over the rank of `dpo_lora` shares everything but each point's own preflight, DPO, merge and evaluation, whose
time is measured as that of the chain's last command. Jobs that train run one after the other, so n points take
`chain + (n - 1) x point`.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from aims import tell
from common import BASE, CORES, REPOSITORY, parser, project, snakemake, timed

SHARED = ["results/sft_lora/eval.json", "results/sft_lora/logprobs/gsm8k_pairs,max_length=1024.parquet"]


def main() -> None:
    parser(__doc__).parse_args()
    base = project() / "results/bases"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(REPOSITORY / "examples", folder / "examples")
        shutil.copytree(base, folder / "results/bases")
        shutil.copytree(base.parents[1] / ".snakemake/metadata", folder / ".snakemake/metadata")

        def build(*targets: str) -> float:
            command = ["--configfile", REPOSITORY / "config/examples/gsm8k.yaml", "--cores", CORES, *targets]
            return timed(snakemake(folder, *command), folder, folder / "ours.log")

        shared, point = build(*SHARED), build("results/dpo_lora/eval.json")
        script = [sys.executable, REPOSITORY / "bench/plain_trl.py", BASE, folder / "examples/data", folder / "plain"]
        plain = timed(script, folder, folder / "plain.log")
        for name in ("smollm2", "sft_lora", "dpo_lora"):
            metrics = json.loads((folder / f"results/{name}/eval.json").read_text())["metrics"]
            print(f"ours {name}: " + ", ".join(f"{key} {metric['value']:.3f}" for key, metric in metrics.items()))
        print(
            "".join(
                f"plain {line}\n" for line in (folder / "plain.log").read_text().splitlines() if "perplexity" in line
            )
        )
    chain = shared + point
    print(f"pipeline {chain:.0f} s, of which a sweep's point {point:.0f} s; the plain script {plain:.0f} s")
    tell("pipeline wall, ours / a plain TRL script", chain / plain)
    for points, name in ((4, "sweep of 4 / four chains"), (16, "sweep of 16 / sixteen chains")):
        tell(name, (chain + (points - 1) * point) / (points * chain))


if __name__ == "__main__":
    main()
