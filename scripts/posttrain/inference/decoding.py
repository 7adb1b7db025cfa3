"""How an answer is decoded: greedily whatever the model's generation configuration says, and within its context."""

from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from posttrain.compat.transformers_internals import neutral_generation
from posttrain.models.context import max_positions

SAMPLING = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip
# What is set for each call, or says nothing of which token comes next.
KEPT = (
    *("max_length", "max_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("use_cache", "return_dict_in_generate", "transformers_version", "_from_model_config"),
)
# What says how something is computed or given, and not which token comes next.
COMPUTED = ("stop_strings", "cache", "compile", "disable_compile", "output_", "max_time", "low_memory", "prefill")
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


def greedy(model: Any) -> dict[str, Any]:
    """Options of `generate` with which each token is the likeliest: all that the configuration says otherwise is off.

    transformers takes from the configuration what a call leaves out, so each entry is named. Its stop texts are the
    caller's to mind.
    """
    neutral = neutral_generation()
    given = {key: neutral.get(key) for key in _given(model) if key not in SAMPLING}
    return given | dict.fromkeys(SAMPLING) | GREEDY


def overruled(model: Any) -> dict[str, Any]:
    """What of the model's generation configuration would change greedy answers, and is off."""
    neutral = neutral_generation()
    given = {key: value for key, value in _given(model).items() if key not in SAMPLING and not key.startswith(COMPUTED)}
    return {key: value for key, value in given.items() if value != neutral.get(key) and value not in (0, False)}


def _given(model: Any) -> dict[str, Any]:
    known = vars(GenerationConfig())
    values = vars(model.generation_config)
    return {key: value for key, value in values.items() if key in known and key not in KEPT and value is not None}


class RepetitionPenalty(LogitsProcessor):
    """Divides the score of a token that has occurred, or multiplies a negative one (CTRL; Keskar et al. 2019).

    As transformers' own, but for padding, which counts as nothing here: an answer does not depend on the batch.
    """

    def __init__(self, penalty: float, before: list[list[int]], width: int) -> None:
        """`before`: the tokens that each of n rows has already; `width`: those of the padded ids that are them."""
        self.penalty, self.before, self.width = penalty, before, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, vocabulary) of the token after `input_ids` (n, length)."""
        seen = torch.zeros_like(scores, dtype=torch.bool)
        for row, (ids, new) in enumerate(zip(self.before, input_ids[:, self.width :].tolist(), strict=True)):
            seen[row, [*ids, *new]] = True
        return torch.where(seen, torch.where(scores < 0, scores * self.penalty, scores / self.penalty), scores)


def context(model: Any) -> int | None:
    """The most tokens that a model reads and writes, prompt and answer together; None where its configuration names none.

    Beyond it, a model with learnt positions has none, and one with computed positions was not trained. Virtual tokens of an
    adapter take theirs.
    """
    config = model.config.get_text_config()
    positions = max_positions(config.to_dict())
    adapter = getattr(model, "active_peft_config", None)
    return positions and positions - getattr(adapter, "num_virtual_tokens", 0)


def rooms(prompts: list[list[int]], max_new_tokens: int, context: int | None) -> list[int]:
    """How many tokens the answer to each prompt may have."""
    return [max_new_tokens if context is None else max(0, min(max_new_tokens, context - len(p))) for p in prompts]
