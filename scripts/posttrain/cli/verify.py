"""`posttrain verify`: whether results are still what was built."""

import argparse
import sys

from posttrain.cli import configuration


def run(options: argparse.Namespace) -> None:
    """Print a line for each result; exit status 1 where one is not as it was built."""
    from posttrain.provenance.verify import verify

    findings = []
    for finding in verify(configuration.project(options)[0], options.targets):
        print(finding, flush=True)
        findings.append(finding)
    if any(finding.wrong for finding in findings):
        sys.exit(1)
