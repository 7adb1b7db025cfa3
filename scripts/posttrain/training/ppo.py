"""Proximal policy optimisation (Schulman et al. 2017) as RLHF uses it (Ouyang et al. 2022), and RTO (Zhong et al. 2024).

The details are those of Huang et al. 2024, "The N+ implementation details of RLHF with PPO": the KL penalty token by token,
the score on the answer's last token, a penalty for an answer that does not end, no dropout, whitened advantages, values
and reward from adapters with a head, the value starting as the reward model where it can.

There is one copy of the weights. The reference is the parent: the adapter switched off. The value is a second adapter with
a head; a reward model or a DPO run that was trained as LoRA on the same parent is a third. Full fine-tuning moves a copy
of its own, and the other roles stay on the parent's.

Shapes: n answers of at most t tokens, w the longest prompt with its answer; a mask (n, t) says which tokens are the answer's.
"""

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer

from posttrain.data.tokens import turn_end
from posttrain.inference import reward_models, scoring
from posttrain.inference.rollout import Rows, answer_log_probs, hidden_states, joined, pack
from posttrain.methods import METHODS
from posttrain.models import loading, peft_methods, token_rows, value_model
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.training import loop

HORIZON = 10_000  # answers over which the KL coefficient adapts (Ziegler et al. 2019)
SHARED_ARGS = {"use_rslora", "use_dora"}  # other peft_args may move the parent's own weights, as PiSSA does

# Nothing of a model's own generation configuration may come between the policy and its samples.
UNCHANGED = {"top_k": 0, "top_p": 1.0, "min_p": None, "typical_p": 1.0, "repetition_penalty": 1.0}
UNCHANGED |= {"no_repeat_ngram_size": 0}

# ---- the equations


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values (n, t) where the mask is true."""
    return (values * mask).sum() / mask.sum()


def whiten(values: torch.Tensor, mask: torch.Tensor, shift: bool = True) -> torch.Tensor:
    """Values (n, t) scaled to variance 1 over the mask, and to mean 0 unless told to keep it."""
    mean = masked_mean(values, mask)
    variance = ((values - mean).square() * mask).sum() / (mask.sum() - 1).clamp(min=1)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift else whitened + mean) * mask


def token_rewards(
    scores: torch.Tensor,
    kl: torch.Tensor,
    mask: torch.Tensor,
    kl_coefficient: float,
    tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """What each token earns (n, t): minus its share of the KL divergence, the answer's score (n,) at the last one.

    Args:
        kl: log(policy / reference) of each token (n, t).
        tokens: RTO's reward of each token (n, t), beta log(dpo / its reference).
    """
    last = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1]).to(scores.dtype)
    earned = -kl_coefficient * kl + last * scores[:, None]
    return (earned if tokens is None else earned + tokens) * mask


def advantages(
    earned: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) and the returns that the value learns, both (n, t).

    delta_i = r_i + gamma V_{i+1} - V_i;  A_i = delta_i + gamma lambda A_{i+1};  R_i = A_i + V_i. V is 0 after the end.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    deltas = (earned + gamma * following - values) * mask
    result, running = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for i in reversed(range(deltas.shape[1])):
        running = deltas[:, i] + gamma * gae_lambda * running
        result[:, i] = running
    return result * mask, (result + values) * mask


def policy_losses(new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """Clipped surrogate of each token (Schulman et al. 2017, eq. 7), from log-probabilities."""
    ratio = (new - old).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def value_losses(new: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of each token's value, clipped around the value before the update."""
    clipped = torch.minimum(torch.maximum(new, old - clip), old + clip)
    return 0.5 * torch.maximum((new - returns).square(), (clipped - returns).square())


def adapted(coefficient: float, kl: float, target: float | None, answers: int) -> float:
    """The KL coefficient for the next rollout (Ziegler et al. 2019, section 2.2); the same one without a target."""
    if target is None:
        return coefficient
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * answers / HORIZON)


# ---- one copy of the weights, several roles


class ActorCritic(nn.Module):
    """Policy, reference and value, and where they share the parent also the reward, over one backbone."""

    def __init__(self, parent: Path, spec: dict) -> None:
        super().__init__()
        model = loop.load_parent(parent, spec)
        config = peft_methods.adapter(spec, model, steps=0)  # only AdaLoRA counts them, which cannot be had here
        value = value_model.configuration(spec, config, model)
        if config is None:
            self.policy = model
            self.backbone = get_peft_model(loading.parent(parent, spec), value, adapter_name="value")
        else:
            self.policy = self.backbone = get_peft_model(model, config)
            self.backbone.add_adapter("value", value)
            if isinstance(model.get_output_embeddings(), BaseTunerLayer):
                raise UserError("target_modules: ppo reads the LM head's own weight only; take lm_head out")
        width = self.backbone.config.get_text_config().hidden_size
        self.value_head = nn.Linear(width, 1, bias=False, device=model.device)
        nn.init.zeros_(self.value_head.weight)
        self.full = config is None
        self.moving = [p for name, p in self.named_parameters() if self._moves(name)]
        self._only_moving()

    def _moves(self, name: str) -> bool:
        own = self.full and name.startswith("policy.")
        return own or self._is_value(name) or re.search(r"\.default(\.|$)", name) is not None

    @staticmethod
    def _is_value(name: str) -> bool:
        return name.startswith("value_head") or re.search(r"\.value(\.|$)", name) is not None

    @property
    def value_parameters(self) -> list[nn.Parameter]:
        """What the value loss moves."""
        return [p for name, p in self.named_parameters() if self._is_value(name)]

    def _only_moving(self) -> None:
        """PEFT lets the active adapter move and holds the others; here two move, whichever is active."""
        self.requires_grad_(False)
        for parameter in self.moving:
            parameter.requires_grad_(True)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Recompute the activations of every role that is trained."""
        for model in {self.policy, self.backbone}:
            model.gradient_checkpointing_enable(**options)
            model.enable_input_require_grads()

    @contextlib.contextmanager
    def role(self, name: str) -> Iterator[Any]:
        """The model as "policy", as "reference", as "value", or as another adapter of the backbone."""
        if name == "policy" and self.full:
            yield self.policy
        elif name == "reference":
            with self.backbone.disable_adapter():
                yield self.backbone
            self._only_moving()
        else:
            self._activate("default" if name == "policy" else name)
            yield self.backbone
            self._activate("value" if self.full else "default")

    def _activate(self, adapter: str) -> None:
        self.backbone.set_adapter(adapter)
        self._only_moving()

    def hidden(self, name: str, rows: Rows) -> torch.Tensor:
        """The hidden states (n, t, d) from which each token of the answers is predicted, of one of the roles."""
        with self.role(name) as model:
            return hidden_states(model, rows)

    def log_probs(self, name: str, rows: Rows, temperature: float) -> torch.Tensor:
        """Log-probabilities (n, t) of the answers' tokens, of one of the roles."""
        with self.role(name) as model:
            return answer_log_probs(model, rows, temperature)

    def values(self, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Values (n, t) from hidden states of the role "value"."""
        return self.value_head(hidden.float())[..., 0] * rows.mask()

    def add_role(self, name: str, trained: Path) -> torch.Tensor | None:
        """Load an adapter that was trained on the same parent; returns the head (1, d) of a reward model's."""
        config = PeftConfig.from_pretrained(trained)
        config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, True
        self.backbone.add_adapter(name, config)
        weights = load_file(trained / "adapter_model.safetensors", device=str(self.value_head.weight.device))
        heads = [key for key in weights if key.endswith("score.weight")]
        head = [weights.pop(key) for key in heads]
        set_peft_model_state_dict(self.backbone, weights, adapter_name=name)
        self._activate("value" if self.full else "default")
        return head[0] if head else None

    def start_value(self, head: torch.Tensor, any_shape: bool) -> bool:
        """Let the value start as the reward model; returns whether it does.

        Args:
            head: the reward model's, (1, d).
            any_shape: the value's adapter takes the reward model's shape and scale where its own differ.
        """
        ours, theirs = (self.backbone.peft_config[role] for role in ("value", "reward"))
        if value_model.differs(ours, theirs):
            if not any_shape:
                return False
            self._reshape_value(theirs)
        own, reward = (
            {name.replace(f".{role}.", "."): p for name, p in self.backbone.named_parameters() if f".{role}." in name}
            for role in ("value", "reward")
        )
        for name, parameter in own.items():
            parameter.data.copy_(reward[name])
        self.value_head.weight.data.copy_(head)
        return True

    def _reshape_value(self, config: PeftConfig) -> None:
        config = copy.deepcopy(config)
        config.inference_mode = False
        self.backbone.delete_adapter("value")
        self.backbone.add_adapter("value", config)
        self.moving = [p for name, p in self.named_parameters() if self._moves(name)]
        self._activate("value" if self.full else "default")


# ---- what answers earn


class Earnings(NamedTuple):
    """Of n answers: the score (n,), and RTO's reward of each token (n, t) or None."""

    scores: torch.Tensor
    tokens: torch.Tensor | None


class Judges:
    """Rewards of answers from the spec's `reward`: a rule, a reward model, or a DPO run's token by token."""

    def __init__(self, net: ActorCritic, spec: dict, tokenizer: Any) -> None:
        self.net, self.spec, self.tokenizer = net, spec["reward"], tokenizer
        self.parent, self.method = spec["from"]["name"], spec["method"]
        self.start, self.any_shape = spec.get("value_start", "auto"), not spec.get("value_rank")
        self.stops = scoring.stop_tokens(net.policy, tokenizer)
        self.implicit = self.spec.get("kind") == "implicit"
        scorer = {"sequence" if self.implicit else "from"} & self.spec.keys()
        self.head = self.score = None
        if "function" in self.spec:
            self.score = reward_models.judge(self.spec, tokenizer, self.stops)
        elif scorer:
            self._load_scorer(self.spec[scorer.pop()]["name"])
        self.sources = {key: self._source(key) for key in ("from", "reference") if self.implicit}

    def _load_scorer(self, name: str) -> None:
        starts = False
        if self._shares(name):
            self.head = self.net.add_role("reward", Path(f"results/{name}/trained"))
            starts = self.start != "zero" and self.net.start_value(self.head, self.any_shape)
        else:
            self.score = reward_models.judge({"from": {"name": name}}, self.tokenizer, self.stops)
        if self.start == "reward" and not starts:
            raise UserError(
                f"value_start: the value cannot start as {name}, which is not a LoRA on {self.parent} of rank value_rank that "
                "left its weights alone; write value_start: auto, or take value_rank out"
            )

    def _source(self, key: str) -> Any:
        """The role of a policy that an implicit reward is made of, or its model where it has none here.

        A DPO run in 4 bits has a reference in 4 bits; a parent held otherwise would put rounding into the reward.
        """
        name = self.spec[key]["name"]
        judge = read_json(Path(f"results/{self.spec['from']['name']}/spec.json"))
        bits = loading.precision(judge["precision"]) if key == "reference" and judge["method"] == "qlora" else None
        if name == self.parent and (bits is not None) == (self.method == "qlora"):
            return "reference"
        if key == "from" and self._shares(name):
            self.net.add_role("dpo", Path(f"results/{name}/trained"))
            return "dpo"
        return reward_models.load_judge(name, self.tokenizer, bits)

    def _shares(self, name: str) -> bool:
        """Whether a run is a LoRA on our own parent, held in the same bits, that left the parent's weights alone."""
        file = Path(f"results/{name}/spec.json")
        theirs = read_json(file) if file.exists() else {"method": None}
        ours = "lora" if self.method == "full" else self.method
        if not METHODS[theirs["method"]].low_rank or theirs["method"] != ours or theirs["from"]["name"] != self.parent:
            return False
        if not theirs["peft_args"].keys() <= SHARED_ARGS:
            return False
        adapter = read_json(Path(f"results/{name}/trained/adapter_config.json"))
        return not adapter.get(token_rows.KEY)  # rows of the embedding, which a base with new tokens has

    def __call__(self, questions: list[dict], answers: list[list[int]], rows: Rows) -> Earnings:
        """The rewards of n answers to n questions; to be called without gradients."""
        scores = torch.zeros(len(answers), device=rows.ids.device)
        if self.head is not None:
            scores = self._adapter_scores(questions, answers, rows.ids.device)
        elif self.score is not None:
            scores = torch.tensor(self.score(questions, answers), device=rows.ids.device)
        if not self.implicit:
            return Earnings(scores, None)
        policy, reference = (self._log_probs(self.sources[key], rows) for key in ("from", "reference"))
        return Earnings(scores, self.spec["beta"] * (policy - reference))

    def _log_probs(self, source: Any, rows: Rows) -> torch.Tensor:
        return self.net.log_probs(source, rows, 1.0) if isinstance(source, str) else answer_log_probs(source, rows, 1.0)

    def _adapter_scores(self, questions: list[dict], answers: list[list[int]], device: Any) -> torch.Tensor:
        """As transformers' reward models do: the head at the last token that is not the pad token."""
        end, pad = turn_end(self.tokenizer, self.stops), self.tokenizer.pad_token_id
        rows = pack(questions, [reward_models.as_trained(answer, self.stops, end) for answer in answers], pad, device)
        real = rows.ids != pad
        last = (torch.arange(rows.ids.shape[1], device=device) * real).argmax(1)
        ends = Rows(rows.ids, last + 1, torch.ones_like(last))  # the token after the last is "predicted" from it
        return (self.net.hidden("reward", ends)[:, 0].float() @ self.head.float().T)[:, 0]


# ---- the trainer


def schedule(prompts: int, spec: dict) -> tuple[list[list[int]], list[dict]]:
    """Which prompts each rollout answers, and one row for each answer that a step trains on.

    A row has its `rollout`, its `slot` among the rollout's answers, and its `peers`, the slots of its optimiser step.
    """
    size, epochs = spec["batch_size"], spec["epochs"]
    rollouts = spec["max_steps"] or max(1, round(prompts * epochs / size))
    order = loop.row_order([1] * prompts, size, epochs, rollouts, spec["seed"])
    rows = []
    for rollout in range(rollouts):
        for epoch in range(spec["ppo_epochs"]):
            slots = np.random.default_rng([spec["seed"], rollout, epoch]).permutation(size)
            for peers in np.split(slots, spec["minibatches"]):
                rows += [{"rollout": rollout, "slot": int(slot), "peers": peers.tolist()} for slot in peers]
    return [order[i * size : (i + 1) * size] for i in range(rollouts)], rows


def collate(rows: list[dict]) -> dict[str, Any]:
    """A forward pass's part of an optimiser step: its rollout, its slots and those of the whole step."""
    slots = torch.tensor([row["slot"] for row in rows])
    return {"rollout": rows[0]["rollout"], "slots": slots, "peers": torch.tensor(rows[0]["peers"])}


class PPOTrainer(Trainer):
    """Transformers' trainer over a schedule of rollouts; a checkpoint holds the rollout that it interrupts."""

    def __init__(
        self, spec: dict, questions: list[list[dict]], judges: Callable[..., Earnings], **options: Any
    ) -> None:
        super().__init__(**options)
        self.spec, self.questions, self.judges = spec, questions, judges
        self.rollout: dict[str, torch.Tensor] = {}
        self.stats: dict[str, list[float]] = {}
        self.tokens = 0

    def training_step(self, model: ActorCritic, inputs: dict, num_items_in_batch: Any = None) -> torch.Tensor:
        """Backward of the policy's and then of the value's loss, each a mean over the tokens of the optimiser step."""
        if not self.rollout or int(self.rollout["number"]) != inputs["rollout"]:
            self.rollout = self.collect(model, inputs["rollout"])
        model.eval()  # without dropout
        for module in model.modules():
            module.training = getattr(module, "gradient_checkpointing", False)  # a layer computes again only where set
        slots = inputs["slots"].to(model.value_head.weight.device)
        rows = Rows(*(self.rollout[name] for name in Rows._fields)).take(slots)
        mask = rows.mask()
        old = {name: self.rollout[name][slots, : mask.shape[1]] for name in ("old", "advantage", "returns", "values")}
        total = self.rollout["answers"][inputs["peers"].to(slots.device)].sum()
        with model.role("policy") as policy:  # until after backward, which may compute the activations again
            with self.compute_loss_context_manager():
                new = answer_log_probs(policy, rows, self.spec["temperature"])
            losses = policy_losses(new, old["old"], old["advantage"], self.spec["clip"])
            policy_loss = (losses * mask).sum() / total
            self.accelerator.backward(policy_loss)
        with model.role("value") as value:
            with self.compute_loss_context_manager():
                values = model.values(hidden_states(value, rows), rows)
            losses = value_losses(values, old["values"], old["returns"], self.spec["value_clip"])
            value_loss = (losses * mask).sum() / total
            self.accelerator.backward(self.spec["value_coefficient"] * value_loss)
        clipped = ((new - old["old"]).exp() - 1).abs() > self.spec["clip"]
        self.note(policy_loss=policy_loss, value_loss=value_loss, clip_fraction=(clipped * mask).sum() / total)
        self.tokens += int((rows.prompts + rows.answers).sum())
        return (policy_loss + self.spec["value_coefficient"] * value_loss).detach()

    def note(self, **numbers: torch.Tensor) -> None:
        """Keep parts of an optimiser step's numbers, which `log` adds up."""
        for name, number in numbers.items():
            self.stats.setdefault(name, []).append(float(number.detach()))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Give the value its own learning rate, in groups of their own."""
        optimizer = super().create_optimizer(model)
        factor = value_model.learning_rate(self.spec) / self.spec["learning_rate"]
        value_model.set_apart(optimizer, self.model.value_parameters, factor)
        return optimizer

    @torch.no_grad()
    def collect(self, model: ActorCritic, number: int) -> dict[str, torch.Tensor]:
        """Answer a rollout's prompts and work out everything that its steps need, as many rows at once as a step has."""
        spec, questions, size = self.spec, self.questions[number], self.args.per_device_train_batch_size
        model.eval()
        parts: list[dict[str, Any]] = []
        with self.compute_loss_context_manager():
            for start in range(0, len(questions), size):
                some = questions[start : start + size]
                answers, ended = self.sample(model, some)
                parts.append({"answers": answers, "ended": torch.tensor(ended)} | self._measured(model, some, answers))
        answers = [answer for part in parts for answer in part.pop("answers")]
        rows = pack(questions, answers, self.processing_class.pad_token_id, model.value_head.weight.device)
        found = {name: [part[name] for part in parts] for name in parts[0]}
        old, reference, values = (joined(found[name]) for name in ("old", "reference", "values"))
        tokens = joined(found["tokens"]) if "tokens" in found else None
        earnings = Earnings(torch.cat(found["scores"]), tokens)
        mask = rows.mask()
        penalty = spec["missing_eos_penalty"] * (~torch.cat(found["ended"]).to(mask.device)).float()
        coefficient = self.coefficient()
        earned = token_rewards(earnings.scores - penalty, old - reference, mask, coefficient, earnings.tokens)
        if spec["whiten_rewards"]:
            earned = whiten(earned, mask, shift=False)
        advantage, returns = advantages(earned, values, mask, spec["gamma"], spec["gae_lambda"])
        reward = earnings.scores.mean() + (0 if earnings.tokens is None else earnings.tokens.sum(1).mean())
        return {
            **rows._asdict(),
            "number": torch.tensor(number),
            "old": old,
            "values": values,
            "advantage": whiten(advantage, mask),
            "returns": returns,
            "reward": reward,
            "kl": (old - reference).sum(1).mean(),
            "kl_coefficient": torch.tensor(coefficient, dtype=torch.float64),
            "answer_length": rows.answers.float().mean(),
        }

    def _measured(self, model: ActorCritic, questions: list[dict], answers: list[list[int]]) -> dict[str, torch.Tensor]:
        """Log-probabilities, values and earnings of some answers."""
        rows = pack(questions, answers, self.processing_class.pad_token_id, model.value_head.weight.device)
        roles = {"old": "policy", "reference": "reference"}
        found = {name: model.log_probs(role, rows, self.spec["temperature"]) for name, role in roles.items()}
        earnings = self.judges(questions, answers, rows)
        tokens = {} if earnings.tokens is None else {"tokens": earnings.tokens}
        return found | {"values": model.values(model.hidden("value", rows), rows), "scores": earnings.scores} | tokens

    def coefficient(self) -> float:
        """The KL coefficient of the next rollout."""
        if not self.rollout:
            return self.spec["kl_coefficient"]
        last = (float(self.rollout[name]) for name in ("kl_coefficient", "kl"))
        return adapted(*last, self.spec["kl_target"], self.spec["batch_size"])

    def sample(self, model: ActorCritic, questions: list[dict]) -> tuple[list[list[int]], list[bool]]:
        """An answer to each question with its stop token, and whether it has one."""
        prompts = [row["prompt_ids"] for row in questions]
        options = {"do_sample": True, "temperature": self.spec["temperature"], **UNCHANGED}
        with model.role("policy") as policy:
            stop = scoring.stop_tokens(policy, self.processing_class)
            tokens = scoring.continue_prompts(
                policy, self.processing_class, prompts, stop, max_new_tokens=self.spec["max_new_tokens"], **options
            )
        answers = []
        for row in tokens.tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in stop), len(row))
            answers.append(row[:end])
        return answers, [answer[-1] in stop for answer in answers]

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Add the rollout's numbers, and the sums of the step's parts."""
        names = ("reward", "kl", "kl_coefficient", "answer_length")
        if self.stats:
            logs |= {name: float(self.rollout[name]) for name in names} | {"num_tokens": self.tokens}
            logs |= {name: sum(parts) for name, parts in self.stats.items()}
            self.stats = {}
        super().log(logs, *args, **options)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save what moves, and the rollout at hand."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        moving = {name: p.detach().contiguous() for name, p in self.model.named_parameters() if p.requires_grad}
        save_file(moving, folder / "model.safetensors")
        tensors = {name: value.contiguous() for name, value in self.rollout.items()}
        save_file(tensors | {"tokens": torch.tensor(self.tokens)}, folder / "rollout.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load what `_save` saved."""
        folder = Path(resume_from_checkpoint)
        device = str(self.model.value_head.weight.device)
        saved = load_file(folder / "model.safetensors", device=device)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(saved[name])
        self.rollout = load_file(folder / "rollout.safetensors", device=device)
        self.tokens = int(self.rollout.pop("tokens"))
