"""Where a Snakemake command notes which configuration it read."""

from pathlib import Path

# What asks a stage to stop: Ctrl-C, a scheduler that ends or warns a job, a terminal that is closed.
READ_LAST = Path("results/.configuration")  # names the file that the last Snakemake command here read
