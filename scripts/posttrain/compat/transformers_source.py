"""What transformers' source says of its model types, without importing it.

Checked with transformers 5.23.0, which does not tell which types have a sequence classifier without importing torch, nor which
attention masks keep packed rows apart; tests/unit/compat/test_transformers_source.py fails when the source says it otherwise. It
could go if the library had a table of both.
"""

import importlib.util
import re
from pathlib import Path

CHECKED = {"transformers": "5.23.0"}


def has_classifier(model_type: str) -> bool:
    """Whether transformers has a sequence classifier of a type."""
    folder = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
    source = (folder / "models/auto/modeling_auto.py").read_text()
    table = source.partition("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES = ")[2].partition("\n)")[0]
    return f'("{model_type}", ' in table


def masks_packed_rows(model_type: str) -> bool:
    """Whether a model of a type keeps packed rows apart.

    Its mask is made of the positions, and nothing else goes from a token to the next: no convolution, no state.
    """
    models = Path(importlib.util.find_spec("transformers").submodule_search_locations[0]) / "models"
    files = [
        file
        for name in {model_type, model_type.removesuffix("_text")}
        for file in (models / name).glob("modeling_*.py")
    ]
    text = "".join(file.read_text() for file in files)
    calls = re.findall(r"(?:mask_kwargs = \{|create_causal_mask\(|mask_function\()[^})]*", text)
    return any("position_ids" in call for call in calls) and not re.search("conv_state|ssm_state", text)
