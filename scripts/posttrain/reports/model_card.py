"""What every card of a model has: front matter for the hub, how to load it, settings, licences; and the card that a merge writes.

`card` is the short one, beside the weights of `model/`; `run_card` writes the long one, of all that is known of a run.
"""

import json
import re
from typing import Any

from posttrain.data.licences import card_fields, forbids, is_known, normalise, with_cards
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import printable

MAX_CELL = 300  # characters of a value
# What is told elsewhere, or means nothing to a reader.
NO_SETTINGS = ("stage", "version", "tokens", "objective", "method", "from", "data")
# Folders of this machine before the name of a file: /home/me/, ~/, ../, C:\Users\me\, file:///; not the slashes of an address.
FOLDERS = re.compile(
    r"(?:file://|(?<![\w.:/~<-]))(?:(?:~[\w.-]*|\.{1,2})?/|[A-Za-z]:[\\/])(?=[^\s/])(?:[^\s/\\'\"`|]+[/\\])*"
)

GENERATE = """```python
from transformers import pipeline

generate = pipeline("text-generation", model="{place}")
messages = [{{"role": "user", "content": "..."}}]
print(generate(messages, max_new_tokens=200)[0]["generated_text"][-1]["content"])
```
"""
SCORE = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{place}", num_labels=1)
tokenizer = AutoTokenizer.from_pretrained("{place}")
messages = [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
print(model(**inputs).logits[0, 0].item())
```
"""
CLASSIFY = """```python
from transformers import pipeline

classify = pipeline("text-classification", model="{place}")
print(classify("..."))
```
"""
KEPT_APART = """What was trained cannot be merged, so this folder holds an adapter and, in `base/`, the model that it belongs to:

```python
{imports}from peft import PeftModel
from transformers import {loader}

folder = {folder}
base = {loader}.from_pretrained(f"{{folder}}/base"{options})
model = PeftModel.from_pretrained(base, folder)
```
"""


def card(name: str, spec: dict[str, Any], licences: dict[str, str | None], base_model: str | None = None) -> str:
    """The text of the README.md beside a run's weights.

    Args:
        name: the run's.
        spec: of the run.
        licences: of every base and dataset in the whole lineage, as the configuration says; null: the part's own card.
        base_model: id on the hub of the model at the start of the lineage, where it comes from there.
    """
    from huggingface_hub import ModelCard, ModelCardData

    found = with_cards(licences)
    data = ModelCardData(base_model=base_model, **front(spec), **card_fields(found))
    text = f"""
# {name}

{sentence(spec)}

## Usage

{usage(spec)}
## Training

{settings({name: spec})}

Rebuild it with `snakemake results/{name}/eval.json`.

{inherited(licences, found)}"""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))


def front(spec: dict[str, Any]) -> dict[str, Any]:
    """The front matter that follows from what was trained and how: library, task and tags."""
    return {
        "library_name": "transformers" if METHODS[spec["method"]].mergeable else "peft",
        "pipeline_tag": "text-classification" if OBJECTIVES[spec["objective"]].scores else "text-generation",
        "tags": ["posttrain", spec["objective"], spec["method"]],
    }


def sentence(spec: dict[str, Any]) -> str:
    """What was trained from what on what."""
    start, data = spec["from"]["name"], spec["data"]["name"]
    teacher = f" from the teacher `{spec['teacher']['name']}`" if "teacher" in spec else ""
    return f"{spec['objective'].upper()} ({spec['method']}) of `{start}`{teacher} on the dataset `{data}`, made with posttrain."


def usage(spec: dict[str, Any], place: str = "FOLDER") -> str:
    """How `model/` is loaded.

    Args:
        place: the folder, or the id on the hub.
    """
    reward, method = OBJECTIVES[spec["objective"]].scores, METHODS[spec["method"]]
    if method.mergeable:
        classifier = OBJECTIVES[spec["objective"]].classifier
        return (CLASSIFY if classifier else SCORE if reward else GENERATE).format(place=place)
    loader, options = (
        ("AutoModelForSequenceClassification", ", num_labels=1") if reward else ("AutoModelForCausalLM", "")
    )
    imports = (
        f"import posttrain.models.bottleneck  # {spec['method']} is not one of PEFT's own methods\n"
        if method.wraps_blocks
        else ""
    )
    folder = f'"{place}"'
    if "/" in place:  # transformers takes no adapter's `base/` from the hub
        imports, folder = f"from huggingface_hub import snapshot_download\n{imports}", f"snapshot_download({folder})"
    return KEPT_APART.format(loader=loader, options=options, folder=folder, imports=imports)


# ---- tables


def settings(specs: dict[str, dict[str, Any]]) -> str:
    """The settings of one or several runs side by side; those that none of them sets are left out."""
    columns = {name: dict(_flat(spec)) for name, spec in specs.items()}
    rows = sorted({key for column in columns.values() for key in column})
    used = [
        key for key in rows if not all(column.get(key) is None or column[key] is False for column in columns.values())
    ]
    lines = [[f"`{key}`", *(shown(column.get(key)) for column in columns.values())] for key in used]
    return table(["setting", *(f"`{name}`" for name in columns)], lines)


def _flat(values: dict[str, Any], before: str = "") -> Any:
    """Settings with the keys of tables within them, as `peft_args.use_dora`; of a run that one names, the name."""
    for key, value in values.items():
        if (not before and key in NO_SETTINGS) or key in ("spec", "sha256"):
            continue
        if isinstance(value, dict):
            yield from [(before + key, value["name"])] if value.keys() == {"name", "spec"} else _flat(value, f"{key}.")
        else:
            yield before + key, value


def shown(value: Any) -> str:
    """A setting's value in a table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and not any(isinstance(part, list | dict) for part in value):
        return cell(", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value))
    return cell(json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown; the cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- text of the user's


def cell(value: Any) -> str:
    """A value in a table of Markdown: as code where it has more than words in it, so that nothing of it is markup."""
    text = without_folders(str(value))[:MAX_CELL]
    return text if re.fullmatch(r"[\w .,+-]*", text) else code(text).replace("|", "\\|")


def code(value: Any) -> str:
    """A value in a sentence of Markdown, as code."""
    text = without_folders(str(value))[:MAX_CELL].replace("`", "'")
    return f"`{text}`"


def without_folders(text: str) -> str:
    """Text on one line, in which a file of this machine has only its name."""
    return printable(FOLDERS.sub("", text))


# ---- licences


def inherited(stated: dict[str, str | None], found: dict[str, str | None]) -> str:
    """The section on licences: each part's, where it was read, and what follows for this model."""
    lines = ["## Licence", "", "What this model is built from. The terms of these licences apply to it too.", ""]
    lines += ["| part | licence | read from |", "|---|---|---|"]
    for part, licence in found.items():
        own_card = "its model card" if part.startswith("bases.") else "its dataset card"
        source = "the configuration" if stated[part] else own_card if licence else "nowhere"
        lines.append(f"| `{part}` | {cell(normalise(licence or 'unknown'))} | {source} |")
    closed = [f"`{part}`" for part, licence in found.items() if forbids(licence, "commercial")]
    if closed:
        lines += ["", f"**Not for commercial use**, which the licence of {' and '.join(closed)} forbids."]
    unclear = [f"`{part}`" for part, licence in found.items() if not (licence and is_known(licence))]
    if unclear:
        lines += ["", f"The terms of {' and '.join(unclear)} are unknown; look them up before you share this model."]
    return "\n".join([*lines, ""])
