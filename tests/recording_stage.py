"""scripts/train_sft.py, noting which rows each process trains in each step: `rows-{rank}.jsonl` in the working folder.

With FAIL=out-of-memory in the environment the last process has no memory for more than one row; with FAIL=not-finite it has a row
whose loss is not a number.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import train_sft
from posttrain.runtime import processes, script


def main(options) -> None:
    from transformers import Trainer

    original = Trainer.training_step

    def training_step(self, model, inputs, *arguments):
        rows = zip(
            inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), inputs["labels"].tolist(), strict=True
        )
        trained = [
            [i for i, is_there in zip(ids, mask, strict=True) if is_there]
            for ids, mask, labels in rows
            if set(labels) != {-100}
        ]
        with Path(f"rows-{processes.rank()}.jsonl").open("a") as file:
            file.write(json.dumps([self.state.global_step, trained]) + "\n")
        if processes.rank() == processes.count() - 1:
            if os.environ.get("FAIL") == "out-of-memory" and len(trained) > 1:
                raise RuntimeError("out of memory")
            if os.environ.get("FAIL") == "not-finite":
                next(p for p in self.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        return original(self, model, inputs, *arguments)

    Trainer.training_step = training_step
    train_sft.main(options)


if __name__ == "__main__":
    names = dict.fromkeys(("spec", "parent", "manifest", "tokens"), Path)
    script.run(script.held_out_rows(script.arguments("doc", **names)), main, processes=True)
