"""The card of what training leaves in `trained/`: what it belongs to and how to load it."""

from collections.abc import Sequence

from huggingface_hub import ModelCard, ModelCardData

from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import printable

WHOLE = """model = {family}.from_pretrained("FOLDER")"""
ADAPTER = """model = PeftModel.from_pretrained({family}.from_pretrained("{parent}"{options}), "FOLDER")"""
TEXT = """
# {name}

{objective} ({method}) of `{run}` on the dataset `{data}`, made with posttrain.{belongs}

## Usage

```python
{imports}from transformers import {family}, AutoTokenizer

{load}
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""


def card(name: str, spec: dict, parent: str, manifest: dict, labels: Sequence[str] = ()) -> str:
    """The text of README.md.

    Args:
        name: the run's.
        parent: what the run started from: a hub id, a path, or the name of a run.
        manifest: of the model that the run started from; of a run's, it has no `source`.
        labels: of a classifier.
    """
    objective, method = OBJECTIVES[spec["objective"]], METHODS[spec["method"]]
    data = ModelCardData(
        base_model=manifest.get("base_model"),  # an id on the hub
        library_name="transformers" if method.full else "peft",
        pipeline_tag="text-classification" if objective.scores else "text-generation",
        tags=["posttrain", spec["objective"], spec["method"]],
    )
    imports = "" if method.full else "from peft import PeftModel\n"
    if method.wraps_blocks:
        imports = (
            f"import posttrain.models.bottleneck  # the method {spec['method']} is not one of PEFT's own\n{imports}"
        )
    words = {
        "family": "AutoModelForSequenceClassification" if objective.scores else "AutoModelForCausalLM",
        "options": f", num_labels={len(labels) or 1}" if objective.scores else "",
        "parent": printable(parent).replace("`", "'").replace('"', "'"),
    }
    if "source" not in manifest and not method.full:
        belongs = f" The adapter belongs to the merged model of that run, in `results/{parent}/model`."
    else:
        belongs = ""
    text = TEXT.format(
        name=name,
        objective=spec["objective"].upper(),
        method=spec["method"],
        run=spec["from"]["name"],
        data=spec["data"]["name"],
        belongs=belongs,
        imports=imports,
        family=words["family"],
        load=(WHOLE if method.full else ADAPTER).format(**words),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))
