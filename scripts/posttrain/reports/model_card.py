"""The model card that travels with a model's weights: front matter for the hub, how to load it, settings, licences."""

import re
from typing import Any

from posttrain.data.licences import card_fields, forbids, is_known, normalise, with_cards
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import printable

MAX_CELL = 300  # characters of a value
NO_SETTINGS = ("stage", "version", "tokens")

GENERATE = """```python
from transformers import pipeline

generate = pipeline("text-generation", model="FOLDER")
messages = [{"role": "user", "content": "..."}]
print(generate(messages, max_new_tokens=200)[0]["generated_text"][-1]["content"])
```
"""
SCORE = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER", num_labels=1)
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
messages = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
print(model(**inputs).logits[0, 0].item())
```
"""
KEPT_APART = """What was trained cannot be merged, so this folder holds an adapter and, in `base/`, the model that it belongs to:

```python
import posttrain.models.bottleneck  # only for the method adapter, which is not one of PEFT's own
from peft import PeftModel
from transformers import {loader}

model = PeftModel.from_pretrained({loader}.from_pretrained("FOLDER/base"{options}), "FOLDER")
```
"""


def card(name: str, spec: dict[str, Any], licences: dict[str, str | None], base_model: str | None = None) -> str:
    """The text of README.md.

    Args:
        name: the run's.
        spec: of the run.
        licences: of every base and dataset in the whole lineage, as the configuration says; null: the part's own card.
        base_model: id on the hub of the model at the start of the lineage, where it comes from there.
    """
    from huggingface_hub import ModelCard, ModelCardData

    found = with_cards(licences)
    reward, mergeable = OBJECTIVES[spec["objective"]].reward_model, METHODS[spec["method"]].mergeable
    data = ModelCardData(
        base_model=base_model,
        library_name="transformers" if mergeable else "peft",
        pipeline_tag="text-classification" if reward else "text-generation",
        tags=["posttrain", spec["objective"], spec["method"]],
        **card_fields(found),
    )
    settings = "\n".join(
        f"| {key} | {cell(value)} |"
        for key, value in sorted(spec.items())
        if key not in NO_SETTINGS and _is_plain(value)
    )
    text = f"""
# {name}

{spec["objective"].upper()} ({spec["method"]}) of `{spec["from"]["name"]}` on the dataset `{spec["data"]["name"]}`, made with posttrain.

## Usage

{_usage(reward, mergeable)}
## Training

| setting | value |
|---|---|
{settings}

Rebuild it with `snakemake results/{name}/eval.json`.

{inherited(licences, found)}"""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict)


def _usage(reward: bool, mergeable: bool) -> str:
    if mergeable:
        return SCORE if reward else GENERATE
    loader = "AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM"
    return KEPT_APART.format(loader=loader, options=", num_labels=1" if reward else "")


def cell(value: Any) -> str:
    """A value in a table of Markdown: as code where it has more than words in it, so that nothing of it is markup."""
    text = printable(str(value))
    if re.fullmatch(r"[\w .,+-]*", text):
        return text[:MAX_CELL]
    escaped = text[:MAX_CELL].replace("`", "'").replace("|", "\\|")
    return f"`{escaped}`"


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
