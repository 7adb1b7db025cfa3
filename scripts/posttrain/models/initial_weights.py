"""First weights of a LoRA that need more than a random generator: EVA the run's own rows, LoftQ the parent before 4 bits.

Both are computed once and kept beside the checkpoints, so that a training that goes on has the same matrices of the same ranks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from posttrain.data.tokens import IGNORED
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError

FILE = "first_weights.safetensors"
KEPT_FROM_PEFT = ("init_lora_weights", "loftq_config")  # PEFT's LoftQ packs the weights itself, on a GPU only
ROWS = 8  # at least, in a batch for EVA
MAX_BATCHES = 1000  # batches until EVA's directions have settled
COLUMNS = (
    [("input_ids", "labels")],  # sft
    [("prompt_ids", "chosen_ids"), ("prompt_ids", "rejected_ids")],  # dpo, orpo, cpo
    [("prompt_ids", "completion_ids")],  # kto
    [("chosen_ids", None), ("rejected_ids", None)],  # reward
    [("prompt", None)],  # grpo, rloo
)


def arguments(peft_args: dict[str, Any]) -> dict[str, Any]:
    """`peft_args` as PEFT is to see them: a LoftQ is an adapter like others, whose first weights `put` replaces."""
    if peft_args.get("init_lora_weights") != "loftq":
        return peft_args
    return {key: value for key, value in peft_args.items() if key not in KEPT_FROM_PEFT}


def put(trainer: Any, parent: Path, folder: Path, spec: dict[str, Any]) -> None:
    """Give the adapter of a trainer that was just built its first weights, where its `init_lora_weights` says eva or loftq.

    Args:
        parent: the folder of the model that the run starts from.
        folder: the stage's own, where the weights are kept.

    Raises:
        UserError: the rows have too few tokens for EVA, or a layer is too small for its ranks.
    """
    kind = spec.get("peft_args", {}).get("init_lora_weights")
    if kind not in ("eva", "loftq"):
        return
    file = folder / FILE
    if processes.is_main() and not file.exists():
        with torch.random.fork_rng():  # what training draws does not depend on whether the file was there
            found = _eva(trainer, spec) if kind == "eva" else _loftq(trainer.model, parent, spec)
        save_file({name: tensor.contiguous().cpu() for name, tensor in found.items()}, file.with_suffix(".new"))
        file.with_suffix(".new").rename(file)
    processes.barrier()
    kept = load_file(file)
    if kind == "eva":  # PEFT changes the ranks, and leaves the matrices in the base's type
        initialize_lora_eva_weights(trainer.model, eva_state_dict=dict(kept))
        kept = {f"{name}.lora_A": matrix for name, matrix in kept.items()}
    for name, layer in _layers(trainer.model):
        for matrix in ("lora_A", "lora_B"):
            weight = getattr(layer, matrix)["default"].weight
            weight.data = kept.get(f"{name}.{matrix}", weight.data).to(weight.device, torch.float32)


def _layers(model: Any) -> list[tuple[str, LoraLayer]]:
    """The layers of the adapter, those of embeddings apart."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    return [(name, layer) for name, layer in layers if "default" in layer.lora_A]


# ---- LoftQ (Li et al. 2024): A and B make up for what 4 bits lose


def _loftq(model: Any, parent: Path, spec: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A and B of each layer, the best of their rank for W - Q: one iteration, so that Q stays the parent in 4 bits."""
    from bitsandbytes.functional import dequantize_4bit

    from posttrain.models import loading

    whole = loading.load(parent, reward=OBJECTIVES[spec["objective"]].scores, device="cpu")
    found = {}
    before = after = 0.0
    for name, layer in _layers(model):
        held, original = layer.get_base_layer().weight, whole.get_submodule(name.removeprefix("base_model.model."))
        if not hasattr(held, "quant_state"):  # it lost nothing, such as an LM head
            continue
        weight = original.weight.T if isinstance(original, Conv1D) else original.weight
        lost = weight.detach().to(held.device, torch.float32) - dequantize_4bit(held.data, held.quant_state).float()
        rank, scaling = layer.r["default"], layer.scaling["default"]
        u, s, v = torch.linalg.svd(lost, full_matrices=False)
        root = (s[:rank] / scaling).sqrt()
        found |= {f"{name}.lora_A": root[:, None] * v[:rank], f"{name}.lora_B": u[:, :rank] * root}
        before, after = before + s.square().sum().item(), after + s[rank:].square().sum().item()
    say(f"loftq: the adapter starts with {1 - (after / before) ** 0.5:.0%} of what the parent lost in 4 bits")
    return found


# ---- EVA (Paischer et al. 2024): A begins at the directions in which the inputs of a layer vary most


def _eva(trainer: Any, spec: dict[str, Any]) -> dict[str, torch.Tensor]:
    """PEFT's `get_eva_state_dict` on the rows in the order of training."""
    from peft import get_eva_state_dict

    model = trainer.model
    config = model.peft_config["default"]
    matrices = [layer for _, layer in _layers(model)]
    for name, layer in model.named_modules():
        if hasattr(layer, "base_layer") and layer not in matrices:
            raise UserError(
                "unsupported-setting",
                "init_lora_weights",
                f"eva starts at what goes into matrices, and {name.rpartition('.')[2]} has rows of its own that are trained",
                "take eva out, or the base's new_tokens and target_modules of embeddings",
            )
    components = round(config.r * config.eva_config.rho)
    narrowest = min((layer.in_features for layer in matrices), default=0)
    if 2 * components > narrowest:  # PEFT's randomised SVD looks at twice as many
        fits = int(narrowest // (2 * config.eva_config.rho))
        raise UserError(
            "unsupported-setting",
            "init_lora_weights",
            f"eva looks at 4 x rank directions (2 x rank x rho), and the narrowest layer has {narrowest} inputs",
            f"write a rank up to {fits}",
        )
    calls = 0

    def forward(model: Any, inputs: dict[str, torch.Tensor]) -> None:
        nonlocal calls
        calls += 1
        if calls > MAX_BATCHES:
            raise UserError(
                "unsupported-setting",
                "init_lora_weights",
                f"eva: the directions have not settled in {MAX_BATCHES} batches",
                "write a smaller rank, or peft_args: {eva_config: {tau: 0.9}}",
            )
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])

    size = max(ROWS, spec["batch_size"])
    loaded = batches(trainer.train_dataset, size, 2 * components, trainer.processing_class.pad_token_id)
    found = get_eva_state_dict(model, loaded, forward_fn=forward, show_progress_bar=False)
    ranks = [len(matrix) for matrix in found.values()]
    say(f"eva: ranks from {min(ranks)} to {max(ranks)} by the inputs of the layers, after {calls} batches of rows")
    return found


def rows(dataset: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """What the layers of a model see of a trainer's rows: tokens, and which of them are trained."""
    known = {None, *dataset.column_names}
    pairs = next(pairs for pairs in COLUMNS if all(known.issuperset(pair) for pair in pairs))
    for row in dataset:
        for ids, other in pairs:
            if "seq_lengths" in known:
                yield from examples(row)
            elif other is None:
                yield row[ids], [True] * len(row[ids])
            elif other == "labels":
                yield row[ids], [label != IGNORED for label in row[other]]
            else:
                yield row[ids] + row[other], [False] * len(row[ids]) + [True] * len(row[other])


def examples(row: dict) -> Iterator[tuple[list[int], list[bool]]]:
    """The examples of a packed row, which do not see each other in training either."""
    start = 0
    for length in row["seq_lengths"]:
        end = start + length
        yield row["input_ids"][start:end], [label != IGNORED for label in row["labels"][start:end]]
        start = end


def batches(dataset: Any, size: int, tokens: int, pad: int) -> list[dict[str, torch.Tensor]]:
    """A trainer's rows in batches of at least `size` rows and `tokens` trained tokens, as far as EVA may need them.

    Raises:
        UserError: all rows together have fewer trained tokens.
    """
    made: list[list] = [[]]
    counted = 0
    for ids, trained in rows(dataset):
        if len(made[-1]) >= size and counted >= tokens:
            if len(made) == MAX_BATCHES:
                break
            made.append([])
            counted = 0
        made[-1].append((ids, trained))
        counted += sum(trained)
    if counted < tokens and len(made) > 1:
        made[-2] += made.pop()
    elif counted < tokens:
        raise UserError(
            "unsupported-setting",
            "init_lora_weights",
            f"eva needs {tokens} trained tokens (2 x rank x rho), and the rows have {counted}",
            "write a smaller rank",
        )
    return [_padded(part, pad) for part in made]


def _padded(part: list[tuple[list[int], list[bool]]], pad: int) -> dict[str, torch.Tensor]:
    width = max(len(ids) for ids, _ in part)
    labels = [[0 if here else IGNORED for here in trained] for _, trained in part]
    return {
        "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in part]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in part]),
        "labels": torch.tensor([row + [IGNORED] * (width - len(row)) for row in labels]),
    }
