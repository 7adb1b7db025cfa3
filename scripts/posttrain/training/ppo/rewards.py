"""Rewards of completions from a spec's `reward`: a rule, a reward model, or a DPO run's rewards token by token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from posttrain.data.tokens import turn_end
from posttrain.inference import reward_models, scoring
from posttrain.inference.rollout import Rows, completion_log_probs, pack
from posttrain.methods import METHODS
from posttrain.models import loading, token_rows
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.training.ppo.actor_critic import ActorCritic

SHARED_ARGS = {"use_rslora", "use_dora"}  # other peft_args may change the parent's own weights, as PiSSA does


class TokenRewards(NamedTuple):
    """Rewards of n completions: the score (n,), and RTO's reward of each token (n, t) or None."""

    scores: torch.Tensor
    tokens: torch.Tensor | None


class Rewards:
    """Rewards of completions; a reward model that was trained on the policy's own parent is an adapter of the same model."""

    def __init__(self, net: ActorCritic, spec: dict, tokenizer: Any, models: Mapping[str, Path]) -> None:
        """Rewards of a run's spec; `models` are the folders of the models that they come from, by name."""
        self.net, self.spec, self.tokenizer, self.models = net, spec["reward"], tokenizer, models
        self.parent, self.method = spec["from"]["name"], METHODS[spec["method"]]
        self.start, self.any_shape = spec.get("value_start", "auto"), not spec.get("value_rank")
        self.stops = scoring.stop_tokens(net.policy, tokenizer)
        self.implicit = self.spec.get("kind") == "implicit"
        scorer = {"sequence" if self.implicit else "from"} & self.spec.keys()
        self.head = self.score = None
        if "function" in self.spec:
            self.score = reward_models.reward_function(self.spec, tokenizer, self.stops)
        elif scorer:
            self._load_scorer(self.spec[scorer.pop()]["name"])
        self.sources = {key: self._source(key) for key in ("from", "reference") if self.implicit}

    def _load_scorer(self, name: str) -> None:
        starts = False
        if self._shares(name):
            self.head = self.net.add_role("reward", self.models[name] / "trained")
            starts = self.start != "zero" and self.net.start_value(self.head, self.any_shape)
        else:
            self.score = reward_models.reward_function(
                {"from": {"name": name}}, self.tokenizer, self.stops, self.models
            )
        if self.start == "reward" and not starts:
            raise UserError(
                "wrong-reward-model",
                "value_start",
                f"the value cannot start as {name}, which is not a LoRA on {self.parent} of rank value_rank that left its weights "
                "unchanged",
                "write value_start: auto, or take value_rank out",
            )

    def _source(self, key: str) -> Any:
        """The role of a policy that an implicit reward is made of, or its model where it has none here.

        A DPO run in 4 bits has a reference in 4 bits; a parent held otherwise would put rounding into the reward.
        """
        name = self.spec[key]["name"]
        trained = read_json(self.models[self.spec["from"]["name"]] / "spec.json")
        in_4_bits = key == "reference" and METHODS[trained["method"]].four_bit
        bits = loading.precision(trained["precision"]) if in_4_bits else None
        if name == self.parent and in_4_bits == self.method.four_bit:
            return "reference"
        if key == "from" and self._shares(name):
            self.net.add_role("dpo", self.models[name] / "trained")
            return "dpo"
        return reward_models.load_reward_model(self.models[name], self.tokenizer, bits)

    def _shares(self, name: str) -> bool:
        """Whether a run is a LoRA on our own parent, held in the same bits, that left the parent's weights unchanged."""
        file = self.models[name] / "spec.json"
        theirs = read_json(file) if file.exists() else {}
        row, ours = METHODS.get(theirs.get("method")), METHODS["lora"] if self.method.full else self.method
        if row is not ours or not row.low_rank or theirs["from"]["name"] != self.parent:
            return False
        if not theirs["peft_args"].keys() <= SHARED_ARGS:
            return False
        adapter = read_json(self.models[name] / "trained/adapter_config.json")
        return not adapter.get(token_rows.KEY)  # rows of the embedding, which a base with new tokens has

    def __call__(self, prompts: list[dict], completions: list[list[int]], rows: Rows) -> TokenRewards:
        """The rewards of n completions of n prompts; to be called without gradients."""
        scores = torch.zeros(len(completions), device=rows.ids.device)
        if self.head is not None:
            scores = self._adapter_scores(prompts, completions, rows.ids.device)
        elif self.score is not None:
            scores = torch.tensor(self.score(prompts, completions), device=rows.ids.device)
        if not self.implicit:
            return TokenRewards(scores, None)
        policy, reference = (self._log_probs(self.sources[key], rows) for key in ("from", "reference"))
        return TokenRewards(scores, self.spec["beta"] * (policy - reference))

    def _log_probs(self, source: Any, rows: Rows) -> torch.Tensor:
        if isinstance(source, str):
            return self.net.log_probs(source, rows, 1.0)
        return completion_log_probs(source, rows, 1.0)

    def _adapter_scores(self, prompts: list[dict], completions: list[list[int]], device: Any) -> torch.Tensor:
        """As transformers' reward models do: the head at the last token that is not the pad token."""
        end, pad = turn_end(self.tokenizer, self.stops), self.tokenizer.pad_token_id
        trained = [reward_models.as_trained(completion, self.stops, end) for completion in completions]
        rows = pack(prompts, trained, pad, device)
        real = rows.ids != pad
        last = (torch.arange(rows.ids.shape[1], device=device) * real).argmax(1)
        ends = Rows(rows.ids, last + 1, torch.ones_like(last))  # the token after the last is "predicted" from it
        return (self.net.hidden("reward", ends)[:, 0].float() @ self.head.float().T)[:, 0]
