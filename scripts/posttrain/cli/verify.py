"""`posttrain verify`: whether results are still what was built."""

import argparse
import sys

from posttrain.cli import configuration


def run(options: argparse.Namespace) -> None:
    """Print a line for each result; exit status 1 where one is not as it was built."""
    from posttrain.provenance.missing import rebuild
    from posttrain.provenance.verify import verify

    project, _ = configuration.project(options)
    findings = []
    for finding in verify(project, options.targets):
        print(finding, flush=True)
        if finding.is_damaged:
            print(f"    to build it again: {rebuild(project, finding.name, finding.wrong)}")
        findings.append(finding)
    if any(finding.wrong for finding in findings):
        sys.exit(1)
