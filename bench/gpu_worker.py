"""The process in which bench/gpu.py measures its rows, one after the other."""

import json
import os
import sys
import traceback
from pathlib import Path

from gpu_proofs import merged, out_of_memory, resumed
from gpu_rows import Bench, free_memory, generated, machine, ours, scored, trl

WORK = {work.__name__: work for work in (machine, ours, trl, resumed, out_of_memory, merged, generated, scored)}


def serve(folder: Path, dry: bool) -> None:
    """Measure the rows whose functions and arguments come in, a line each, and answer with a line of JSON.

    Everything that libraries print goes where standard error goes.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    bench = Bench(folder, dry)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        row = json.loads(line)
        free_memory()
        try:
            found = WORK[row["work"]](bench, *([row["shape"]] if row["shape"] else []), **row["arguments"])
        except Exception as error:  # whatever a library raises: it is the row's reason
            traceback.print_exc()
            out = "out of memory" in str(error).lower()
            words = " ".join(str(error).split()) or type(error).__name__
            # With full_determinism torch names the operation that has no deterministic implementation.
            kind = "reason" if out or "deterministic" in words else "failed"
            found = {kind: "out of memory" if out else f"{type(error).__name__}: {words[:300]}"}
        print(json.dumps(found), file=answers, flush=True)
