"""Merge what training produced into the model that others load, and prove that the two are the same.

Reads the parent's model and `trained/`; writes `model/`, the proof merge.json, provenance.json and the model card. The
proof compares the logits of parent + adapter with those of the merged file, loaded again from disk, on real prompts.

An adapter that was trained on a 4-bit parent is merged into that parent's dequantised weights, since merging inside 4 bits
would quantise again, and the original parent is not what it was trained on (`merge_into` says otherwise where it should);
merge.json has the drift of both. What cannot be merged is kept beside a copy of its parent, in `model/base`.

    python scripts/merge_model.py --spec results/sft_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/gsm8k,max_length=1024 \
        --preflight results/sft_lora/preflight.json
"""

import re
from pathlib import Path

from posttrain.config import LEAVES
from posttrain.errors import UserError, printable
from posttrain.licences import card_fields, forbids, is_known, normalise, with_cards
from posttrain.records import code_hash, hashes, sealed, versions
from posttrain.stage import arguments, folder_hashes, link, read_json, run, say, sha256, whole_folder, write_json

PROMPTS, POSITIONS = 4, 256
CELL = 300  # characters of a value on the model card
# Largest difference of a logit that rounding explains: one merged weight is rounded once, where base and adapter were
# multiplied apart. Measured on SmolLM2 in float32: 1e-4.
TOLERANCE = {"float32": 1e-2, "float16": 0.5, "bfloat16": 2.0}


KEPT_APART = """What was trained cannot be merged, so this folder is an adapter and its base:

```python
import posttrain.adapters  # only for the method adapter, which is not one of PEFT's own
from peft import PeftModel
from transformers import AutoModelForCausalLM  # of a reward model: AutoModelForSequenceClassification, num_labels=1

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("FOLDER/base"), "FOLDER")
```

"""


def main(options) -> None:
    import torch

    from posttrain import models

    run_folder = options.spec.parent
    spec = read_json(options.spec)
    trained = run_folder / "trained"
    prompts = real_prompts(options.tokens, spec)
    drift = {}
    if spec["method"] == "qlora":
        model, drift = unquantised(options.parent, trained, spec, prompts)
    else:
        model = models.with_adapter(options.parent, trained).eval()
    before = logits(model, prompts)
    with whole_folder(run_folder / "model") as folder:
        if spec["method"] == "full" or spec["method"] in LEAVES:
            for file in trained.iterdir():
                link(file, folder / file.name)
        else:
            model = model.merge_and_unload()
            model.save_pretrained(folder)
        if spec["method"] in LEAVES:
            for file in options.parent.iterdir():
                link(file, folder / "base" / file.name)
        models.tokenizer(options.parent).save_pretrained(folder)
        dtype = str(model.dtype).removeprefix("torch.")
        del model
        after = logits(models.load(folder).eval(), prompts)
        proof = compare(torch.cat(before), torch.cat(after)) | {"tolerance": TOLERANCE[dtype], "dtype": dtype}
        done = "adapter and base kept apart" if spec["method"] in LEAVES else "merged"
        say(
            f"{run_folder.name}: {done}; on {proof['n']} positions the logits differ by at most "
            f"{proof['max_abs_logit_difference']:.2g}, the next token agrees on {proof['greedy_agreement']:.2%}"
        )
        if not proof["max_abs_logit_difference"] <= proof["tolerance"]:  # NaN is no proof either
            raise UserError(
                f"{run_folder.name}: the merged model's logits differ from the trained one's by "
                f"{proof['max_abs_logit_difference']:.3g}, more than the {proof['tolerance']} that rounding in {dtype} "
                "explains; it is not published. Keep base and adapter apart, or train in another precision"
            )
        (folder / "README.md").write_text(card(run_folder.name, spec, read_json(options.preflight)["licences"]))
        for file in folder.iterdir():
            if file.is_file():
                file.chmod(0o644)
    files = folder_hashes(run_folder / "model")
    made = {name: digest for name, digest in files.items() if name != "README.md"}  # a new licence trains no child anew
    write_json(run_folder / "merge.json", proof | drift | {"files": made})
    write_json(run_folder / "provenance.json", sealed(provenance(options, spec) | {"model": files}))


def unquantised(parent: Path, trained: Path, spec: dict, prompts: list[list[int]]):
    """The adapter on the parent that it is merged into, and how far the logits drift from those in 4 bits, for both."""
    import torch
    from peft import PeftModel

    from posttrain import models

    arithmetic = models.precision(spec["precision"])
    in_4_bits = torch.cat(logits(models.with_adapter(parent, trained, arithmetic).eval(), prompts))
    original = models.with_adapter(parent, trained).eval()
    dtype, reward = original.dtype, models.is_reward(trained)
    plain = models.dequantised(parent, arithmetic, reward).to(dtype)
    choices = {"original": original, "dequantised": PeftModel.from_pretrained(plain, trained).eval()}
    drift = {
        name: compare(in_4_bits, torch.cat(logits(model, prompts)))["max_abs_logit_difference"]
        for name, model in choices.items()
    }
    say(
        f"{trained.parent.name}: logits drift from those in 4 bits by {drift['dequantised']:.2g} on the dequantised parent, by "
        f"{drift['original']:.2g} on the original one"
    )
    return choices[spec["merge_into"]], {"drift": drift, "merged_into": spec["merge_into"]}


def real_prompts(tokens: Path, spec: dict) -> list[list[int]]:
    """Token ids of the first held-out rows (of the training rows, where none is held out)."""
    import pyarrow.parquet as pq

    rows = pq.read_table(tokens / "validation.parquet").slice(0, PROMPTS).to_pylist()
    rows = rows or pq.read_table(tokens / "train.parquet").slice(0, PROMPTS).to_pylist()
    answers = ("chosen_ids", "completion_ids")
    ids = [row.get("input_ids") or row["prompt_ids"] + next(row[key] for key in answers if key in row) for row in rows]
    return [row[:POSITIONS] for row in ids]


def logits(model, prompts: list[list[int]]) -> list:
    """Logits in float32 on the CPU, (length, vocabulary) for each prompt; a reward model's are (1, 1)."""
    import torch

    rows = [torch.tensor([ids], device=model.device) for ids in prompts]
    with torch.no_grad():
        outputs = [model(input_ids=row, attention_mask=torch.ones_like(row)).logits for row in rows]
    return [output.flatten(0, -2).float().cpu() for output in outputs]


def compare(before, after) -> dict:
    """Differences of two (n, vocabulary) tensors of logits."""
    difference = (before - after).abs()
    return {
        "max_abs_logit_difference": difference.max().item(),
        "mean_abs_logit_difference": difference.mean().item(),
        "greedy_agreement": (before.argmax(-1) == after.argmax(-1)).float().mean().item(),
        "n": len(before),
    }


def provenance(options, spec: dict) -> dict:
    """What this model was made from, with what, where and in how long."""
    import platform
    import subprocess

    import torch

    run_folder = options.spec.parent
    code = Path(__file__).resolve().parent
    git = subprocess.run(["git", "-C", code, "rev-parse", "HEAD"], capture_output=True, text=True)
    results, data = run_folder.parent, spec["data"]["name"]
    reward = spec.get("reward", {})
    judges = [reward[key]["name"] for key in ("from", "sequence", "reference") if key in reward]
    manifests = [file for name in judges for file in (f"{name}/merge.json", f"bases/{name}/base.json")]
    bits = ",nf4" if spec["method"] == "qlora" else ""
    logprobs = [f"{data},max_length={spec['max_length']}{bits}.parquet"] if spec["objective"] == "dpo" else []
    return {
        "spec": sha256(options.spec),
        "settings": spec,
        "parent": {"name": spec["from"]["name"], "files": read_json(options.manifest)["files"]},
        "tokens": {split: sha256(options.tokens / f"{split}.parquet") for split in ("train", "validation")},
        "rows": hashes(results / "data" / data, "train.parquet"),
        "logprobs": hashes(options.parent.parent / "logprobs", *logprobs),
        "judges": hashes(results, *manifests),
        "trained": folder_hashes(run_folder / "trained"),
        "steps": hashes(run_folder, "train.jsonl"),
        "merge": hashes(run_folder, "merge.json"),
        "training": read_json(run_folder / "train.json"),
        "versions": versions(),
        "python": platform.python_version(),
        "code": {"commit": git.stdout.strip() or None, "scripts": code_hash(code)},
        "machine": {
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "command": f"snakemake results/{run_folder.name}/eval.json",
    }


def card(name: str, spec: dict, licences: dict[str, str | None]) -> str:
    """The model card that travels with the weights.

    Args:
        licences: of every base and dataset in the whole lineage, as the configuration says; null: the part's own card.
    """
    import yaml

    settings = [
        key for key in sorted(spec) if not isinstance(spec[key], dict) and key not in ("stage", "version", "tokens")
    ]
    lines = "\n".join(f"| {key} | {cell(spec[key])} |" for key in settings)
    keep = KEPT_APART if spec["method"] in LEAVES else ""
    found = with_cards(licences)
    fields = yaml.safe_dump(card_fields(found), sort_keys=False)
    return (
        f"---\n{fields}---\n\n"
        f"# {name}\n\n{spec['objective'].upper()} ({spec['method']}) of `{spec['from']['name']}` on the dataset "
        f"`{spec['data']['name']}`, made with posttrain.\n\n| setting | value |\n|---|---|\n{lines}\n\n"
        f"{keep}Rebuild it with `snakemake results/{name}/eval.json`.\n\n{inherited(licences, found)}"
    )


def cell(value) -> str:
    """A value in a table of Markdown: as code where it has more than words in it, so that nothing of it is markup."""
    text = printable(str(value))
    if re.fullmatch(r"[\w .,+-]*", text):
        return text[:CELL]
    escaped = text[:CELL].replace("`", "'").replace("|", "\\|")
    return f"`{escaped}`"


def inherited(stated: dict[str, str | None], found: dict[str, str | None]) -> str:
    """The card's section on licences: each part's, where it was read, and what follows for this model."""
    lines = ["## Licence", "", "What this model is made of; what these licences ask holds for it too.", ""]
    lines += ["| part | licence | read from |", "|---|---|---|"]
    for part, licence in found.items():
        card = "its model card" if part.startswith("bases.") else "its dataset card"
        source = "the configuration" if stated[part] else card if licence else "nowhere"
        lines.append(f"| `{part}` | {cell(normalise(licence or 'unknown'))} | {source} |")
    closed = [f"`{part}`" for part, licence in found.items() if forbids(licence, "commercial")]
    if closed:
        lines += ["", f"**Not for commercial use**, which the licence of {' and '.join(closed)} forbids."]
    unclear = [f"`{part}`" for part, licence in found.items() if not (licence and is_known(licence))]
    if unclear:
        lines += ["", f"What the licence of {' and '.join(unclear)} asks is not known; find out before you share this."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path, preflight=Path), main)
