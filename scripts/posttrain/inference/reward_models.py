"""Rewards of completions: a reward model's score, or a rule that reads the text.

A rule is a function of (completion, reference), both texts without their thoughts, that returns a number: one of FUNCTIONS, or
the user's own.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from posttrain.data import thoughts
from posttrain.data.tokens import turn_end
from posttrain.inference import scoring
from posttrain.metrics.final_numbers import answer_format, final_number
from posttrain.metrics.tool_calls import tool_arguments, tool_arguments_f1, tool_name
from posttrain.models import loading
from posttrain.runtime import user_code
from posttrain.runtime.errors import UserError

BATCH_TOKENS = 8192
NO_MODELS: Mapping[str, Path] = MappingProxyType({})


FUNCTIONS = {
    "final_number": final_number,
    "answer_format": answer_format,
    "tool_name": tool_name,
    "tool_arguments": tool_arguments,
    "tool_arguments_f1": tool_arguments_f1,
}


def function(name: str) -> Callable[[str, str], float]:
    """The rule of that name, or the function NAME in FILE.py for `FILE.py:NAME`.

    Raises:
        UserError: the file cannot be run, or has no such function.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    return user_code.load(name, "reward.function")


def reward_function(
    spec: dict, tokenizer: Any, stops: list[int] | None = None, models: Mapping[str, Path] = NO_MODELS
) -> Callable[[list[dict], list[list[int]]], list[float]]:
    """A function of n prompts (rows with `prompt_ids` and `reference`) and n completions (token ids) that gives n rewards.

    Args:
        spec: the `reward` of a run's spec.
        stops: the tokens that end a completion; by default the tokenizer's own.
        models: the folders of the runs that `spec` names.

    Raises:
        UserError: the reward model reads other tokens than `tokenizer` writes.
    """
    if "function" in spec:
        rule = function(spec["function"])

        def by_rule(prompts: list[dict], completions: list[list[int]]) -> list[float]:
            return [
                rule(_text(tokenizer, row["prompt_ids"], ids), _reference(row))
                for row, ids in zip(prompts, completions, strict=True)
            ]

        return by_rule
    folder = models[spec["from"]["name"]]
    model = load_reward_model(folder, tokenizer)
    stops = stops or [tokenizer.eos_token_id]
    end = turn_end(loading.tokenizer(weights(folder)), stops)

    def by_model(prompts: list[dict], completions: list[list[int]]) -> list[float]:
        ended = [as_trained(completion, stops, end) for completion in completions]
        rows = [(*row["prompt_ids"], *completion) for row, completion in zip(prompts, ended, strict=True)]
        return scoring.rewards(model, rows, BATCH_TOKENS)

    return by_model


def _reference(row: dict) -> str | None:
    """A row's own completion without thoughts; None for a prompt alone."""
    return None if row["reference"] is None else thoughts.answer(row["reference"])


def _text(tokenizer: Any, prompt: list[int], completion: list[int]) -> str:
    """The text of a completion (token ids) without the model's thoughts, which may begin in the prompt."""
    return thoughts.answer(thoughts.opened(tokenizer, prompt) + thoughts.decode(tokenizer, completion))


def as_trained(completion: list[int], stops: list[int], end: int) -> list[int]:
    """A completion as a reward model was trained to read it: with the end of its turn once, or as it is where it was cut."""
    kept = len(completion)
    while kept and completion[kept - 1] in stops:
        kept -= 1
    return completion if kept == len(completion) else [*completion[:kept], end]


def weights(folder: Path) -> Path:
    """The weights in the folder of a run or of a base."""
    return folder / "merged" if (folder / "merged").exists() else folder / "model"


def manifest(folder: Path) -> Path:
    """The file with the hashes of the weights in the folder of a run or of a base."""
    return folder / "merge.json" if (folder / "merge.json").exists() else folder / "base.json"


def load_reward_model(folder: Path, tokenizer: Any, quantised: str | None = None, arithmetic: str = "auto") -> Any:
    """The model in the folder of a run or of a base, frozen; `quantised` and `arithmetic` as in `loading.load`.

    Raises:
        UserError: it reads other tokens than `tokenizer` writes.
    """
    same_tokens(folder.name, loading.tokenizer(weights(folder)), tokenizer)
    whole = quantised is None and loading.precision(arithmetic) == "fp32"  # weights in bf16 would be multiplied in bf16
    dtype = torch.float32 if whole else "auto"
    model = loading.load(weights(folder), dtype, quantised, arithmetic=arithmetic, apart=quantised is None)
    return model.eval().requires_grad_(False)


def same_tokens(name: str, theirs: Any, ours: Any) -> None:
    """Refuse a reward model with another vocabulary.

    Raises:
        UserError: the same token has another id.
    """
    if theirs.get_vocab() != ours.get_vocab():
        raise UserError(
            "wrong-reward-model",
            "reward",
            f"{name} has another tokenizer than the model whose completions it scores, so it would read other words",
            "train the reward model on a model with the same tokenizer",
        )
