"""posttrain: make for LLM post-training. The library that the Snakefile and the stage scripts share."""

__version__ = "0.1.0"
