"""Where the rows of a JSON file begin and end: it is one list, or an object that has the list under one key."""

import json
import re

_KEY = r'\s*"(?:[^"\\]|\\.)*"\s*:\s*'
_PLAIN = r'(?:"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|\{[^{}\[\]]*\}|\[[^{}\[\]]*\])\s*,'
_OBJECT = re.compile(rf"\s*\{{(?:{_KEY}{_PLAIN})*{_KEY}\[\s*(?=[{{\]])")
_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*\[\s*\Z')
LONGEST_HEAD = 100_000  # characters before the list


def begin(text: str, ours: frozenset[str]) -> int | None:
    """Where the first row is looked for in the beginning of a file's text; None where there is no list of objects.

    Args:
        ours: keys that are fields of a row: a list under one of them is part of a row.
    """
    if text.lstrip()[:1] == "[":
        return text.index("[") + 1
    head = _OBJECT.match(text, 0, LONGEST_HEAD)
    if not head or _NAME.search(head[0])[1] in ours:
        return None
    return head.end()


def several(rest: str) -> list[str] | None:
    """The keys of other lists of objects behind the list of rows, in what is left of the object; None where it is no JSON."""
    try:
        found = json.loads('{"rows": []' + rest)
    except (ValueError, RecursionError):
        return None
    return [
        key for key, value in found.items() if isinstance(value, list) and any(isinstance(item, dict) for item in value)
    ]
