"""Model cards: what a model is, how to load it, what it was trained with, and the licences that it inherits."""

import re
from typing import Any

from huggingface_hub import ModelCardData

from posttrain.data.licences import card_fields, forbids, is_known, normalise, with_cards
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import printable

MAX_CELL = 300  # characters of a value
NOT_SETTINGS = ("stage", "version", "tokens")  # of a spec

MERGED = """```python
from transformers import {family}, AutoTokenizer

model = {family}.from_pretrained("FOLDER"{options})
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""
ADAPTER = """```python
{imports}from peft import PeftModel
from transformers import {family}, AutoTokenizer

model = PeftModel.from_pretrained({family}.from_pretrained("{base}"{options}), "FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""
REGISTERED = "import posttrain.models.bottleneck  # the method `adapter` is not one of PEFT's own\n"


def of_model(name: str, spec: dict, licences: dict[str, str | None], base: str) -> str:
    """The card of the model that others load.

    Args:
        licences: of every base and dataset in the whole lineage, as the configuration says; None: as the part's own card says.
        base: the name of the pretrained model at the beginning of the lineage, such as a hub id.
    """
    found = with_cards(licences)
    mergeable = METHODS[spec["method"]].mergeable
    fields = _front_matter(spec, base, is_adapter=not mergeable, **card_fields(found))
    how = usage(spec, None if mergeable else "FOLDER/base")
    apart = (
        ""
        if mergeable
        else "What was trained cannot be merged, so this folder is an adapter and, in `base/`, its base.\n\n"
    )
    return (
        f"---\n{fields}\n---\n\n# {name}\n\n{_summary(spec)}\n\n## Usage\n\n{apart}{how}\n{_settings(spec)}\n\n"
        f"Rebuild it with `snakemake results/{name}/eval.json`.\n\n{_inherited(licences, found)}"
    )


def of_trained(name: str, spec: dict, parent: str, base: str) -> str:
    """The card of what training left: an adapter, or all weights.

    Args:
        parent: the name of the model that the run started from.
        base: as in `of_model`.
    """
    is_adapter = not METHODS[spec["method"]].full
    fields = _front_matter(spec, base, is_adapter)
    built = "" if parent == base else f" It is the merged model of that run, in `results/{parent}/model`."
    note = f"An adapter for {cell(parent)}.{built}\n\n" if is_adapter else ""
    how = usage(spec, cell(parent).strip("`") if is_adapter else None)
    return f"---\n{fields}\n---\n\n# {name}\n\n{_summary(spec)}\n\n## Usage\n\n{note}{how}\n{_settings(spec)}\n"


def usage(spec: dict, base: str | None) -> str:
    """How to load a model, as Python code.

    Args:
        base: of an adapter, what it belongs to; None for a whole model.
    """
    reward = OBJECTIVES[spec["objective"]].reward_model
    words = {
        "family": "AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM",
        "options": ", num_labels=1" if reward and base else "",
        "imports": REGISTERED if METHODS[spec["method"]].wraps_blocks else "",
        "base": base,
    }
    return (MERGED if base is None else ADAPTER).format(**words)


def cell(value: Any) -> str:
    """A value in a table of Markdown: as code if it has more than words in it, so that nothing of it is markup."""
    text = printable(str(value))
    if re.fullmatch(r"[\w .,+-]*", text):
        return text[:MAX_CELL]
    escaped = text[:MAX_CELL].replace("`", "'").replace("|", "\\|")
    return f"`{escaped}`"


def _front_matter(spec: dict, base: str, is_adapter: bool, **fields: str) -> str:
    reward = OBJECTIVES[spec["objective"]].reward_model
    return ModelCardData(
        base_model=printable(base),
        base_model_relation="adapter" if is_adapter else "finetune",
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-classification" if reward else "text-generation",
        tags=["posttrain", spec["objective"], spec["method"]],
        **fields,
    ).to_yaml()


def _summary(spec: dict) -> str:
    how = f"{spec['objective'].upper()} ({spec['method']})"
    return f"{how} of `{spec['from']['name']}` on the dataset `{spec['data']['name']}`, made with posttrain."


def _settings(spec: dict) -> str:
    keys = [key for key in sorted(spec) if not isinstance(spec[key], dict) and key not in NOT_SETTINGS]
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {key} | {cell(spec[key])} |" for key in keys)])


def _inherited(stated: dict[str, str | None], found: dict[str, str | None]) -> str:
    """The section on licences: each part's, where it was read, and what follows for this model."""
    lines = ["## Licence", "", "The parts of this model. What their licences ask holds for it too.", ""]
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
        lines += ["", f"What the licence of {' and '.join(unclear)} asks is unknown; find out before you share this."]
    return "\n".join([*lines, ""])
