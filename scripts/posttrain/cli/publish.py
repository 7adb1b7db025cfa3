"""`posttrain publish`: put a run's model, or one of its exports, on the Hugging Face Hub, with its card."""

import argparse
import logging
import sys

from posttrain.cli import configuration


def run(options: argparse.Namespace) -> None:
    """Show what is sent, and send it unless this is a dry run."""
    project, _ = configuration.project(options)
    from huggingface_hub.utils import disable_progress_bars

    from posttrain.provenance import publishing
    from posttrain.workflow import paths

    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it tells each try, with addresses that carry a signature
    if not sys.stderr.isatty():
        disable_progress_bars()
    name = project.run(paths.target(options.run).name).name
    upload = publishing.prepare(project, name, options.repository, options.export)
    sizes = upload.sizes
    for file, count in sorted(sizes.items()):
        print(f"{count:>15,}  {file}")
    print(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files of {name}, for {options.repository}\n")
    print(upload.card.split("---\n")[1].strip() + "\n")
    for part in upload.closed:
        print(f"posttrain: the licence of {part} forbids to give away what is made from it", file=sys.stderr)
    if options.dry_run:
        print("nothing was sent: --dry-run")
        return
    address = publishing.send(upload, options.private, options.revision, options.replace)
    print(f"published: {address}")
