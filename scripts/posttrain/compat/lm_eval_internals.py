"""Private parts of lm-evaluation-harness.

Checked with lm-eval 0.4.13, whose public interface cannot tell which names are tasks and read a task's file without running the
functions that it names. They can go once `TaskManager` does both.
"""

from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

__all__ = ["Kind", "load_yaml"]
CHECKED = {"lm_eval": "0.4.13"}
