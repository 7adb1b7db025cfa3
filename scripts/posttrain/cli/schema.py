"""`posttrain schema`: regenerate config/schema.json and the tables of config/README.md."""

import argparse


def run(options: argparse.Namespace) -> None:
    """Write the generated files, or with --check compare them."""
    from posttrain.config import documentation

    documentation.write(options.check)
