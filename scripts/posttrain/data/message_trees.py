"""Trees of messages (OpenAssistant, Köpf et al. 2023): a flat table in which each message names its parent.

A tree gives its best conversation, which follows the best ranked reply from the root on, or, for preferences, a pair for
each reply that is ranked below the best of its siblings.
"""

from collections.abc import Iterator
from typing import Any

from posttrain.data.formats import FORMATS
from posttrain.data.messages import Row
from posttrain.runtime.errors import UserError

Placed = list[tuple[str, Row | UserError]]


def rows(placed: Placed, format: str, columns: dict[str, str]) -> Placed:
    """Conversations (oasst) or preferences (oasst_pairs), each with the place of the message that it is about.

    Args:
        placed: place and message, of the whole table; one that is in no tree comes back as a UserError.
        columns: our field to the file's field.
    """
    fields = [*FORMATS[format].required, *FORMATS[format].optional]
    messages: dict[str, Row] = {}
    faults: Placed = []
    for place, row in placed:
        message = row if isinstance(row, UserError) else _message(row, fields, columns, place, messages)
        if isinstance(message, UserError):
            faults.append((place, message))
        elif not message["deleted"]:
            messages[message["message_id"]] = message
    replies: dict[str | None, list[Row]] = {}
    for message in messages.values():
        replies.setdefault(message["parent_id"] or None, []).append(message)
    for siblings in replies.values():
        siblings.sort(key=lambda reply: (reply["rank"] is None, reply["rank"] or 0))
    found: Placed = []
    for root in replies.get(None, ()):
        found += (_pairs if FORMATS[format].dataset_type == "preference" else _best)(root, replies)
    return [*found, *faults, *_lost(messages, replies)]


def _message(row: Any, fields: list[str], columns: dict[str, str], place: str, known: dict) -> Row | UserError:
    if not isinstance(row, dict):
        return UserError("invalid-row", place, "a message is an object with named fields")
    message = {field: row.get(columns.get(field, field)) for field in fields} | {"place": place}
    id = message["message_id"]
    if not isinstance(id, str) or not id:
        return UserError("invalid-row", place, "the message has no message_id", "write one, as text")
    if id in known:
        return UserError(
            "invalid-row",
            place,
            f"the message_id '{id}' is that of {known[id]['place']} too",
            "give each message its own",
        )
    if not isinstance(message["parent_id"], str | None):
        return UserError(
            "invalid-row", place, "the parent_id is not text", "write the message_id of the message before, or null"
        )
    for field in ("role", "text"):
        if isinstance(message[field], list | dict):
            return UserError("invalid-row", place, f"the {field} is not a string", "write one")
    if not isinstance(message["deleted"], bool | None):  # CSV's "False" would be true
        return UserError("invalid-row", place, "the field deleted is not a boolean", "write true, false or null")
    if not isinstance(message["rank"], int | float | None):
        return UserError(
            "invalid-row", place, "the rank is not a number", "write 0 for the best of its siblings, or null"
        )
    return message


def _turn(message: Row) -> Row:
    return {"role": message["role"], "content": message["text"]}


def _best(root: Row, replies: dict[str | None, list[Row]]) -> Iterator[tuple[str, Row]]:
    path = [root]
    while path[-1]["message_id"] in replies:
        path.append(replies[path[-1]["message_id"]][0])
    if len(path) > 1 and path[-1]["role"] != "assistant":  # a question that nobody answered
        path.pop()
    yield root["place"], {"messages": list(map(_turn, path))}


def _pairs(root: Row, replies: dict[str | None, list[Row]]) -> Iterator[tuple[str, Row]]:
    waiting = [[root]]
    while waiting:
        path = waiting.pop()
        answers = replies.get(path[-1]["message_id"], [])
        waiting += [[*path, answer] for answer in reversed(answers)]
        for worse in answers[1:]:
            ranked = worse["rank"] is not None and answers[0]["rank"] < worse["rank"]
            if ranked and worse["role"] == "assistant":
                prompt = list(map(_turn, path))
                yield worse["place"], {"prompt": prompt, "chosen": [_turn(answers[0])], "rejected": [_turn(worse)]}


def _lost(messages: dict[str, Row], replies: dict[str | None, list[Row]]) -> Placed:
    """The messages that no root leads to."""
    reached = set()
    waiting = list(replies.get(None, ()))
    while waiting:
        message = waiting.pop()
        reached.add(message["message_id"])
        waiting += replies.get(message["message_id"], ())
    return [
        (
            message["place"],
            UserError(
                "invalid-row",
                message["place"],
                f"no root leads to the message '{id}'",
                f"its parent '{message['parent_id']}', or one before it, is missing or forms a cycle",
            ),
        )
        for id, message in messages.items()
        if id not in reached
    ]
