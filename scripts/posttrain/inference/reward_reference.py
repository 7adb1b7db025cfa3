"""Whether a reward function can score completions of prompts that have no completion of their own."""

from collections.abc import Callable

from posttrain.runtime import user_code
from posttrain.runtime.errors import UserError

NEEDED_BY = ("final_number", "tool_name", "tool_arguments", "tool_arguments_f1")  # of reward_models.FUNCTIONS
_ANSWER = "An answer."


def refusal(function: str | None, dataset: str, shape: str) -> str | None:
    """Why a rule of ours cannot score completions of these rows, or None."""
    if function not in NEEDED_BY or shape != "prompts":
        return None
    return (
        f"{function} compares a completion with the row's own, and {dataset} is prompts alone; write their answers "
        "into the rows as `completion`, or a function that needs none"
    )


def check(spec: dict, shape: str) -> None:
    """Refuse a reward function that fails without a reference, where the rows have none; a user's own is tried once.

    Args:
        spec: a run's.

    Raises:
        UserError: it needs a reference.
    """
    name, dataset = (spec.get("reward") or {}).get("function"), spec["data"]["name"]
    if name is None or shape != "prompts":
        return
    if why := refusal(name, dataset, shape):
        raise UserError("wrong-dataset-type", "reward.function", why)
    if not user_code.is_own(name):
        return
    rule = user_code.load(name)
    fault = _fault(rule, None)
    if fault and not _fault(rule, _ANSWER):
        raise UserError(
            "wrong-dataset-type",
            "reward.function",
            f"{dataset} is prompts alone, and where the reference is None, {fault}",
            "write the rows' answers into them as `completion`, or let the function work without a reference",
        )


def _fault(rule: Callable[[str, str | None], float], reference: str | None) -> str | None:
    try:
        rule(_ANSWER, reference)
    except UserError as error:
        return str(error)
    return None
