"""The parts of a model that sees or hears, by the names of its modules: what looks, what listens, what joins them to the text.

A name is of the projector where one of its modules is called so, else of the encoder that it is in, else of the language model; of a
model of text everything is language. Checked with the families of tests/unit/models/test_parts.py.
"""

PROJECTOR = {
    "connector",  # Idefics3, SmolVLM
    "multi_modal_projector",  # LLaVA, Gemma 3, Qwen2-Audio
    "merger",  # Qwen2-VL, Qwen2.5-VL, Qwen3-VL
    "deepstack_merger_list",  # Qwen3-VL
}
ENCODERS = {
    "vision": {"vision_model", "vision_tower", "visual"},
    "audio": {"audio_tower", "audio_model"},
}
PARTS = (*ENCODERS, "projector", "language")
DEFAULT = ("projector", "language")


def part_of(name: str) -> str:
    """The part that a module or a parameter belongs to.

    >>> part_of("model.visual.merger.mlp.0.weight"), part_of("model.vision_tower.layers.0.mlp.fc1"), part_of("lm_head.weight")
    ('projector', 'vision', 'language')
    """
    modules = set(name.split("."))
    if modules & PROJECTOR:
        return "projector"
    return next((part for part, names in ENCODERS.items() if modules & names), "language")


def trained(spec: dict) -> tuple[str, ...]:
    """The parts that a run trains."""
    return tuple(spec.get("train_parts") or DEFAULT)
