"""The names of the parameters that a run would train, from the shapes of its parent's weights; nothing is loaded."""

import re

from posttrain.methods import METHODS
from posttrain.models.memory_estimate import adapted
from posttrain.models.parameter_patterns import Names, is_meant
from posttrain.models.shapes import Model
from posttrain.objectives import OBJECTIVES


def foreseen(spec: dict, model: Model) -> list[Names]:
    """The names of the parameters that a run would train, as the preflight knows them.

    Args:
        model: of what lies in the parent's folder.
    """
    arguments = spec.get("peft_args", {})
    head = [("score.weight",)] if OBJECTIVES[spec["objective"]].scores else []
    outside = [name for name in model.shapes if not re.search(r"\.\d+\.", name)]
    if METHODS[spec["method"]].full:
        embedding = next((name for name in outside if model.shapes[name][0] == model.vocabulary), None)
        also = {embedding: ("lm_head.weight",)} if model.tied and not head else {}
        return head + [(name, *also.get(name, ())) for name in model.shapes]
    names = [(f"{module}.{side}.default.weight",) for module in adapted(spec, model) for side in ("lora_A", "lora_B")]
    saved = arguments.get("modules_to_save") or []
    names += [(name,) for name in model.shapes if any(is_meant(re.escape(part), (name,)) for part in saved)]
    rows = model.config.get("new_tokens") or arguments.get("trainable_token_indices")
    return head + names + ([(name,) for name in outside] if rows else [])
