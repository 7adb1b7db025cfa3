"""`posttrain schema`: regenerate config/schema.json and the tables of config/README.md from the models of the configuration."""

import argparse

from posttrain.config import documentation


def run(options: argparse.Namespace) -> None:
    """Write the generated files, or with --check compare them."""
    documentation.write(options.check)
