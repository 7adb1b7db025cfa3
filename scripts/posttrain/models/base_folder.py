"""Make what a base's folder says of its template, its special tokens and its stops one thing, in every file that says it.

A model's folder tells programs in several places how a text ends: tokenizer_config.json, config.json, generation_config.json
and the chat template. Where these differ, LoRA and full fine-tuning publish different stops, and a program is right or wrong by
the file that it reads. After `normalise` they agree, and every later stage, and whoever loads the model, only reads the folder:

- chat_template.jinja is the template in force, with `chat_template_kwargs` as defaults at its head; named templates lie in
  additional_chat_templates/.
- generation_config.json exists, and its `eos_token_id` lists every token that ends an answer.
- config.json has the tokenizer's bos, eos and pad.
- tokenizer_config.json has `chat_template_date`, where a template prints today's date.

Files are replaced, never written into: the weights of a local base are hard links to the user's own.
"""

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from posttrain.data.conversations import DATE, TEMPLATE_ARGUMENTS
from posttrain.models import chat_templates, processors
from posttrain.models.base_inspection import first_line
from posttrain.runtime.atomic import read_json, whole_file, write_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError, nearest

TEMPLATE, NAMED = "chat_template.jinja", "additional_chat_templates"
SPECIAL = ("bos", "eos", "pad")


def normalise(spec: dict, folder: Path, name: str) -> None:
    """Apply a base's own keys to its folder, and make its files agree.

    Raises:
        UserError: a token that the tokenizer or the embedding does not have, a template that cannot be used, arguments that no
            template reads.
    """
    rows = embeddings(folder)
    _set_special_tokens(spec, folder, name, rows)
    tokenizer = load_tokenizer(folder, name)
    own, ids = _templates(tokenizer) or _of_processor(folder), {_id(tokenizer, "eos")}
    templates = _chosen_templates(spec, own, folder, name)
    ids |= _stops(folder, tokenizer, name)
    if templates:
        _check_arguments(spec, templates, name)
        arguments = spec.get("chat_template_kwargs", {})
        templates = {key: chat_templates.with_defaults(text, arguments) for key, text in templates.items()}
        end = _turn_end(tokenizer, templates, ids, spec, name)
        ids |= {end} - {None}
    _write_templates(folder, templates, _date(spec, folder, templates, name))
    _write_ids(folder, tokenizer, ids, rows)


def load_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer of a base's folder.

    Raises:
        UserError: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a broken folder makes transformers raise
        models = [file.name for file in folder.glob("*.model")]
        if models and not (folder / "tokenizer.json").exists() and not importlib.util.find_spec("sentencepiece"):
            raise UserError(
                "missing-package",
                f"base {name}",
                f"its tokenizer is only in {models[0]}, which needs sentencepiece",
                "`pip install sentencepiece`, or put a tokenizer.json beside it",
            ) from None
        raise UserError(
            "unreadable-model", f"base {name}", f"its tokenizer cannot be loaded: {first_line(error)}"
        ) from None


def embeddings(folder: Path) -> int:
    """How many tokens the model has embeddings for; a nested configuration leaves out what is its class's default."""
    from transformers import AutoConfig

    written = _text(read_json(folder / "config.json")).get("vocab_size")
    if written:
        return written
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    except Exception:  # whatever a broken configuration makes transformers raise; loading the model will say why
        return sys.maxsize
    return getattr(config, "vocab_size", None) or sys.maxsize


def optional_json(file: Path) -> dict:
    """The table in a JSON file; an empty one where there is no file."""
    return read_json(file) if file.exists() else {}


# ---- special tokens


def _set_special_tokens(spec: dict, folder: Path, name: str, rows: int) -> None:
    """Write eos and pad into the tokenizer's files: the configuration's, the tokenizer's own, or those of the model's files.

    Raises:
        UserError: there is no eos, or a configured token is not in the tokenizer or has no embedding.
    """
    tokenizer = load_tokenizer(folder, name)
    known = tokenizer.get_vocab()
    for key in ("eos_token", "pad_token"):
        token = spec.get(key)
        if token is None:
            continue
        if token not in known:
            added = [str(entry) for entry in tokenizer.added_tokens_decoder.values()]
            raise UserError(
                "token-without-embedding",
                f"base {name}",
                f"{key}: '{token}' is not a token of its tokenizer",
                f"{nearest(token, added)} (to add a token, list it under new_tokens)",
            )
        if known[token] >= rows:
            raise UserError(
                "token-without-embedding",
                f"base {name}",
                f"{key}: '{token}' has the id {known[token]}, and the model has embeddings for {rows} tokens only",
                "list it under new_tokens as well, or write another token",
            )
    chosen = {key: spec.get(f"{key}_token") or _own(tokenizer, folder, key, rows) for key in ("eos", "pad")}
    if chosen["eos"] is None:
        added = [str(entry) for entry in tokenizer.added_tokens_decoder.values()]
        raise UserError(
            "no-eos-token",
            f"base {name}",
            "its tokenizer has no eos_token, so that a model cannot learn to stop",
            f"write eos_token: with one of its tokens, {(nearest('', added) if added else 'or list a new one under new_tokens as well')}",
        )
    changed = {f"{key}_token": token for key, token in chosen.items() if token != getattr(tokenizer, f"{key}_token")}
    if not changed:
        return
    for file in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if (
            file.name == "tokenizer_config.json" or file.exists()
        ):  # the second one, of older versions, has the last word
            write_json(file, optional_json(file) | changed)


def _own(tokenizer: Any, folder: Path, key: str, rows: int) -> str | None:
    """The tokenizer's own special token, or the special token that the model's files name where it has none."""
    token = getattr(tokenizer, f"{key}_token")
    if token is not None:
        return token
    for file in ("generation_config.json", "config.json"):
        ids = optional_json(folder / file).get(f"{key}_token_id")
        ids = ids if isinstance(ids, list) else [ids]
        special = [i for i in ids if i in tokenizer.added_tokens_decoder and i < rows]
        if special:
            return str(tokenizer.added_tokens_decoder[special[0]])
    return None


def _id(tokenizer: Any, key: str) -> int | None:
    return getattr(tokenizer, f"{key}_token_id")


def _stops(folder: Path, tokenizer: Any, name: str) -> set[int]:
    """The tokens that the model's files name as the end of a generation.

    What config.json says may be no more than the default of its class, which in this tokenizer is a piece of a word; a
    generation_config.json that was made of it says so.
    """
    generation = optional_json(folder / "generation_config.json")
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    chosen = set() if generation.get("_from_model_config") else _ids(generation.get("eos_token_id"))
    config = optional_json(folder / "config.json")
    derived = _ids(config.get("eos_token_id")) | _ids(_text(config).get("eos_token_id"))
    derived |= _ids(generation.get("eos_token_id")) - chosen
    words = sorted((derived - special) & set(range(len(tokenizer))))
    if words:
        say(
            f"{name}: config.json names {tokenizer.convert_ids_to_tokens(words)} as the end of a text, and it is not a special "
            f"token of the tokenizer; texts end with {tokenizer.eos_token}"
        )
    return {token for token in chosen if token < len(tokenizer)} | (derived & special)


def _ids(value: Any) -> set[int]:
    """The ids in an `eos_token_id`: none, one, or a list."""
    values = value if isinstance(value, list) else [value]
    return {token for token in values if isinstance(token, int) and not isinstance(token, bool) and token >= 0}


def _text(config: dict) -> dict:
    """The table of the language model in a configuration of several models."""
    table = config.get("text_config")
    return table if isinstance(table, dict) else config


def _write_ids(folder: Path, tokenizer: Any, stops: set[int], rows: int) -> None:
    """Write the special tokens' ids to config.json, and with all stops to generation_config.json; eos comes first."""
    ids = {f"{key}_token_id": _id(tokenizer, key) for key in SPECIAL}
    if ids["pad_token_id"] is not None and ids["pad_token_id"] >= rows:
        ids["pad_token_id"] = None  # torch refuses a padding index beyond the embedding; the preflight tells of it
    config = read_json(folder / "config.json")
    _text(config).update({key: ids[key] for key in ids if key in _text(config)})
    write_json(folder / "config.json", config | ids)
    generation = optional_json(folder / "generation_config.json")
    generation.pop("_from_model_config", None)
    eos = ids["eos_token_id"]
    write_json(
        folder / "generation_config.json", generation | ids | {"eos_token_id": [eos, *sorted(stops - {eos, None})]}
    )


# ---- templates


def _templates(tokenizer: Any) -> dict[str, str]:
    """The tokenizer's templates by name, `default` the one without a name."""
    own = tokenizer.chat_template or {}
    return dict(own) if isinstance(own, dict) else {"default": own}


def _of_processor(folder: Path) -> dict[str, str]:
    """The templates in a processor's own file, where older versions of transformers have written them."""
    own = optional_json(folder / processors.TEMPLATE).get("chat_template") or {}
    return dict(own) if isinstance(own, dict) else {"default": own}


def _chosen_templates(spec: dict, own: dict[str, str], folder: Path, name: str) -> dict[str, str]:
    """The templates in force: the configured one, which replaces all of the base's own, or those.

    Raises:
        UserError: one is not a template, or its name is not the name of a file.
    """
    if "chat_template" not in spec:
        for key, text in own.items():
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", key):
                raise UserError(
                    "unusable-chat-template",
                    f"base {name}",
                    f"a chat template has the name '{key}'",
                    "write letters, digits and _ . -",
                )
            chat_templates.parsed(text, f"base {name}: its chat template '{key}'")
        return own
    requested = spec["chat_template"]["name"]
    file = chat_templates.find(requested, Path(), f"base {name}: chat_template")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            "unusable-chat-template",
            f"base {name}",
            f"chat_template: {requested} is not UTF-8 at byte {error.start + 1}",
        ) from None
    chat_templates.parsed(text, f"base {name}: chat_template: {requested}")
    others = sorted(own.keys() - {"default"})
    if others:
        say(f"{name}: chat_template replaces all templates of the base, also those by the names {', '.join(others)}")
    return {"default": text}


def _check_arguments(spec: dict, templates: dict[str, str], name: str) -> None:
    """Refuse arguments that would change nothing.

    Raises:
        UserError: naming them.
    """
    arguments = spec.get("chat_template_kwargs")
    if not arguments:
        return
    read = set().union(
        *(chat_templates.variables(text, f"base {name}: its chat template") for text in templates.values())
    )
    idle = sorted(arguments.keys() - read)
    if idle:
        valid = sorted(key for key in read - {*TEMPLATE_ARGUMENTS} if not key.endswith("_token"))
        what = f"its variables are {', '.join(valid)}" if valid else "it has no variables of its own"
        raise UserError(
            "unusable-chat-template",
            f"base {name}",
            f"chat_template_kwargs: the chat template never reads {', '.join(idle)}",
            f"{what}",
        )


def _turn_end(tokenizer: Any, templates: dict[str, str], stops: set[int], spec: dict, name: str) -> int | None:
    """The token that ends a turn, from a rendered conversation; says what of a configured template is not a token.

    Raises:
        UserError: a configured template fails. One of the base's own may want conversations of another kind.
    """
    template = templates.get("default") or next(iter(templates.values()))
    try:
        text = chat_templates.probe(tokenizer, template)
    except UserError as error:
        if "chat_template" in spec:
            raise UserError(
                "unusable-chat-template", f"base {name}", f"chat_template: {spec['chat_template']['name']}: {error}"
            ) from None
        say(f"{name}: its chat template was not tried: {error}")
        return None
    pieces = chat_templates.in_pieces(tokenizer, text)
    if pieces:
        say(
            f"{name}: WARNING: the chat template writes {', '.join(pieces)}, which the tokenizer does not know as a token and "
            f"cuts into pieces; list it under new_tokens"
        )
    return chat_templates.turn_end(tokenizer, text, stops)


def _date(spec: dict, folder: Path, templates: dict[str, str], name: str) -> str | None:
    """The date that the templates print, or None where they print none.

    Raises:
        UserError: one is configured that no template prints.
    """
    if any("strftime_now" in text for text in templates.values()):
        own = optional_json(folder / "tokenizer_config.json").get("chat_template_date")
        return spec.get("date") or own or DATE
    if "date" in spec:
        raise UserError(
            "unusable-chat-template",
            f"base {name}",
            "date: its chat template does not print today's date",
            "take the key out",
        )
    return None


def _write_templates(folder: Path, templates: dict[str, str], date: str | None) -> None:
    """Write the templates as files, and leave none in other files; tokenizer_config.json says on which date they are rendered."""
    shutil.rmtree(folder / NAMED, ignore_errors=True)
    (folder / TEMPLATE).unlink(missing_ok=True)
    (folder / processors.TEMPLATE).unlink(missing_ok=True)
    for file in (folder / name for name in processors.FILES):
        if "chat_template" in (config := optional_json(file)):
            write_json(file, {key: value for key, value in config.items() if key != "chat_template"})
    for key, text in templates.items():
        place = folder / TEMPLATE if key == "default" else folder / NAMED / f"{key}.jinja"
        with whole_file(place) as file:
            file.write_text(text, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    config = optional_json(file)
    changed = {key: value for key, value in config.items() if key not in ("chat_template", "chat_template_date")}
    changed |= {"chat_template_date": date} if date else {}
    if changed != config:
        write_json(file, changed)
