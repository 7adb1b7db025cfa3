"""The front matter of a model card: what the hub shows beside the text, and files a model by."""

import math
import re
from typing import Any

from posttrain.data.licences import HUB, card_fields
from posttrain.exports import EXPORTS
from posttrain.methods import METHODS
from posttrain.reports import formatting
from posttrain.reports.card_facts import Facts
from posttrain.reports.model_card import front

LANGUAGE = re.compile("[a-z]{2,3}")
DIGITS = 6  # of a metric's value


def data(facts: Facts, kind: str | None = None) -> Any:
    """The fields of a run's card as huggingface_hub's ModelCardData.

    Args:
        kind: of the export that the card goes with; None for the run's `model/`.
    """
    from huggingface_hub import ModelCardData

    spec = facts["spec"]
    hub = [dataset["spec"].get("hub") for dataset in facts["datasets"] if dataset["part"]]
    found = list(dict.fromkeys(code for dataset in facts["datasets"] for code in dataset["languages"]))
    base = facts["base"]["manifest"].get("base_model")
    fields = front(spec) | card_fields(facts["found"])
    relation = "finetune" if METHODS[spec["method"]].mergeable else "adapter"
    if kind:
        row = EXPORTS[kind]
        fields["library_name"] = "peft" if row.is_adapter else "gguf" if row.gguf else "transformers"
        fields["tags"] = [*fields["tags"], *([row.quantiser] if row.quantiser else [])]
        relation = "adapter" if row.is_adapter else "quantized" if row.gguf or row.quantiser else relation
    return ModelCardData(
        language=found or None,
        base_model=base,
        datasets=[name for name in hub if name] or None,
        model_name=facts["name"],
        eval_results=results(facts) or None,
        **fields,
        **({"base_model_relation": relation} if base else {}),
    )


def results(facts: Facts) -> list[Any]:
    """Each metric as huggingface_hub's EvalResult, one for each dataset that it was measured on."""
    from huggingface_hub import EvalResult

    found = facts["eval"]
    task = front(facts["spec"])["pipeline_tag"]
    hub = {dataset["name"]: dataset["spec"].get("hub") for dataset in facts["datasets"]}
    rows = []
    for name, whole in found["metrics"].items():
        apart = {on: own[name] for on, own in found.get("by_dataset", {}).items() if name in own}
        for on, row in (apart or {_suite(name): whole}).items():
            if math.isfinite(row["value"]):
                rows.append(
                    EvalResult(
                        task_type=task,
                        dataset_type=hub.get(on) or on,
                        dataset_name=on,
                        dataset_split="validation",
                        metric_type=name.split("/")[-1],
                        metric_value=_rounded(row["value"]),
                        metric_name=f"{formatting.label(name)}, 95% interval {_ends(name, row)}, n {row['n']:,}",
                        metric_args={"low": _rounded(row["low"]), "high": _rounded(row["high"]), "n": row["n"]},
                    )
                )
    return rows


def _suite(metric: str) -> str:
    """What stands for the dataset of a metric that is measured on prompts of a suite's own."""
    return metric.rpartition("/")[0] or "held-out rows"


def _ends(name: str, row: dict[str, Any]) -> str:
    return formatting.interval(name, row).strip("[]").replace(", ", " to ")


def _rounded(value: float) -> float | None:
    """A number to some digits; YAML has infinity, JSON, in which the hub gives it away, has not."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def faults(text: str) -> list[str]:
    """What the hub would refuse, or not understand, of a card's front matter, as its documentation describes it."""
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    card = ModelCard(text)
    fields = card.data.to_dict()
    found = [f"{key} is missing" for key in ("license", "library_name", "pipeline_tag", "tags") if not fields.get(key)]
    if fields.get("license") not in HUB:
        found.append(f"license: {fields.get('license')} is not one of the hub's")
    if (fields.get("license") == "other") != ("license_name" in fields):
        found.append("license_name belongs to license: other")
    found += [
        f"language: {code} is no ISO 639 code" for code in _list(fields.get("language")) if not LANGUAGE.fullmatch(code)
    ]
    for name in [*_list(fields.get("base_model")), *_list(fields.get("datasets"))]:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            found.append(str(error))
    for result in getattr(card.data, "eval_results", None) or ():
        if not isinstance(result.metric_value, int | float) or not math.isfinite(result.metric_value):
            found.append(f"{result.metric_type} has the value {result.metric_value}")
    return found


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []
