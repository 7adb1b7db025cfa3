"""Whether a reward function can judge answers to prompts that come without an answer of their own."""

from posttrain.errors import UserError

NEEDED_BY = ("final_number",)  # of rewards.FUNCTIONS
_ANSWER = "An answer."


def refusal(function: str | None, dataset: str, shape: str) -> str | None:
    """Why a rule of ours cannot judge answers to these rows, or None."""
    if function not in NEEDED_BY or shape != "prompts":
        return None
    return (
        f"reward.function: {function} compares an answer with the row's own, and {dataset} is prompts alone; write their answers "
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
        raise UserError(why)
    from posttrain.rewards import function

    rule = function(name)
    fault = _fault(rule, None)
    if fault and not _fault(rule, _ANSWER):
        raise UserError(
            f"reward.function: {name} fails where the reference is None ({fault}), and {dataset} is prompts alone; write their "
            "answers into the rows as `completion`, or let the function do without"
        )


def _fault(rule, reference: str | None) -> str | None:
    try:
        float(rule(_ANSWER, reference))
    except Exception as error:  # whatever the user's own function raises
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None
