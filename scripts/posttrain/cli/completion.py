"""`posttrain completion`: the lines that make a shell complete commands and names."""

import argparse


def run(options: argparse.Namespace) -> None:
    """Print the lines; a shell's start-up file evaluates them."""
    import argcomplete

    print(argcomplete.shellcode(["posttrain"], shell=options.shell))
