"""Proximal policy optimisation (Schulman et al. 2017) as RLHF uses it (Ouyang et al. 2022), and RTO (Zhong et al. 2024).

The details are those of Huang et al. 2024, "The N+ implementation details of RLHF with PPO": the KL penalty token by token,
the score on the completion's last token, a penalty for a completion that does not end, no dropout, whitened advantages, values
and rewards from adapters with a head, the value starting as the reward model where it can.

Shapes: n completions of at most t tokens, w the longest prompt with its completion; a mask (n, t) says which tokens are the
completion's.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from safetensors.torch import load_file, save_file
from transformers.integrations import is_deepspeed_zero3_enabled

from posttrain.compat import zero_gradients
from posttrain.compat.trainer_internals import TrainerWithOwnCheckpoints
from posttrain.inference import scoring
from posttrain.inference.rollout import Rows, completion_log_probs, hidden_states, joined, pack
from posttrain.models import value_model
from posttrain.runtime import processes
from posttrain.training import strategies
from posttrain.training.ppo.actor_critic import ActorCritic, within_forward
from posttrain.training.ppo.equations import adapted, advantages, policy_losses, token_rewards, value_losses, whiten
from posttrain.training.ppo.rewards import TokenRewards
from posttrain.training.ppo.shared_draws import SharedDraws

# Nothing of a model's own generation configuration may act between the policy and its samples.
UNCHANGED = {"top_k": 0, "top_p": 1.0, "min_p": None, "typical_p": 1.0, "repetition_penalty": 1.0}
UNCHANGED |= {"no_repeat_ngram_size": 0}


class PPOTrainer(TrainerWithOwnCheckpoints):
    """Transformers' trainer over a schedule of rollouts; a checkpoint holds the rollout that it interrupts."""

    def __init__(
        self, spec: dict, prompts: list[list[dict]], rewards: Callable[..., TokenRewards], **options: Any
    ) -> None:
        super().__init__(**options)
        self.spec, self.prompts, self.rewards = spec, prompts, rewards
        self.rollout: dict[str, torch.Tensor] = {}
        self.stats: dict[str, list[float]] = {}
        self.tokens = 0
        self.generator: torch.Tensor | None = None  # its state in the checkpoint that training goes on from

    def training_step(self, model: ActorCritic, inputs: dict, num_items_in_batch: Any = None) -> torch.Tensor:
        """Backward of the policy's and then of the value's loss, each a mean over the tokens of the optimiser step.

        Args:
            model: this trainer's, as it is wrapped for several processes, which average the gradients of their parts.
        """
        net, count = self.model, processes.count()
        if self.generator is not None:
            self._generator().set_state(self.generator)
            self.generator = None
        if not self.rollout or int(self.rollout["number"]) != inputs["rollout"]:
            self.rollout = self.collect(net, inputs["rollout"])
        model.eval()  # without dropout
        for module in model.modules():
            module.training = getattr(module, "gradient_checkpointing", False)  # a layer computes again only where set
        slots, peers = (inputs[name].to(net.value_head.weight.device) for name in ("slots", "peers"))
        rows = Rows(*(self.rollout[name] for name in Rows._fields)).take(slots)
        mask = rows.mask()
        old = {name: self.rollout[name][slots, : mask.shape[1]] for name in ("old", "advantage", "returns", "values")}
        total = self.rollout["completions"][peers].sum()
        with net.role("policy") as policy:  # until after backward, which may compute the activations again
            with self.compute_loss_context_manager():
                new = within_forward(model, partial(completion_log_probs, policy, rows, self.spec["temperature"]))
            losses = policy_losses(new, old["old"], old["advantage"], self.spec["clip"])
            policy_loss = (losses * mask).sum() / total
            self.backward(count * policy_loss, more=True)
        with net.role("value") as value:
            with self.compute_loss_context_manager():
                values = within_forward(model, lambda: net.values(hidden_states(value, rows), rows))
            losses = value_losses(values, old["values"], old["returns"], self.spec["value_clip"])
            value_loss = (losses * mask).sum() / total
            self.backward(count * self.spec["value_coefficient"] * value_loss)
        clipped = ((new - old["old"]).exp() - 1).abs() > self.spec["clip"]
        self.note(policy_loss=policy_loss, value_loss=value_loss, clip_fraction=(clipped * mask).sum() / total)
        if self.accelerator.sync_gradients:  # the last part of the step
            self.tokens += int((self.rollout["prompts"] + self.rollout["completions"])[peers].sum())
        return count * (policy_loss + self.spec["value_coefficient"] * value_loss).detach()

    def backward(self, loss: torch.Tensor, more: bool = False) -> None:
        """Add a loss's gradients; DeepSpeed would follow the step's last part by the step, even if `more` is to come."""
        last = self.accelerator.sync_gradients
        self.accelerator.sync_gradients = last and not more
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))
        self.accelerator.sync_gradients = last
        if last and not more and is_deepspeed_zero3_enabled():
            zero_gradients.clear(self.deepspeed)

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
        """Sample a rollout's completions and compute what its steps need, as many rows at once as a step has.

        Of several processes each computes its part, and gets the others'.
        """
        spec, prompts, size = self.spec, self.prompts[number], self.args.per_device_train_batch_size
        rank, count = processes.rank(), processes.count()
        model.eval()
        parts: list[dict[str, Any]] = []
        with self.compute_loss_context_manager():
            for start in range(rank * size, len(prompts), count * size):
                some = prompts[start : start + size]
                sampled, ended = self.sample(model, some)
                parts.append({"sampled": sampled, "ended": torch.tensor(ended)} | self._measured(model, some, sampled))
        if count > 1:
            parts = self._of_all(parts)
        completions = [completion for part in parts for completion in part.pop("sampled")]
        rows = pack(prompts, completions, self.processing_class.pad_token_id, model.value_head.weight.device)
        found = {name: [part[name] for part in parts] for name in parts[0]}
        old, reference, values = (joined(found[name]) for name in ("old", "reference", "values"))
        tokens = joined(found["tokens"]) if "tokens" in found else None
        scores = torch.cat(found["scores"])
        mask = rows.mask()
        penalty = spec["missing_eos_penalty"] * (~torch.cat(found["ended"]).to(mask.device)).float()
        coefficient = self.coefficient()
        rewards = token_rewards(scores - penalty, old - reference, mask, coefficient, tokens)
        if spec["whiten_rewards"]:
            rewards = whiten(rewards, mask, shift=False)
        advantage, returns = advantages(rewards, values, mask, spec["gamma"], spec["gae_lambda"])
        return {
            **rows._asdict(),
            "number": torch.tensor(number),
            "old": old,
            "values": values,
            "advantage": whiten(advantage, mask),
            "returns": returns,
            "reward": scores.mean() + (0 if tokens is None else tokens.sum(1).mean()),
            "kl": (old - reference).sum(1).mean(),
            "kl_coefficient": torch.tensor(coefficient, dtype=torch.float64),
            "answer_length": rows.completions.float().mean(),
        }

    def _of_all(self, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The parts of all processes, in the order of the rows."""
        found = processes.gathered(send_to_device(parts, "cpu"))
        return send_to_device([part for some in zip(*found, strict=True) for part in some], self.args.device)

    def _measured(
        self, model: ActorCritic, prompts: list[dict], completions: list[list[int]]
    ) -> dict[str, torch.Tensor]:
        """Log-probabilities, values and rewards of some completions."""
        rows = pack(prompts, completions, self.processing_class.pad_token_id, model.value_head.weight.device)
        roles = {"old": "policy", "reference": "reference"}
        found = {name: model.log_probs(role, rows, self.spec["temperature"]) for name, role in roles.items()}
        rewards = self.rewards(prompts, completions, rows)
        tokens = {} if rewards.tokens is None else {"tokens": rewards.tokens}
        with model.role("value") as value:
            values = within_forward(model, lambda: model.values(hidden_states(value, rows), rows))
        return found | {"values": values, "scores": rewards.scores} | tokens

    def coefficient(self) -> float:
        """The KL coefficient of the next rollout."""
        if not self.rollout:
            return self.spec["kl_coefficient"]
        last = (float(self.rollout[name]) for name in ("kl_coefficient", "kl"))
        return adapted(*last, self.spec["kl_target"], self.spec["batch_size"])

    def sample(self, model: ActorCritic, prompts: list[dict]) -> tuple[list[list[int]], list[bool]]:
        """A completion of each prompt with its stop token, and whether it has one."""
        options = {"do_sample": True, "temperature": self.spec["temperature"], **UNCHANGED}
        draws = SharedDraws(self.spec["temperature"], self.args.device)
        if processes.count() > 1:
            options |= {"do_sample": False, "temperature": None, "logits_processor": [draws]}
            options |= {"synced_gpus": self.is_fsdp_enabled or is_deepspeed_zero3_enabled()}
        ids = [row["prompt_ids"] for row in prompts]
        with model.role("policy") as policy:
            stop = scoring.stop_tokens(policy, self.processing_class)
            options |= {"max_new_tokens": self.spec["max_new_tokens"]}
            some = partial(scoring.continue_prompts, policy, self.processing_class, ids, stop, **options)
            tokens = within_forward(model, some)
        draws.catch_up()
        completions = []
        for row in tokens.tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in stop), len(row))
            completions.append(row[:end])
        return completions, [completion[-1] in stop for completion in completions]

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Add the rollout's numbers, and the sums of the step's parts."""
        names = ("reward", "kl", "kl_coefficient", "answer_length")
        if self.stats:
            logs |= {name: float(self.rollout[name]) for name in names} | {"num_tokens": self.tokens}
            of_all = processes.gathered({name: sum(parts) for name, parts in self.stats.items()})
            logs |= {name: sum(sums[name] for sums in of_all) for name in self.stats}
            self.stats = {}
        super().log(logs, *args, **options)

    def write_weights(self, folder: Path) -> None:
        """Write what is trained, the rollout that the checkpoint interrupts, and the random state that is every process's."""
        named = [(name, p) for name, p in self.model.named_parameters() if name in self.model.trained]
        trained = {name: strategies.whole(p).contiguous() for name, p in named}
        if not processes.is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained, folder / "model.safetensors")
        tensors = {name: value.contiguous() for name, value in self.rollout.items()}
        tensors |= {"tokens": torch.tensor(self.tokens), "generator": self._generator().get_state()}
        save_file(tensors, folder / "rollout.safetensors")

    def read_weights(self, folder: Path) -> None:
        """Read what `write_weights` wrote, by however many processes."""
        device = str(self.model.value_head.weight.device)
        saved = load_file(folder / "model.safetensors", device=device)
        for name, parameter in self.model.named_parameters():
            if name in self.model.trained:
                parameter.data.copy_(saved[name])
        self.rollout = load_file(folder / "rollout.safetensors", device=device)
        self.tokens = int(self.rollout.pop("tokens"))
        self.generator = self.rollout.pop("generator").cpu()

    def _generator(self) -> torch.Generator:
        """What completions are drawn with."""
        device = self.args.device
        return torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator
