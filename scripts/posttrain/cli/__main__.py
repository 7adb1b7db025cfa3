"""`python -m posttrain.cli`."""

from posttrain.cli.main import main

main()
