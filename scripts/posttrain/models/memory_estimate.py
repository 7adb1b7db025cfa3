"""Will a run fit: what its training takes in memory, from its spec and the shapes of its parent's weights.

Weights, gradients and optimiser states are counted; activations are what PyTorch keeps for the backward pass of a decoder
layer with gated feed-forward blocks, counted on a Llama for every method, and are the estimate's rough part. Nothing is loaded.
"""

import math
import re
from typing import Any

from posttrain.methods import METHODS, VALUE_RANK, Sizes, reads_weights
from posttrain.models import activations, parameter_patterns, target_modules
from posttrain.models.memory_sharing import ALONE, Hardware, of_one
from posttrain.models.shapes import Model
from posttrain.objectives import OBJECTIVES

GIB = 2**30
NF4 = 0.516  # bytes a weight in 4 bits, with its share of the twice quantised constants (Dettmers et al. 2023)
# A process on the CPU, its libraries imported; a CUDA context with its kernels.
OVERHEAD = {"cpu": 0.75 * GIB, "gpu": 0.6 * GIB}
PRIMITIVES = (
    0.65 * GIB
)  # oneDNN's cache of 1024 compiled products in bf16, which rows of many lengths fill, see docs/performance.md
# Peak over what the activations add up to. CPU: the C library's heap in pieces, 1.1 to 1.8 in 20 trainings of a 135M model;
# GPU: PyTorch's allocator reuses blocks, so little is lost. Rows of one length leave no pieces.
FRAGMENTATION = {"cpu": 1.5, "gpu": 1.1}
ROLLOUTS = 1.25  # the same of PPO, which samples and scores between its steps
MAX_LOGITS, PIECE = 2**28, 2**24  # see lm_head.py
# See `setting`.
WORDS = {"accumulation": "gradient_accumulation_steps", **dict.fromkeys(("rank", "target_modules", "dropout"), "")}
TILE = (4096, 32768)  # tokens and words of the vocabulary whose logits TRL's own head has at once


# ---- the modules that get an adapter


def targeted(spec: dict, modules: list[str], target: str | None = None) -> list[str]:
    """Those of `modules` that PEFT's `target_modules` means, by PEFT's own rules (`check_target_module_exists`).

    Args:
        target: one of several targets, instead of all of them.
    """
    requested, arguments = spec.get("target_modules"), spec.get("peft_args", {})
    names = [name for name in modules if not _is_named(arguments.get("exclude_modules") or [], name)]
    saved = arguments.get("modules_to_save") or []
    names = [name for name in names if not any(re.match(rf"(^|.*\.){part}($|\..*)", name) for part in saved)]
    if requested == "all-linear":
        return [name for name in names if re.search(r"\.\d+\.", name)]
    found = [name for name in names if _is_named(requested if target is None else [target], name)]
    layers = arguments.get("layers_to_transform")
    if isinstance(requested, str) or layers in (None, []):
        return found
    layers = [layers] if isinstance(layers, int) else layers
    patterns = arguments.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    places = [[re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name) for pattern in patterns] for name in found]
    numbers = [next((int(match[1]) for match in matches if match), None) for matches in places]
    return [name for name, number in zip(found, numbers, strict=True) if number in layers]


def _is_named(requested: str | list[str], name: str) -> bool:
    """A regular expression matches the whole name, an entry of a list its end; a file may leave the model's prefix out."""
    if isinstance(requested, str):
        return any(re.fullmatch(requested, prefix + name) for prefix in ("", "model.", "transformer."))
    return any(name == end or name.endswith(f".{end}") for end in requested)


def adapted(spec: dict, model: Model) -> list[str]:
    """The matrices of `model` that the run's method gives an adapter; experts as their files have them."""
    if not spec.get("target_modules"):
        return []
    matrices = model.matrices
    names = targeted(spec, list(matrices))
    if spec["target_modules"] == "all-linear":
        targets = {name: matrices[name] for name in names}
        reasons = target_modules.left_out(spec, targets, model.modules, model.config)
        names = [name for name in names if name not in reasons]
    if spec.get("peft_args", {}).get("target_parameters"):
        names += [name for name in matrices if ".experts." in name and name not in names]
    return names


def trained_parameters(spec: dict, model: Model) -> float:
    """How many parameters are trained; of the methods that train less than a hundredth of a model, about so many."""
    method = METHODS[spec["method"]]
    if method.full:
        return sum(
            math.prod(shape) for name, shape in model.shapes.items() if parameter_patterns.is_trained(spec, (name,))
        )
    matrices = model.matrices
    shapes = [matrices[name] for name in adapted(spec, model)]
    own = method.parameters(spec, Sizes(model.layers, model.hidden, model.intermediate, shapes))
    saved = spec.get("peft_args", {}).get("modules_to_save") or []
    parts = {name.rpartition(".")[0]: shape for name, shape in model.shapes.items()}
    return own + sum(math.prod(shape) for name, shape in parts.items() if _is_named(saved, name))


# ---- the estimate


def estimate(
    spec: dict,
    model: Model,
    longest: int,
    trained_share: float,
    device: str,
    bf16: bool,
    hardware: Hardware = ALONE,
    liger: bool = False,
    even: bool = False,
    teacher: Model | None = None,
) -> dict[str, float]:
    """Bytes that a run needs in each process, by what takes them; `least` is what no batch size and no recomputing takes away.

    Of several processes that offload, `host` is what all of them keep in the machine's memory.

    Args:
        longest: tokens of the longest row.
        trained_share: of the tokens that are trained.
        device: "cpu" or "gpu".
        bf16: whether matrices are multiplied in bfloat16.
        hardware: the processes that share the run.
        liger: Liger's kernels are used, on a GPU.
        even: all rows have the same length, as packed ones have.
        teacher: the model that the run learns from; by default, where it is held, one as large as `model`.
    """
    method, trainable = METHODS[spec["method"]], trained_parameters(spec, model)
    with_value = OBJECTIVES[spec["objective"]].value_model
    adapters = 0 if method.full else trainable
    if with_value:  # a second adapter is the value, and of full fine-tuning the only one
        rank = spec.get("value_rank") or VALUE_RANK
        value = rank * sum(map(sum, model.matrices.values())) if method.full else adapters
        if spec.get("value_rank") and method.low_rank:
            value = adapters * rank / spec["rank"]
        adapters += value
        trainable = adapters + (trainable if method.full else 0)
    tokens = _rows(spec, hardware.processes) * (longest + (spec["virtual_tokens"] if method.virtual_tokens else 0))
    even = even or bool(spec.get("packing"))
    pieces = (1 if even and device == "cpu" else FRAGMENTATION[device]) * (ROLLOUTS if with_value else 1)
    inside = sum(map(math.prod, model.matrices.values())) / model.parameters
    held = {"weights": _held(spec, model, bf16) + 4 * adapters, "gradients": 4 * trainable}
    held, host = of_one(held | {"optimiser": _state(spec) * trainable}, model.layers, inside, hardware, bf16)
    parts = held | {
        "copies": _copies(spec, model) + _taught(spec, teacher or model, bf16),
        "activations": pieces
        * _activations(spec, model, _shared(spec, tokens, trained_share, device), longest, device, bf16, liger),
        "logits": _logits(spec, model, tokens, trained_share, device, bf16),
        "overhead": OVERHEAD[device] + (PRIMITIVES if bf16 and device == "cpu" and not even else 0),
    }
    least = sum(held.values())
    # The first gradients come when most activations are no longer needed; completions are sampled before.
    passing, gradients = parts["activations"] + parts["logits"], parts["gradients"]
    several = _step(spec) // hardware.processes > _micro_batch(spec, hardware.processes)
    peak = passing + gradients if several else max(passing, gradients)
    if "max_new_tokens" in spec:
        parts["cache"] = cache(model, spec["batch_size"] // hardware.processes, longest, 2 if bf16 else 4)
        peak = max(peak, parts["cache"])
    total = least - gradients + parts["copies"] + parts["overhead"] + peak
    return parts | ({"host": host} if host else {}) | {"least": least, "total": total}


def cache(model: Model, rows: int, length: int, size: int) -> float:
    """Bytes of keys and values while `rows` sequences are sampled, and of the logits of the token that comes next, three times.

    2 layers keys length rows (Pope et al. 2022, arXiv:2211.05102, section 3.1). Windows of attention are not considered.

    Args:
        length: tokens of a prompt and its completion.
        size: bytes of a value.
    """
    return rows * (2 * model.layers * activations.layer(model).keys * length * size + 12 * model.vocabulary)


def answering(model: Model, rows: int, length: int, device: str, bf16: bool) -> float:
    """Bytes to answer `rows` prompts at once, as evaluation and predictions do, with weights as they are stored.

    Args:
        length: tokens of a prompt and its answer.
    """
    weights = model.bytes if bf16 else 4 * model.parameters
    return weights + cache(model, rows, length, 2 if bf16 else 4) + OVERHEAD[device]


def _step(spec: dict) -> int:
    return spec["batch_size"] // spec.get("minibatches", 1)


def _micro_batch(spec: dict, processes: int) -> int:
    """Rows of the dataset in one forward pass of a process: as many as alone, or its share of a step where that is less."""
    return max(1, min(_step(spec) // spec["accumulation"], _step(spec) // processes))


def _rows(spec: dict, processes: int) -> int:
    """Sequences in one forward pass; a pair is two."""
    return _micro_batch(spec, processes) * OBJECTIVES[spec["objective"]].sequences


def _held(spec: dict, model: Model, bf16: bool) -> float:
    """Bytes of the model that is trained or carries an adapter: see models.parent."""
    method = METHODS[spec["method"]]
    if not method.four_bit:
        dtype = model.config.get("dtype") or model.config.get("torch_dtype")  # the second one in older files
        in_float32 = method.full or not bf16 or dtype == "float16"
        if in_float32 or not _is_apart(spec, model):
            return 4 * model.parameters if in_float32 else model.bytes
        return 2 * model.parameters + model.update / 2
    # transformers fuses the experts of a mixture into parameters that bitsandbytes leaves as they are.
    linear = sum(math.prod(shape) for name, shape in model.matrices.items() if ".experts." not in name)
    return NF4 * linear + (1 - linear / model.parameters) * model.bytes


def _is_apart(spec: dict, model: Model) -> bool:
    """Whether a merged model is held as its base in bfloat16 and a low-rank update."""
    return bool(model.update) and not reads_weights(spec["method"], spec.get("peft_args", {}))


def _copies(spec: dict, model: Model) -> float:
    """Bytes of other models beside it: a reference where there is no adapter to switch off, and reward models."""
    held = OBJECTIVES[spec["objective"]].reference
    reference = held == "resident" or (held == "resident where beta" and spec["beta"])
    reward_models = [key for key in ("from", "sequence") if key in spec.get("reward", {})]
    return model.bytes * ((METHODS[spec["method"]].full and bool(reference)) + len(reward_models))


def _taught(spec: dict, teacher: Model, bf16: bool) -> float:
    """Bytes of a teacher that is there while a run trains, as `loading.for_inference` holds it."""
    if not is_resident(spec):
        return 0
    return teacher.bytes if bf16 else 4 * teacher.parameters


def is_resident(spec: dict) -> bool:
    """Whether a run's teacher is in memory while it trains."""
    return OBJECTIVES[spec["objective"]].teacher and not spec.get("teacher_top_k")


def _state(spec: dict) -> float:
    """Bytes that the optimiser keeps for each trained parameter: two moments of AdamW, or fewer."""
    default = "paged_adamw_8bit" if METHODS[spec["method"]].four_bit else "adamw"
    name = spec.get("trainer_args", {}).get("optim", default)
    return 2 if "8bit" in name else 0 if name.startswith(("sgd", "adafactor")) else 8


def _activations(spec: dict, model: Model, tokens: float, longest: int, device: str, bf16: bool, liger: bool) -> float:
    """What the backward pass needs of the forward pass, see models/activations.py; recomputed, one layer's, and the inputs of all."""
    method = METHODS[spec["method"]]
    in_float32 = _in_float32(spec, model)
    casts = bf16 and in_float32
    how = activations.How(device, 2 if bf16 or not in_float32 else 4, casts, liger and device == "gpu")
    token = activations.of_a_layer(spec, model, adapted(spec, model), longest, how)
    linear = sum(map(math.prod, model.matrices.values()))
    held_narrow = device == "cpu" and method.low_rank  # see lora_linear.py
    copies = 2 * linear if casts and not (method.four_bit or held_narrow) else 0  # autocast's, of the weights
    copies += 4 * linear if spec.get("peft_args", {}).get("use_dora") else 0
    if spec["gradient_checkpointing"]:
        inputs = (4 if in_float32 else 2) * model.hidden
        return tokens * (model.layers * inputs + token) + copies / model.layers
    return tokens * model.layers * token + copies


def _shared(spec: dict, tokens: float, trained_share: float, device: str) -> float:
    """Tokens of a forward pass; on a CPU the two sequences of a pair share their prompt, see shared_prefix.py."""
    objective = OBJECTIVES[spec["objective"]]
    shared = (
        device == "cpu" and objective.sequences == 2 and objective.compact_head == "patched" and not spec.get("dropout")
    )
    return tokens * (1 + trained_share) / 2 if shared and not METHODS[spec["method"]].virtual_tokens else tokens


def _in_float32(spec: dict, model: Model) -> bool:
    """Whether what flows from layer to layer is in float32: where the weights are."""
    return METHODS[spec["method"]].full or (model.bytes > 2 * model.parameters and not _is_apart(spec, model))


def _logits(spec: dict, model: Model, tokens: int, trained_share: float, device: str, bf16: bool) -> float:
    """What the LM head takes: `models/lm_head.py` on a CPU, TRL's tiles (`trl/kernels/chunked_logprob.py`) on a GPU."""
    objective, method = OBJECTIVES[spec["objective"]], METHODS[spec["method"]]
    if objective.scores:
        return 0
    trained = tokens * trained_share
    moved = (
        4 * model.vocabulary * model.hidden if method.full else 0
    )  # its gradient comes while all activations are there
    if objective.all_logits:  # the logits, their log-softmax, its gradient
        if (
            objective.teacher
        ):  # at positions where a row is trained: logits, log-softmax, its gradient, and the teacher's two
            return (20 if is_resident(spec) else 16) * trained * model.vocabulary + moved
        return 12 * tokens * model.vocabulary + moved
    if device == "cpu" and objective.compact_head != "none" and not method.virtual_tokens:
        if method.full:
            return 6 * min(trained * model.vocabulary, MAX_LOGITS) + moved
        return 12 * min(trained * model.vocabulary, PIECE) + 8 * trained * model.hidden
    # In the backward pass a tile of logits and one of its gradient, and the gradient of the hidden states in float32.
    tile = min(trained, TILE[0]) * min(model.vocabulary, TILE[1])
    return (4 if bf16 and device == "gpu" else 12) * tile + 8 * trained * model.hidden + moved


# ---- what would fit


def remedies(spec: dict, shorter: int) -> list[tuple[str, dict]]:
    """Changes of a run that save memory, the least of them first: what to write, and the keys that change."""
    objective, own = OBJECTIVES[spec["objective"]], METHODS[spec["method"]]
    least = spec.get("generations", 1) if objective.groups else objective.least_batch
    steps = spec["batch_size"] // spec.get("minibatches", 1)
    split = [n for n in range(spec["accumulation"] + 1, steps // least + 1) if steps % n == 0]
    changes = [{"accumulation": n} for n in split]
    checkpointing = {"gradient_checkpointing": True} if own.gradient_checkpointing else {}
    most = checkpointing | ({"accumulation": split[-1]} if split else {})
    changes += [checkpointing, most]
    adapted = {"rank": 16, "target_modules": "all-linear", "dropout": 0.0}
    low_rank = [name for name, row in METHODS.items() if row.low_rank and row is not own and not own.four_bit]
    for name in low_rank:
        more = {"method": name} | ({} if own.low_rank else adapted)
        changes += [more, more | most]
    shares = (2, 4, 8) if "max_new_tokens" not in spec else ()  # there the answers decide
    changes += [{"max_length": shorter // n} | most for n in shares]
    return [(", ".join(f"{setting(key)}: {_yaml(v)}" for key, v in c.items() if setting(key)), c) for c in changes if c]


def setting(key: str) -> str:
    """A spec's key in the words of the configuration; empty where a change of it is not told, as it is a default."""
    return WORDS.get(key, key)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
