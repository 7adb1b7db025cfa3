"""What an answer is worth: a reward model's score, or a rule that reads the answer.

A rule is a function of (answer, reference), both texts without their thoughts, that returns a number: one of FUNCTIONS, or
the user's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from posttrain.data import thoughts
from posttrain.data.tokens import turn_end
from posttrain.inference import scoring
from posttrain.metrics.final_numbers import answer_format, final_number
from posttrain.models import loading
from posttrain.runtime import user_code
from posttrain.runtime.errors import UserError

BATCH_TOKENS = 8192


FUNCTIONS = {"final_number": final_number, "answer_format": answer_format}


def function(name: str) -> Callable[[str, str], float]:
    """The rule of that name, or the function NAME in FILE.py for `FILE.py:NAME`.

    Raises:
        UserError: the file cannot be run, or has no such function.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    return user_code.load(name, "reward.function")


def judge(
    spec: dict, tokenizer: Any, stops: list[int] | None = None
) -> Callable[[list[dict], list[list[int]]], list[float]]:
    """A function of n questions (as `tokens.questions` makes them) and n answers (token ids) that gives n rewards.

    Args:
        stops: the tokens that end an answer; by default the tokenizer's own.

    Raises:
        UserError: the reward model reads other tokens than `tokenizer` writes.
    """
    if "function" in spec:
        rule = function(spec["function"])

        def by_rule(questions: list[dict], answers: list[list[int]]) -> list[float]:
            return [
                rule(_said(tokenizer, row["prompt_ids"], ids), _reference(row))
                for row, ids in zip(questions, answers, strict=True)
            ]

        return by_rule
    name = spec["from"]["name"]
    model = load_judge(name, tokenizer)
    stops = stops or [tokenizer.eos_token_id]
    end = turn_end(loading.tokenizer(_folder(name)), stops)

    def by_model(questions: list[dict], answers: list[list[int]]) -> list[float]:
        read = [as_trained(answer, stops, end) for answer in answers]
        rows = [(*row["prompt_ids"], *answer) for row, answer in zip(questions, read, strict=True)]
        return scoring.rewards(model, rows, BATCH_TOKENS)

    return by_model


def _reference(row: dict) -> str | None:
    """A row's own answer without thoughts; None for a prompt alone."""
    return None if row["reference"] is None else thoughts.answer(row["reference"])


def _said(tokenizer: Any, prompt: list[int], answer: list[int]) -> str:
    """The text of an answer (token ids) without what the model thought before it, from the prompt on."""
    return thoughts.answer(thoughts.opened(tokenizer, prompt) + thoughts.decode(tokenizer, answer))


def as_trained(answer: list[int], stops: list[int], end: int) -> list[int]:
    """An answer as a reward model was trained to read it: one that has ended with its turn's end once, one that was cut as it is."""
    kept = len(answer)
    while kept and answer[kept - 1] in stops:
        kept -= 1
    return answer if kept == len(answer) else [*answer[:kept], end]


def _folder(name: str) -> Path:
    folder = Path(f"results/{name}/merged")
    return folder if folder.exists() else Path(f"results/bases/{name}/model")


def load_judge(name: str, tokenizer: Any, quantised: str | None = None, arithmetic: str = "auto") -> Any:
    """The model of the run (or base) `name`, frozen; `quantised` and `arithmetic` as in `models.load`.

    Raises:
        UserError: it reads other tokens than `tokenizer` writes.
    """
    folder = _folder(name)
    same_tokens(name, loading.tokenizer(folder), tokenizer)
    whole = quantised is None and loading.precision(arithmetic) == "fp32"  # weights in bf16 would be multiplied in bf16
    dtype = torch.float32 if whole else "auto"
    model = loading.load(folder, dtype, quantised, arithmetic=arithmetic, apart=quantised is None)
    return model.eval().requires_grad_(False)


def same_tokens(name: str, theirs: Any, ours: Any) -> None:
    """Refuse a judge with another vocabulary.

    Raises:
        UserError: the same token has another id.
    """
    if theirs.get_vocab() != ours.get_vocab():
        raise UserError(
            f"reward: {name} has another tokenizer than the model that it judges, so it would read other words; "
            "train the reward on a model with the same tokenizer"
        )
