"""`posttrain schema`: regenerate config/schema.json and the tables of config/README.md and docs/import-keys.md."""

import argparse


def run(options: argparse.Namespace) -> None:
    """Write the generated files, or with --check compare them."""
    from posttrain.config import documentation
    from posttrain.importing import documentation as importing

    documentation.write(options.check)
    documentation.write(options.check, importing.generated())
