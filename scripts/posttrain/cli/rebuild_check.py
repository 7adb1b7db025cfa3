"""`posttrain rebuild-check`: train a run again elsewhere and compare the bits."""

import argparse
import sys

from posttrain.cli import configuration


def run(options: argparse.Namespace) -> None:
    """Print what differs; exit status 1 where something does."""
    from posttrain.provenance.rebuild import rebuild_check

    found = rebuild_check(*configuration.project(options), options.targets[0])
    print("\n".join(found) or "the same bits")
    if found:
        sys.exit(1)
