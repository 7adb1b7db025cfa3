"""A judge that is a model of the configuration: whether A or B is the likelier verdict.

Small models often reply with something else than a verdict, and always have a probability for each. So their replies are not
generated: the log-probabilities of `A` and `B` as the first word of the reply are compared.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.evaluation.judging import Reply
from posttrain.inference import decoding, reward_models, scoring
from posttrain.models import loading
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256

AT_ONCE = 8  # questions whose verdicts are written down together
LETTERS = ("A", "B")
BEFORE = ("", " ")  # what may stand before a letter, which depends on the template: both spellings count


class LocalJudge:
    """A base or run that judges; it is loaded when something is asked."""

    def __init__(self, folder: Path, precision: str, batch_tokens: int, place: str) -> None:
        """Judge with the model in a folder.

        Args:
            folder: of the base or run.
            precision: of the arithmetic, `fp32` or `bf16`.
            batch_tokens: tokens that are scored at once.
            place: the key of the configuration that names it.
        """
        self.folder, self.precision, self.batch_tokens, self.place = folder, precision, batch_tokens, place
        self.identity: list[Any] = ["model", sha256(reward_models.manifest(folder)), precision]

    def cost(self, reply: Reply) -> None:
        """Nothing is known of it."""

    def ask(self, texts: Mapping[str, str], spent: float = 0.0) -> Iterator[tuple[str, Reply]]:
        """The likelier letter for each text; `tie` where both are as likely.

        Raises:
            UserError: a text is longer than the model's context.
        """
        model, tokenizer = self._load()
        special = special_tokens(tokenizer)
        prompts = {name: self._encode(tokenizer, apart(text, special)) for name, text in texts.items()}
        self._check_lengths(model, [len(prompt) + 1 for prompt in prompts.values()])
        spelt = [tokenizer.encode(gap + letter, add_special_tokens=False) for letter in LETTERS for gap in BEFORE]
        names = list(prompts)
        for some in (names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)):
            rows = [scoring.answer(prompts[name], ids) for name in some for ids in spelt]
            found = iter([score.log_prob for score in scoring.scores(model, rows, self.batch_tokens)])
            for name in some:
                a, b = (_either(next(found), next(found)) for _ in LETTERS)
                yield name, Reply("tie" if a == b else LETTERS[b > a], len(prompts[name]), 1)

    def _load(self) -> tuple[Any, Any]:
        import torch

        weights = reward_models.weights(self.folder)
        whole = {"dtype": torch.float32, "arithmetic": "fp32"}
        options = whole if self.precision == "fp32" else {"arithmetic": "bf16", "apart": True}
        return loading.load(weights, **options).eval().requires_grad_(False), loading.tokenizer(weights)

    def _encode(self, tokenizer: Any, text: str) -> list[int]:
        from posttrain.data.tokens import prompt_tokens

        return prompt_tokens(tokenizer, [{"role": "user", "content": text}])

    def _check_lengths(self, model: Any, lengths: list[int]) -> None:
        longest = decoding.context(model)
        over = sum(longest is not None and length > longest for length in lengths)
        if over:
            problem = f"{over} of {len(lengths)} questions have more tokens than the judge's context of {longest}"
            raise UserError(
                "too-long", self.place, problem, "write a smaller max_new_tokens, or name a judge that reads more"
            )


def _either(first: float, second: float) -> float:
    """The log-probability of one of two, from both."""
    most = max(first, second)
    return most + math.log(math.exp(first - most) + math.exp(second - most))


def special_tokens(tokenizer: Any) -> list[str]:
    """The texts that a tokenizer reads as control tokens, such as the end of a turn."""
    return sorted(
        str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and len(str(token)) > 1
    )


def apart(text: str, special: list[str]) -> str:
    """The text with a blank in every control token, so that an answer that spells one does not end the judge's question."""
    for token in special:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
