"""`posttrain init`: a new project in a folder."""

import argparse
import shlex
from pathlib import Path


def run(options: argparse.Namespace) -> None:
    """Write the project and print the next commands."""
    from posttrain.guidance import project

    folder = Path(options.folder)
    written = project.start(folder)
    print(
        f"{options.folder} is a project now: {', '.join(name for name in written if not name.startswith('profiles/'))}, profiles/"
    )
    print("Next:")
    if folder.resolve() != Path.cwd():
        print(f"  cd {shlex.quote(options.folder)}")
    print("  snakemake --cores 1 results/dpo_lora/eval.json    # trains and measures it: some 10 minutes on two cores")
    print("  posttrain table smollm2 sft_lora dpo_lora         # the models side by side")
    print("  posttrain recommend --output config/mine.yaml     # a configuration for your GPU, model, aim and data")
