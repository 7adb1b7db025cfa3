"""`posttrain why`: what would be built for a target, and why."""

import argparse
import json

from posttrain.cli import configuration


def run(options: argparse.Namespace) -> None:
    """Print what would be built, parents first, each with its reasons."""
    from posttrain.provenance.explain import why
    from posttrain.provenance.missing import gone

    project, file = configuration.project(options)
    target = options.targets[0]
    changes, model = why(project, target, file), project.model_named(target)
    lost = gone(project, [model]) if model else []
    if options.json:
        print(json.dumps({"changes": [change._asdict() for change in changes], "gone": lost}, ensure_ascii=False))
        return
    if changes or not lost:
        print("\n".join(map(str, changes)) or f"nothing: {target} is up to date")
    print("".join(f"{line}\n" for line in lost), end="")
