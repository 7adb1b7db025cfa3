"""Chat templates of a base: a user's file, or one that TRL or posttrain ships; defaults of their variables; the token that ends a turn.

A template is a Jinja program that travels with the model. What the configuration says about it is written into the template
itself, so that every program that loads the model renders the same text.
"""

import difflib
import hashlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.compat.transformers_internals import compiled_template
from posttrain.data.files import is_file
from posttrain.models.base_inspection import MAX_TEMPLATE, first_line
from posttrain.runtime.errors import UserError
from posttrain.runtime.resource_limits import limited

# The keys of a base that change its folder after it was taken.
KEYS = ("chat_template", "chat_template_kwargs", "date", "eos_token", "new_tokens", "new_words", "pad_token")
SECONDS, BYTES = 10, 1 << 30  # of a rendering of the probe
QUESTION, ANSWER = "Question", "Answer"  # the probe; plain words, which no template trims or rewrites
# What is written like a token of a chat: <|im_start|>, <start_of_turn>, [INST].
LIKE_A_TOKEN = re.compile(r"<\|[^<>|\s'\"]{1,40}\|>|</?(?:start|end)_of_(?:turn|image)>|\[/?INST\]")


# ---- when the configuration is read


@cache
def shipped() -> dict[str, Path]:
    """The templates that the installed TRL ships, and ours, by name; TRL itself, which takes seconds, is not imported."""
    theirs = Path(importlib.util.find_spec("trl").submodule_search_locations[0], "chat_templates")
    folders = (theirs, Path(__file__).with_name("templates"))
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.jinja"))}


def find(template: str, folder: Path, place: str) -> Path:
    """The file of a `chat_template`: a shipped one where it is the name of one, else relative to the project's `folder`.

    Raises:
        UserError: there is neither; opens with `place`.
    """
    if template in shipped():
        return shipped()[template]
    if is_file(folder / template):
        return folder / template
    if "/" in template or "." in template:
        raise UserError(
            "missing-file",
            f"{place}",
            f"there is no file '{template}'",
            f"write one that exists, relative to {folder.resolve()}",
        )
    close = difflib.get_close_matches(template, shipped(), n=1, cutoff=0.6)
    meant = f"did you mean '{close[0]}'?" if close else "there are 'hermes', 'qwen3', 'llama3_1' and others"
    raise UserError(
        "missing-file",
        f"{place}",
        f"no template '{template}' is shipped",
        f"{meant} (a template of your own is a file, NAME.jinja)",
    )


def settings(base: Any, folder: Path) -> dict[str, Any]:
    """The keys of a base's spec that are not at their defaults; a template has the hash of its text.

    Args:
        base: a pydantic model with the fields `KEYS`.
    """
    fields = type(base).model_fields
    values = {key: getattr(base, key) for key in KEYS}
    values = {key: value for key, value in values.items() if value != fields[key].get_default()}
    if base.chat_template:
        file = shipped().get(base.chat_template, folder / base.chat_template)
        digest = hashlib.sha256(file.read_bytes()).hexdigest() if is_file(file) else None
        values["chat_template"] = {"name": base.chat_template, "sha256": digest}
    return values


# ---- when the base is built


def parsed(template: str, place: str) -> Any:
    """A template's syntax tree, in the dialect of `apply_chat_template`.

    Raises:
        UserError: it is too long, or not Jinja.
    """
    from jinja2 import TemplateSyntaxError

    if len(template) > MAX_TEMPLATE:
        raise UserError(
            "unusable-chat-template",
            "",
            f"{place} is longer than {MAX_TEMPLATE:,} characters",
            "write another template",
        )
    with limited(place, SECONDS, BYTES):
        try:
            return compiled_template("").environment.parse(template)
        except TemplateSyntaxError as error:
            raise UserError(
                "unusable-chat-template",
                "",
                f"{place} is not a Jinja template: line {error.lineno}: {first_line(error)}",
                "correct it, or write another",
            ) from None
        except RecursionError:
            raise UserError(
                "unusable-chat-template", "", f"{place} is nested too deeply", "write another template"
            ) from None


def variables(template: str, place: str) -> set[str]:
    """The names that a template reads and does not always set itself.

    Raises:
        UserError: as `parsed`.
    """
    from jinja2.meta import find_undeclared_variables

    tree = parsed(template, place)
    with limited(place, SECONDS, BYTES):
        return find_undeclared_variables(tree)


def with_defaults(template: str, values: dict[str, Any]) -> str:
    """The template with defaults for its variables at its head; what `apply_chat_template` is given wins over them.

    The line's end after the head belongs to it: `apply_chat_template` takes out the first one after a block, and what follows
    stands at the beginning of a line, as it did before.
    """
    heads = [
        f"{{%- if {key} is not defined %}}{{%- set {key} = {_literal(values[key])} %}}{{%- endif %}}"
        for key in sorted(values)
    ]
    return "".join(heads) + "\n" + template if heads else template


def _literal(value: Any) -> str:
    """A value of the configuration as Jinja writes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(entry)}' for key, entry in value.items())}}}"
    return repr(value)


def probe(tokenizer: Any, template: str | None = None) -> str:
    """The text of a conversation of two turns, `QUESTION` and `ANSWER`.

    Raises:
        UserError: the template refuses it, or goes beyond the limits of time and memory.
    """
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    with limited("the base's chat template", SECONDS, BYTES):
        try:
            return tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
        except (TimeoutError, MemoryError):
            raise
        except Exception as error:  # whatever its author's program raises
            raise UserError(
                "unusable-chat-template", "", f"it fails on a conversation of two turns: {first_line(error)}"
            ) from None


def turn_end(tokenizer: Any, text: str, stops: set[int]) -> int | None:
    """The token with which the template closes an assistant's turn; None where it writes no special token there.

    A template may close a turn with several, of which one that ends a generation already is meant.

    Args:
        text: of the probe.
        stops: the tokens that end a generation already.
    """
    _, found, tail = text.rpartition(ANSWER)
    ids = tokenizer(tail.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    run = []
    for token in ids:
        if token not in special:
            break
        run.append(token)
    return next((token for token in run if token in stops), run[0] if run else None)


def in_pieces(tokenizer: Any, text: str) -> list[str]:
    """What looks like a token in a rendered text, and is several pieces to the tokenizer."""
    known = tokenizer.get_vocab()
    return [token for token in dict.fromkeys(LIKE_A_TOKEN.findall(text)) if token not in known]
