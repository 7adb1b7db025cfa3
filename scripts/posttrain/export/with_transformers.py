"""transformers as the program that runs an export: loaded as its users load it, in the type that the files have."""

import logging
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from posttrain.data import conversations
from posttrain.export.programs import Scored
from posttrain.inference import decoding, scoring
from posttrain.models import adapters, loading
from posttrain.models.base_inspection import first_line
from posttrain.models.out_of_memory import is_out_of_memory
from posttrain.runtime.errors import UserError


class Transformers:
    """A model in transformers, and the tokenizer beside it. It is a `programs.Program`."""

    name = "transformers"

    def __init__(
        self, folder: Path, dtype: Any = "auto", base: Path | None = None, hashes: dict[str, str] | None = None
    ) -> None:
        """Load what lies in `folder`.

        Args:
            folder: safetensors with their configuration and tokenizer, or an adapter, beside its base or exported without it.
            dtype: torch's type of the weights, by default the files' own.
            base: the model that an exported adapter belongs to; its weights are in float32.
            hashes: SHA-256 of the base's files.

        Raises:
            UserError: transformers cannot load it, or the base is another one.
        """
        logging.getLogger("transformers").setLevel(logging.ERROR)
        self.version = version("transformers")
        start = time.perf_counter()
        self.model = self._load(folder, dtype).eval() if base is None else adapters.load(base, folder, hashes=hashes)
        self.load_seconds = time.perf_counter() - start
        self.model.arithmetic = "fp32"  # of what is added here: nothing; the weights' own type decides
        self.tokenizer = loading.tokenizer(folder)
        self.is_reward = loading.is_reward(folder)

    def _load(self, folder: Path, dtype: Any) -> Any:
        if (folder / "adapter_config.json").exists():
            return loading.load(folder, dtype, arithmetic="fp32")
        family = AutoModelForSequenceClassification if loading.is_reward(folder) else AutoModelForCausalLM
        options = {"dtype": dtype, "device_map": {"": loading.DEVICE}}
        try:
            return family.from_pretrained(folder, use_safetensors=True, trust_remote_code=False, **options)
        except Exception as error:  # whatever a broken folder, or the quantiser's library, makes transformers raise
            if is_out_of_memory(error):
                raise
            problem = f"transformers cannot load this export: {first_line(error)}"
            raise UserError("unreadable-model", f"{folder}", problem) from None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The token ids of rendered prompts."""
        return [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    def render(self, turns: list[list[dict[str, Any]]], tools: list[list[dict] | None] | None = None) -> list[str]:
        """Prompts by the chat template beside the model."""
        functions = tools or [None] * len(turns)
        return [rendered(self.tokenizer, *one) for one in zip(turns, functions, strict=True)]

    def score(self, sequences: list[tuple[list[int], list[int]]]) -> list[Scored]:
        """Log-probabilities and likeliest tokens, one answer after the other, so that none changes another's bits."""
        return [self._score(*sequence) for sequence in sequences]

    def _score(self, prompt: list[int], answer: list[int]) -> Scored:
        ids = torch.tensor([[*prompt, *answer]], device=self.model.device)
        with torch.no_grad():
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        logits = logits[-len(answer) - 1 : -1].float()
        targets = torch.tensor(answer, device=logits.device)[:, None]
        values = logits.gather(1, targets)[:, 0] - logits.logsumexp(-1)
        return Scored(values.tolist(), logits.argmax(-1).tolist())

    def generate(self, prompts: list[list[int]], max_new_tokens: int, stop: list[int]) -> list[list[int]]:
        """Greedy continuations, in batches of neighbours in length."""
        outputs: list[list[int]] = [[] for _ in prompts]
        for batch in scoring.prompt_batches(prompts, max_new_tokens):
            some = [prompts[i] for i in batch]
            with torch.no_grad():
                options = decoding.greedy(self.model) | {"max_new_tokens": max_new_tokens}
                found = scoring.continue_prompts(self.model, self.tokenizer, some, stop, **options).tolist()
            for i, ids in zip(batch, found, strict=True):
                end = next((at for at, token in enumerate(ids) if token in stop), len(ids))
                outputs[i] = ids[: end + 1]
        return outputs

    def rewards(self, rows: list[tuple[int, ...]]) -> list[float]:
        """A reward model's score of each row, the tokens of a prompt and its answer."""
        return [score for row in rows for score in scoring.rewards(self.model, [row], len(row))]

    def peak_memory(self) -> int:
        """Bytes of this process, or of the GPU where the model is there."""
        if self.model.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def close(self) -> None:
        """Let go of the model."""
        del self.model


def rendered(tokenizer: Any, turns: list[dict[str, Any]], tools: list[dict] | None = None) -> str:
    """A prompt as `apply_chat_template` makes it on the date of training, which is what every program is compared with."""
    conversations.pin_date(tokenizer, tools)
    return tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=True)
