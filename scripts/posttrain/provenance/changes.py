"""What differs between the spec that built a result and the configuration's now, in the user's words."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

ABSENT = object()
LONGEST = 60  # characters of a value that are shown
# Keys of a spec that are ours and not the user's.
VERSIONED = {"version": "this stage", "tokens": "the tokens"}


class Difference(NamedTuple):
    """One field of a spec that has changed."""

    place: str
    """the field, such as `rank` or `trainer_args.optim`"""
    before: Any
    now: Any
    upstream: str | None
    """where only the spec of what the field names has changed: that name"""


def differences(before: Any, now: Any, place: str = "") -> Iterator[Difference]:
    """The fields in which two specs differ, in the order of their keys."""
    if isinstance(before, dict) and isinstance(now, dict):
        if before.get("name") == now.get("name") and before.get("spec") != now.get("spec"):
            yield Difference(place, before["spec"], now["spec"], now["name"])
            before, now = before | {"spec": None}, now | {"spec": None}
        elif "spec" in before and "spec" in now:  # another name has another spec, which says nothing more
            before, now = before | {"spec": None}, now | {"spec": None}
        for key in sorted(before.keys() | now.keys()):
            inner = f"{place}.{key}" if place else key
            yield from differences(before.get(key, ABSENT), now.get(key, ABSENT), inner)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for old, new in zip(before, now, strict=True):
            yield from differences(old, new, place)
    elif before != now:
        yield Difference(place, before, now, None)


def told(found: Iterable[Difference]) -> list[str]:
    """The differences as a person says them, each once."""
    return list(dict.fromkeys(map(_said, found)))


def _said(difference: Difference) -> str:
    place, before, now, upstream = difference
    if upstream:
        return f"{upstream} changes"
    if place in VERSIONED:
        return f"{VERSIONED[place]} is version {now} of posttrain's now, was {before}"
    if place == "reward.sha256":
        return "the file of its reward function has changed"
    if place == "early_stopping.sha256":
        return "the file of the metric that it stops by has changed"
    place = place.removesuffix(".name")
    if ABSENT in (before, now) and isinstance(before if now is ABSENT else now, dict):
        return f"{place} is {'new' if before is ABSENT else 'taken out'}"
    return f"{place}: {_text(before)} -> {_text(now)}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = [item["name"] if isinstance(item, dict) and "name" in item else item for item in value]
    text = "(none)" if value is ABSENT else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
