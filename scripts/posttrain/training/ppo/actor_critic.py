"""Policy, reference, value and reward model over one copy of the weights.

The reference is the parent: the adapter switched off. The value is a second adapter with a head; a reward model or a DPO run that
was trained as LoRA on the same parent is a third. Full fine-tuning trains a copy of its own, and the other roles stay on the
parent's.
"""

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from posttrain.inference.rollout import Rows, completion_log_probs, hidden_states
from posttrain.models import loading, peft_methods, value_model
from posttrain.runtime import processes
from posttrain.runtime.errors import UserError
from posttrain.training.inputs import load_parent


def within_forward(model: nn.Module, compute: Callable[[], Any]) -> Any:
    """What `compute` returns, within a forward pass of `model` where several processes share it: DDP, FSDP and DeepSpeed act around it.

    One process computes as it always has; in bf16 accelerate would turn what a forward pass returns into float32.

    Args:
        model: an `ActorCritic`, or what is wrapped around it.
    """
    return model(compute) if processes.count() > 1 else compute()


class ActorCritic(nn.Module):
    """Policy, reference and value, and where they share the parent also the reward, over one backbone."""

    def __init__(self, parent: Path, spec: dict) -> None:
        super().__init__()
        model = load_parent(parent, spec)
        config = peft_methods.peft_config(spec, model, steps=0)  # only AdaLoRA counts them, which cannot be had here
        value = value_model.configuration(spec, config, model)
        if config is None:
            self.policy = model
            self.backbone = get_peft_model(loading.parent(parent, spec), value, adapter_name="value")
        else:
            self.policy = self.backbone = get_peft_model(model, config)
            self.backbone.add_adapter("value", value)
            if isinstance(model.get_output_embeddings(), BaseTunerLayer):
                raise UserError(
                    "unsupported-target",
                    "target_modules",
                    "ppo reads the LM head's own weight only",
                    "take lm_head out",
                )
        self.config = self.backbone.config  # of which DeepSpeed reads the width, and FSDP which modules are layers
        self._no_split_modules = self.backbone.get_base_model()._no_split_modules
        width = self.config.get_text_config().hidden_size
        self.value_head = nn.Linear(width, 1, bias=False, device=model.device)
        nn.init.zeros_(self.value_head.weight)
        self.full = config is None
        self.trained = self._names()
        self._only_trainable()

    def forward(self, compute: Callable[[], Any]) -> Any:
        """To be called by `within_forward`."""
        return compute()

    def _names(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if self._is_trainable(name)}

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that are trained, as they are now: sharding replaces them."""
        return [p for name, p in self.named_parameters() if name in self.trained]

    def _is_trainable(self, name: str) -> bool:
        own = self.full and name.startswith("policy.")
        return own or self._is_value(name) or re.search(r"\.default(\.|$)", name) is not None

    @staticmethod
    def _is_value(name: str) -> bool:
        return name.startswith("value_head") or re.search(r"\.value(\.|$)", name) is not None

    @property
    def value_parameters(self) -> list[nn.Parameter]:
        """What the value loss trains."""
        return [p for name, p in self.named_parameters() if self._is_value(name)]

    def _only_trainable(self) -> None:
        """PEFT marks only the active adapter's parameters as trainable; here two adapters are, whichever is active."""
        self.requires_grad_(False)
        for parameter in self.trainable:
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
            self._only_trainable()
        else:
            self._activate("default" if name == "policy" else name)
            yield self.backbone
            self._activate("value" if self.full else "default")

    def _activate(self, adapter: str) -> None:
        self.backbone.set_adapter(adapter)
        self._only_trainable()

    def hidden(self, name: str, rows: Rows) -> torch.Tensor:
        """The hidden states (n, t, d) from which each token of the completions is predicted, of one of the roles."""
        with self.role(name) as model:
            return within_forward(self, partial(hidden_states, model, rows))

    def log_probs(self, name: str, rows: Rows, temperature: float) -> torch.Tensor:
        """Log-probabilities (n, t) of the completions' tokens, of one of the roles."""
        with self.role(name) as model:
            return within_forward(self, partial(completion_log_probs, model, rows, temperature))

    def values(self, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Values (n, t) from hidden states of the role "value"."""
        return self.value_head(hidden.float())[..., 0] * rows.mask()

    def add_role(self, name: str, trained: Path) -> torch.Tensor | None:
        """Load an adapter that was trained on the same parent.

        Returns:
            The head (1, d) of a reward model's; None of another adapter.
        """
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
        self.trained = self._names()
        self._activate("value" if self.full else "default")
