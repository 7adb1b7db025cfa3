"""accelerate's choice of a distributed type, which on a CPU is plain DDP whatever was asked for.

Checked with accelerate 1.15.0: `AcceleratorState` looks at an FSDP plugin for GPUs only, and `PartialState` starts DeepSpeed for GPUs
only. Both libraries work on a CPU with gloo. Nothing is changed on a GPU. It can go once accelerate takes FSDP and DeepSpeed on
a CPU.
"""

import functools
import os
from typing import Any

import torch

CHECKED = {"accelerate": "1.15.0", "deepspeed": "0.19.8"}


def shard_on_cpu(deepspeed: bool = False) -> None:
    """Let accelerate take an FSDP plugin, or DeepSpeed's configuration, from now on in this process, if it has no GPU."""
    from accelerate.state import AcceleratorState, PartialState

    if torch.cuda.is_available():
        return
    if not hasattr(PartialState.__init__, "__wrapped__"):
        PartialState.__init__ = _with_deepspeed(PartialState.__init__)
        AcceleratorState.__init__ = _with_fsdp(AcceleratorState.__init__)
    if deepspeed:
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed as library

        # Its own sums over shared memory need a C++ compiler and two minutes; gloo's need neither.
        library.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _with_deepspeed(init: Any) -> Any:
    """`PartialState.__init__`, which starts gloo where DeepSpeed is asked for."""
    from accelerate.utils import DistributedType

    @functools.wraps(init)
    def started(self: Any, cpu: bool = False, **kwargs: Any) -> None:
        asked = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true" and not cpu
        is_new = not self._shared_state
        init(self, cpu or asked, **(kwargs | {"backend": "gloo"} if asked else kwargs))
        if asked and is_new:
            self.distributed_type = DistributedType.DEEPSPEED

    return started


def _with_fsdp(init: Any) -> Any:
    """`AcceleratorState.__init__`, which keeps an FSDP plugin."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    @functools.wraps(init)
    def started(self: Any, *arguments: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        init(self, *arguments, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin

    return started
