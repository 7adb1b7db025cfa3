"""What a run's keys cannot be combined to, by rules that need nothing but the run itself."""

from collections.abc import Iterator
from typing import Any

from posttrain.config import loss_keys, measuring
from posttrain.config.fields import Mistake
from posttrain.methods import METHODS
from posttrain.models import parameter_patterns
from posttrain.objectives import OBJECTIVES
from posttrain.preflight import checks
from posttrain.runtime.errors import nearest


def mistakes(run: Any) -> Iterator[Mistake]:
    """Why this objective cannot be trained by this method with these keys; nothing if it can."""
    rules = (
        _batch,
        loss_keys.mistakes,
        _initial_weights,
        _checks,
        _reward,
        _environment,
        _method,
        _objective,
        measuring.mistakes,
    )
    for rule in rules:
        yield from rule(run)
    for sentence in parameter_patterns.refusals(run.model_dump(include=set(parameter_patterns.KEYS))):
        key, _, rest = sentence.partition(": ")
        yield Mistake.told("invalid-value", key, rest)


def _batch(run: Any) -> Iterator[Mistake]:
    if run.batch_size % run.gradient_accumulation_steps:
        yield Mistake(
            "conflicting-keys",
            "gradient_accumulation_steps",
            f"{run.gradient_accumulation_steps} does not divide batch_size {run.batch_size}",
            "write a divisor of batch_size",
        )
    if {"epochs", "max_steps"} <= run.model_fields_set and run.max_steps is not None:
        yield Mistake("conflicting-keys", "max_steps", "`epochs` and `max_steps` are both set", "write one of them")
    objective = OBJECTIVES[run.objective]
    if run.batch_size // run.gradient_accumulation_steps < objective.least_batch:
        yield Mistake(
            "conflicting-keys",
            "batch_size",
            f"{run.objective} estimates a KL divergence over each forward pass, which needs at least {objective.least_batch} examples",
            f"write a batch_size of at least {objective.least_batch} x gradient_accumulation_steps",
        )
    if objective.groups and run.batch_size % run.num_generations:
        yield Mistake(
            "conflicting-keys",
            "num_generations",
            f"{run.num_generations} does not divide batch_size {run.batch_size}",
            "write a divisor of batch_size",
        )


def _checks(run: Any) -> Iterator[Mistake]:
    for name in run.allow:
        if name not in checks.NAMES:
            yield Mistake("unknown-name", "allow", f"there is no check '{name}'", nearest(name, checks.NAMES))


def _reward(run: Any) -> Iterator[Mistake]:
    objective, reward = OBJECTIVES[run.objective], run.reward
    if objective.on_policy and reward is None and run.environment is None:
        acts = ", or an `environment`" if "environment" in objective.keys else ""
        yield Mistake(
            "missing-key",
            "reward",
            f"{run.objective} needs a reward",
            f"write `reward: {{from: RUN}}` or `reward: {{function: NAME}}`{acts}",
        )
    if objective.on_policy and run.max_length <= run.max_new_tokens:
        yield Mistake(
            "conflicting-keys",
            "max_length",
            f"{run.max_length} is the length of a prompt with its completion, so max_new_tokens {run.max_new_tokens} leaves no room "
            "for a prompt",
            f"write a larger max_length, such as {2 * run.max_new_tokens}",
        )
    if not reward:
        return
    if reward.kind == "implicit" and not objective.token_rewards:
        able = [name for name, row in OBJECTIVES.items() if row.token_rewards]
        yield Mistake(
            "unsupported-combination",
            "reward.kind",
            f"implicit rewards each token, which {run.objective} cannot use",
            f"it needs objective: {' or '.join(able)}",
        )
    if run.value_start == "reward" and not (reward.sequence or (reward.kind == "score" and reward.from_)):
        yield Mistake(
            "conflicting-keys",
            "value_start",
            "there is no reward model to start from",
            "write value_start: auto, or reward: {from: RUN}",
        )


def _environment(run: Any) -> Iterator[Mistake]:
    """What does not go with acting in an environment, and what does nothing without one."""
    if run.environment is None:
        for key in sorted({"max_turns", "max_tool_tokens", "tool_seconds"} & run.model_fields_set):
            yield Mistake("key-without-effect", key, "it has no effect here", "it needs environment: NAME")
        return
    if measuring.is_measured(run):
        key = next(key for key in ("early_stopping", "keep", "measure_every") if getattr(run, key) is not None)
        problem = "episodes are not measured while a run trains"
        yield Mistake(
            "unsupported-combination", key, problem, "remove it; a suite with `kind: environment` measures them"
        )
    for field in ("use_vllm", "use_transformers_continuous_batching"):
        if run.trainer_args.get(field):
            problem = "the turns of an episode are sampled by transformers' `generate`"
            yield Mistake("unsupported-combination", f"trainer_args.{field}", problem, "remove it")


def _method(run: Any) -> Iterator[Mistake]:
    """What the method cannot do."""
    objective, method = OBJECTIVES[run.objective], METHODS[run.method]
    if objective.value_model and not method.several_adapters:
        yield _unsupported(
            "method", f"{run.objective} trains two adapters on one model, and {run.method} allows only one", "lora"
        )
    if objective.classifier and not method.mergeable:
        yield _unsupported(
            "method", f"{run.method} cannot be merged, and config.json of the merged model has the labels", "lora"
        )
    elif method.at_input and objective.scores:
        why = "passes embeddings instead of tokens, from which a reward model cannot tell where a completion ends"
        yield _unsupported("method", f"{run.method} {why}", "lora or prefix")
    elif method.at_input and objective.teacher:
        why = "puts virtual tokens before the prompt, which the teacher does not read"
        yield _unsupported("method", f"{run.method} {why}", "lora or prefix")
    elif method.at_input and not objective.virtual_tokens_at_input:
        why = "puts virtual tokens before the prompt, which TRL does not exclude from the loss of"
        yield _unsupported("method", f"{run.method} {why} {run.objective}", "lora, or objective: dpo")
    if run.gradient_checkpointing and not method.gradient_checkpointing:
        yield Mistake(
            "unsupported-combination",
            "gradient_checkpointing",
            f"it drops the key-value cache that {run.method} tuning consists of",
            "remove it",
        )
    for field, problem in method.refused_peft_fields:
        if run.peft_args.get(field):
            yield Mistake("unsupported-combination", f"peft_args.{field}", problem, "remove it")


def _objective(run: Any) -> Iterator[Mistake]:
    """What the objective cannot do."""
    objective = OBJECTIVES[run.objective]
    if run.dropout and not objective.allows_dropout:
        yield Mistake(
            "unsupported-combination",
            "dropout",
            f"{run.objective} compares a policy with its own earlier log-probabilities, which dropout would disturb",
            "remove it",
        )
    if objective.reference == "logprobs" and run.trainer_args.get("ld_alpha") is not None:
        yield Mistake(
            "unsupported-combination",
            "trainer_args.ld_alpha",
            "it weights the tokens of a completion, and the reference's log-probabilities are computed without weights",
            "remove it",
        )


def _unsupported(key: str, problem: str, instead: str) -> Mistake:
    return Mistake("unsupported-combination", key, problem, f"write {key}: {instead}")


def _initial_weights(run: Any) -> Iterator[Mistake]:
    """Why an adapter cannot be initialised as `peft_args.init_lora_weights` says, and fields that would do nothing."""
    first, objective = str(run.peft_args.get("init_lora_weights")), OBJECTIVES[run.objective]
    place = "peft_args.init_lora_weights"
    if first in ("pissa", "olora") and (run.quantised or objective.needs_parent):
        why = "4-bit weights cannot be changed" if run.quantised else "the parent is needed as the reference"
        problem = f"{first} moves a part of the parent's weights into the adapter, but {why}"
        yield Mistake("unsupported-combination", place, problem, "remove it")
    if first.startswith("pissa_niter"):
        problem = "fast PiSSA is random, so the adapter cannot be loaded again as it was trained"
        yield Mistake("unsupported-combination", place, problem, "write pissa")
    if first.startswith(("corda", "lora_ga")):
        yield Mistake(
            "unsupported-combination", place, f"{first} needs a preparation that is not available", "write eva or pissa"
        )
    for name in ("eva", "loftq"):
        if f"{name}_config" in run.peft_args and first != name:
            hint = f"it needs init_lora_weights: {name}"
            yield Mistake("key-without-effect", f"peft_args.{name}_config", "it has no effect here", hint)
    if first == "eva" and (objective.value_model or not METHODS[run.method].low_rank):
        able = [name for name, row in OBJECTIVES.items() if not row.value_model]
        problem = "eva initialises a LoRA that is the only adapter"
        hint = f"it needs method: lora or qlora, and objective: {', '.join(able)}"
        yield Mistake("unsupported-combination", place, problem, hint)
    if first == "loftq":
        yield from _loftq(run, place)


def _loftq(run: Any, place: str) -> Iterator[Mistake]:
    if not run.quantised:
        problem = "loftq compensates for the error of 4-bit quantisation"
        yield Mistake("unsupported-combination", place, problem, "it needs method: qlora")
    if OBJECTIVES[run.objective].reference != "none":
        problem = f"loftq starts from the parent before quantisation, but the reference of {run.objective} is the 4-bit parent"
        yield Mistake("unsupported-combination", place, problem, "remove it")
    if run.merge_into == "original":
        problem = "original would compensate a second time for the quantisation error, in addition to loftq"
        yield Mistake("conflicting-keys", "merge_into", problem, "remove it")
    if run.peft_args.get("loftq_config", {"loftq_iter": 1}) != {"loftq_iter": 1}:
        problem = "only one iteration in 4 bits is supported, which leaves the 4-bit parent as it is"
        yield Mistake("unsupported-combination", "peft_args.loftq_config", problem, "remove it")
