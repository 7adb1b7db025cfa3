"""TRL's trainers, given the tokens and reference log-probabilities that they would compute themselves.

Checked with TRL 1.16.0. Tokens and log-probabilities are stages of their own here, shared by every run that needs them, and TRL
has no argument for rows that are prepared already: DPOTrainer ignores such columns or computes them again. Each class replaces
the private method that prepares the rows. They can go once TRL accepts prepared rows in these trainers, as SFTTrainer and
RewardTrainer do.
"""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from posttrain.runtime import processes

CHECKED = {"trl": "1.16.0"}
IGNORED = -100  # label of a token that is not trained


def prepared_dpo() -> type:
    """DPOTrainer for rows of prompt_ids, chosen_ids, rejected_ids, ref_chosen_logps and ref_rejected_logps."""
    from trl import DPOTrainer

    class PreparedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
            return dataset

    return PreparedDPOTrainer


def prepared_kto() -> type:
    """KTOTrainer for rows of prompt_ids, completion_ids, label and KL_completion_ids."""
    from trl import KTOTrainer

    class PreparedKTOTrainer(KTOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
            # Each process would look for what the first one has written under a name of its own.
            file = processes.by_main(lambda: dataset._get_cache_file_path(""))
            dataset._get_cache_file_path = lambda _: file
            return super()._precompute_ref_logps(dataset, *args)

    return PreparedKTOTrainer


def gathers_means(trainer: Any) -> bool:
    """Whether the numbers that a trainer gathers from each process, to log them, are means over its rows; others gather sums."""
    return bool({"RewardTrainer", "ORPOTrainer", "CPOTrainer"} & {kind.__name__ for kind in type(trainer).__mro__})


def prepared_pairs(trainer: type) -> type:
    """TRL's ORPOTrainer or CPOTrainer for rows of prompt_ids, chosen_ids and rejected_ids."""

    class PreparedPairTrainer(trainer):
        def tokenize_row(self, feature: dict, model: Any = None) -> dict:
            return pair_columns(feature)

        def concatenated_forward(self, model: Any, batch: dict) -> tuple:
            chosen, *others = super().concatenated_forward(model, batch)
            if processes.count() > 1:  # the chosen completions' loss is a mean over the tokens of all processes' rows
                labels = batch["chosen_labels"]
                own = torch.tensor([[float((labels != IGNORED).sum()), len(labels)]], device=labels.device)
                tokens, rows = self.accelerator.gather(own).sum(0)
                others[3] = others[3] * (own[0, 0] / own[0, 1] * rows / tokens)
            return (chosen, *others)

    return PreparedPairTrainer


def pair_columns(row: dict) -> dict:
    """A row of token lists as the `tokenize_row` of ORPOTrainer and CPOTrainer returns it.

    Only the tokens of a completion have a label; those of the prompt are `IGNORED`.
    """
    prompt = row["prompt_ids"]
    columns = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        ids = prompt + row[f"{side}_ids"]
        columns |= {
            f"{side}_input_ids": ids,
            f"{side}_attention_mask": [1] * len(ids),
            f"{side}_labels": [IGNORED] * len(prompt) + row[f"{side}_ids"],
        }
    return columns


def completions_only_orpo() -> type:
    """ORPOTrainer whose loss of the chosen completion leaves its prompt out, as the paper's does.

    TRL's own loss also trains the prompt of the chosen completion. This one can go once that is an option.
    """
    from trl.experimental.orpo import ORPOTrainer

    class CompletionsOnly(ORPOTrainer):
        def concatenated_forward(self, model: Any, batch: dict) -> tuple:
            chosen, *others = super().concatenated_forward(model, batch)
            lengths = (batch["chosen_labels"] != IGNORED).sum(1)
            others[3] = -(chosen * lengths).sum() / lengths.sum()  # TRL's loss of the chosen rows
            return (chosen, *others)

    return CompletionsOnly


def prepared_sampler(name: str, package: str = "trl") -> type:
    """GRPOTrainer, RLOOTrainer or one that inherits from them, for prompts that are token ids.

    Args:
        name: of the objective, such as `grpo`.
        package: that the trainer is in.
    """

    class PreparedSampler(getattr(importlib.import_module(package), f"{name.upper()}Trainer")):
        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple:
            return prompts, None, {}

    return PreparedSampler


def media_sampler(
    name: str, package: str, read: Callable[[Any, torch.Tensor, list], dict[str, torch.Tensor]], placeholders: list[int]
) -> type:
    """As `prepared_sampler`, for rows with a column `files` about which the prompts are.

    TRL would write the prompts with the processor's own template, and keep all pixels of a rollout in memory. Here a micro-batch keeps
    its files, and what the model reads of them is computed for each pass.

    Args:
        read: what a model reads of rows beside their token ids: the model, ids (n, width), the files of each row.
        placeholders: tokens that stand for files, which are never sampled.
    """

    class MediaSampler(prepared_sampler(name, package)):
        files: list = []  # of the rows that go through the model

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.generation_kwargs["suppress_tokens"] = placeholders
            self.generation_config.suppress_tokens = placeholders

        def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
            self.files = [row["files"] for row in inputs]
            return super()._generate_and_score_completions(inputs) | {"files": self.files}

        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple:
            width, pad = max(map(len, prompts)), self._tokenizer.pad_token_id
            ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
            return prompts, None, read(self.model, ids, self.files)

        def compute_loss(self, model: Any, batch: dict, *args: Any, **options: Any) -> Any:
            self.files = batch["files"]
            return super().compute_loss(model, batch, *args, **options)

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: Any,
            attention_mask: Any,
            logits_to_keep: int,
            batch_size: Any = None,
            **options: Any,
        ) -> tuple:
            found, size = [], batch_size or len(input_ids)
            for some in (slice(start, start + size) for start in range(0, len(input_ids), size)):
                files = self.files[some]
                given = options | read(self.model, input_ids[some], files) | {"num_images": list(map(len, files))}
                text = input_ids[some], attention_mask[some], logits_to_keep
                found.append(super()._get_per_token_logps_and_entropies(model, *text, **given))
            return tuple(map(_joined, zip(*found, strict=True)))

    return MediaSampler


def _joined(parts: tuple) -> Any:
    """What was computed of some rows after the other: (n, ...), one number, or nothing."""
    if parts[0] is None:
        return None
    return torch.cat(parts) if parts[0].ndim else torch.stack(parts).mean()


def agent_sampler(play: Callable[[Any, list[dict]], dict[str, list]]) -> type:
    """GRPOTrainer whose completions are episodes, see `inference.episodes`.

    TRL's own `environment_factory` parses calls by a template of its own and takes prompts as messages; its `rollout_func` gets
    prompts alone, and the row's other columns are needed.

    Args:
        play: gives, for the trainer and n rows, lists of n: `prompt_ids`, `completion_ids`, `env_mask` (1 where the model wrote a
            token) and further columns for the reward functions.
    """

    class AgentSampler(prepared_sampler("grpo")):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*rollout_func.*experimental")
                super().__init__(*args, rollout_func=lambda _, trainer: trainer._played(), **kwargs)

        def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
            self._rows = inputs
            return super()._generate_and_score_completions(inputs)

        def _played(self) -> dict[str, Any]:
            return play(self, self._rows) | {"logprobs": None}

        def continued(self, texts: list[list[int]], room: int) -> list[list[int]]:
            """Sample a continuation of each text (token ids), of at most `room` tokens."""
            whole = self.generation_config.max_new_tokens
            self.generation_config.max_new_tokens = room
            try:
                return self._generate_single_turn(texts, None, {}, self.num_generations)[0]
            finally:
                self.generation_config.max_new_tokens = whole

    return AgentSampler


def counting_sft() -> type:
    """SFTTrainer that counts the tokens of a batch without an attention mask by its key `tokens`.

    TRL takes the width of such a batch for their number, padding included.
    """
    from trl import SFTTrainer

    class CountingSFTTrainer(SFTTrainer):
        def compute_loss(self, model: Any, inputs: dict, *args: Any, **kwargs: Any) -> Any:
            tokens, before = inputs.pop("tokens", None), self._total_train_tokens
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            if tokens and self.model.training:
                self._total_train_tokens = before + sum(processes.gathered(tokens))
                self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            return loss

    return CountingSFTTrainer


def classifier() -> type:
    """RewardTrainer that learns the classes of texts: rows of `input_ids` and `labels`, the numbers of their classes.

    TRL has no trainer of classifiers; this one has RewardTrainer's adapters, arguments and log. Its own head has one score, which it
    insists on, so it is shown a configuration of one label.
    """
    from trl import RewardTrainer

    class ClassifierTrainer(RewardTrainer):
        def __init__(self, model: Any, processing_class: Any, **options: Any) -> None:
            names = model.config.id2label, model.config.label2id
            model.config.id2label, model.config.label2id = {0: ""}, {"": 0}
            pad = processing_class.pad_token_id

            def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
                ids = [torch.tensor(row["input_ids"]) for row in rows]
                return {
                    "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
                    "attention_mask": pad_sequence(list(map(torch.ones_like, ids)), batch_first=True),
                    "labels": torch.tensor([row["labels"] for row in rows]),
                }

            given = options | {"data_collator": collate}
            super().__init__(model=model, processing_class=processing_class, **given)
            self.model.config.id2label, self.model.config.label2id = names

        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["input_ids", "labels"]

        def compute_loss(
            self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            mode = "train" if self.model.training else "eval"
            labels = inputs["labels"]
            given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
            outputs = model(**given, use_cache=False)
            loss = torch.nn.functional.cross_entropy(outputs.logits.float(), labels)
            if mode == "train":
                self._total_train_tokens += sum(processes.gathered(int(given["attention_mask"].sum())))
            right = (outputs.logits.argmax(-1) == labels).float().mean()
            self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
            self._metrics[mode]["accuracy"].append(self.accelerator.gather_for_metrics(right).mean().item())
            return (loss, outputs) if return_outputs else loss

    return ClassifierTrainer


def config_of(name: str, package: str = "trl") -> Callable[..., Any]:
    """TRL's configuration class of a trainer, such as `DPOConfig` for `dpo`."""
    return getattr(importlib.import_module(package), f"{name.upper()}Config")
