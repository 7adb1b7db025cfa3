"""The bottleneck adapter as a PEFT method: h + W_up relu(W_down h) behind the blocks of every decoder layer.

Behind the attention and the feed-forward block (Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP"),
or behind the feed-forward block alone (Pfeiffer et al. 2021, "AdapterFusion"), before the residual is added. PEFT has
LoRA and its relatives, but not this one. Importing the module registers it; from then on `get_peft_model`,
`PeftModel.from_pretrained` and TRL's trainers take it for one of PEFT's own.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from posttrain.compat import peft_registry
from posttrain.models import token_rows  # noqa: F401  (whoever loads an adapter may load one with trained rows of a head)

BLOCKS = {"houlsby": ("self_attn", "mlp"), "pfeiffer": ("mlp",)}


@dataclass
class BottleneckConfig(PeftConfig):
    """Where the adapters are, and how narrow: hidden_size // reduction_factor wide, but at least 1."""

    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    reduction_factor: int = 16
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        """Name the method, as every configuration of PEFT's does."""
        super().__post_init__()
        self.peft_type = PeftType.BOTTLENECK


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A block of a decoder layer, and the adapters that can act on its output, each under its name."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()

    def add(self, name: str, hidden_size: int, width: int, dtype: torch.dtype) -> None:
        """Add an adapter, the identity until it is trained; PEFT makes it float32 unless told otherwise."""
        place = {"device": next(self.base_layer.parameters()).device, "dtype": dtype}
        down, up = nn.Linear(hidden_size, width, **place), nn.Linear(width, hidden_size, **place)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.bottleneck_down[name], self.bottleneck_up[name] = down, up

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block returns, its hidden states (..., hidden_size) changed by the active adapters."""
        output = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return output
        hidden = output[0] if isinstance(output, tuple) else output  # attention returns its weights as well
        for name in self.active_adapters:
            if name in self.bottleneck_down:  # Pfeiffer's is not behind an attention block that Houlsby's wraps
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                hidden = (hidden + up(torch.relu(down(hidden.to(down.weight.dtype))))).to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


class BottleneckModel(BaseTuner):
    """A transformers model with `BottleneckLayer`s around its blocks.

    Raises:
        ValueError: the model has a decoder layer without such blocks.
        NotImplementedError: the adapters are to be merged.
    """

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _prepare_adapter_config(self, config: BottleneckConfig, _: dict) -> BottleneckConfig:
        blocks = BLOCKS[config.placement]
        layers = next(module for module in self.model.get_decoder().modules() if isinstance(module, nn.ModuleList))
        for layer in layers:
            children = dict(layer.named_children())
            if not children.keys() >= set(blocks):
                raise ValueError(
                    f"placement '{config.placement}' needs {' and '.join(blocks)} in every decoder layer, "
                    f"but {type(layer).__name__} has {', '.join(sorted(children))}"
                )
        wrapped = {getattr(layer, block) for layer in layers for block in blocks}
        config.target_modules = [name for name, module in self.model.named_modules() if module in wrapped]
        return config

    def _create_and_replace(
        self, config: BottleneckConfig, adapter: str, block: nn.Module, name: str, layer: nn.Module, **_: Any
    ) -> None:
        if not isinstance(block, BottleneckLayer):
            block = BottleneckLayer(block)
            setattr(layer, name, block)
        hidden_size = self.model.config.get_text_config().hidden_size
        block.add(adapter, hidden_size, max(1, hidden_size // config.reduction_factor), self.model.dtype)

    def _replace_module(self, layer: nn.Module, name: str, block: nn.Module, _: nn.Module) -> None:
        setattr(layer, name, block)  # for `unload`; PEFT's own looks for a weight, which a block does not have

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError("a bottleneck adapter is not linear and cannot be merged into the base model")


peft_registry.register("bottleneck", BottleneckConfig, BottleneckModel)
