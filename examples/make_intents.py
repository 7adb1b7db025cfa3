"""The rows of config/examples/classify.yaml: the commands of Snips with the tool that each calls.

python examples/make_intents.py examples/data
"""

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (folder / f"snips_{split}.jsonl").read_text().splitlines()]
        lines = [{"text": row["command"], "intent": json.loads(row["call"])["name"]} for row in rows]
        (folder / f"intents_{split}.jsonl").write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
