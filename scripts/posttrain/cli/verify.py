"""`posttrain verify`: whether results are still what was built."""

import argparse
import json
import sys

from posttrain.cli import configuration


def run(options: argparse.Namespace) -> None:
    """Print a line for each result; exit status 1 where one is not as it was built."""
    from posttrain.provenance.missing import rebuild
    from posttrain.provenance.verify import verify

    project, _ = configuration.project(options)
    findings = []
    for finding in verify(project, options.targets):
        again = rebuild(project, finding.name, finding.wrong) if finding.is_damaged else None
        findings.append(finding._asdict() | {"rebuild": again})
        if not options.json:
            print(finding, flush=True)
            if again:
                print(f"    to build it again: {again}")
    if options.json:
        print(json.dumps({"findings": findings}, ensure_ascii=False))
    if any(finding["wrong"] for finding in findings):
        sys.exit(1)
