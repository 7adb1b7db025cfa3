"""Replace the forward pass of one module of another library's model.

Checked with torch 2.13.0, transformers 5.23.0 and PEFT 0.21.2. Our kernels (`models/lm_head.py`, `models/lora_linear.py`) and the
positions of padded rows (`inference/positions.py`) change what one layer or one model computes, and neither transformers nor
PEFT lets a user choose the implementation of a single layer. A hook could change the inputs and outputs and could not leave
the original computation out. It can go once transformers' kernel registry (`use_kernel_forward_from_hub`) takes local kernels
for LM heads and PEFT's layers.
"""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

CHECKED = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"}


def replace_forward(module: Any, forward: Callable, signature: Callable | None = None) -> None:
    """Let one module, and no other of its class, compute with `forward(self, ...)`.

    Args:
        signature: the function whose arguments transformers is to see, where it looks at them.
    """
    if signature is not None:
        forward.__signature__ = inspect.signature(signature)
    module.forward = MethodType(forward, module)
