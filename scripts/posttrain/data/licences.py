"""Licences of bases and datasets: what is known of them, what they forbid, and what a model inherits from its parts.

A licence is an SPDX expression, a name that the Hugging Face hub uses (huggingface.co/docs/hub/repositories-licenses), or
whatever else somebody wrote. This is a check for mistakes, not legal advice: it knows who forbids commercial use, and no more.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from posttrain.runtime.atomic import read_json

# The hub's list: a model card with another name is refused there. The last two say that nothing is known.
HUB = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1
ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 grok2-community gemma unknown other
""".split()
# What cards give as `license_name`, and Creative Commons without its version.
NAMES = """
qwen qwen-research tongyi-qianwen tongyi-qianwen-research mrl mnpl exaone lfm1.0 deepseek nvidia-open-model-license
falcon-llm-license coqui-public-model-license cc-by cc-by-sa cc-by-nd cc-by-nc cc-by-nc-sa cc-by-nc-nd
""".split()
KNOWN = {*HUB, *NAMES} - {"unknown", "other"}

# Those that forbid commercial use and whose names do not say so: for research (apple-amlr: Apple Machine Learning Research
# Model; mrl, mnpl: Mistral's Research and Non-Production; deepfloyd-if-license), or non-commercial by their text.
NON_COMMERCIAL = {
    "apple-amlr", "coqui-public-model-license", "deepfloyd-if-license", "exaone", "mnpl", "mrl", "ncgl-uk-2.0",
}  # fmt: skip
# Those whose names say so; `research` beside `commercial` says that both are allowed, unless that is non-commercial.
FORBIDDING = re.compile(
    r"(?<![a-z])nc(?![a-z])|non-?commercial|non-?production|no(t-for)?-commercial"
    r"|^(?!.*commercial).*(?<![a-z])research(?![a-z])"
)
# Those that let nobody else have what is made from the part, by their names: no derivatives, or no licence at all.
CLOSED = re.compile(
    r"(?<![a-z])nd(?![a-z])|no-?deriv|proprietary|all-rights-reserved|unlicensed|confidential|internal-use"
)
# What else a licence asks of whoever passes on what is made from the part; each is for people, and stops nothing.
CONDITIONS = (
    (
        re.compile(r"^llama\d"),
        "a policy of acceptable use, `Built with Llama`, a name that begins with Llama, a limit of users",
    ),
    (re.compile(r"^gemma$"), "its terms and its policy of prohibited uses go with the model"),
    (re.compile(r"openrail|-rail-"), "its restrictions of use go with the model"),
    (
        re.compile(r"(?<![a-z])sa(?![a-z])|sharealike|cdla-sharing|^odbl"),
        "what is adapted from it is shared under the same licence",
    ),
    (
        re.compile(r"^(agpl|gpl|lgpl|osl|eupl|mpl|epl)(?![a-z])"),
        "copyleft: what is derived from it is passed on under the same licence",
    ),
    (re.compile(r"^(cc-)?by(?![a-z])|^cc-by|^odc-by"), "its authors are named"),
)
# Those that forbid to train other models on what the model says, except for models made of it: the community licences of Llama 2 and
# Llama 3, Tongyi Qianwen's and EXAONE's. Llama 3.1 and later allow it.
NOT_TO_LEARN_FROM = {"llama2", "llama3", "tongyi-qianwen", "tongyi-qianwen-research", "exaone"}
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?)\n---[ \t]*(\n|\Z)", re.DOTALL)
OPERATORS = re.compile(r"\s+(and|or)\s+|-(and)-|([()])", re.IGNORECASE)  # `-and-` as card_fields writes it


def is_known(licence: str) -> bool:
    """Whether we can tell what the licence forbids: each name in it is SPDX's or one that the hub uses."""
    tokens = _tokens(licence)
    grammar = " ".join(token if token in ("and", "or", "(", ")") else "mit" for token in tokens)
    return _spdx(grammar) is not None and all(map(_canonical, tokens))


def normalise(licence: str) -> str:
    """The licence in its one spelling, `CC-BY-NC-4.0` for `cc by-nc 4.0`; of what is not known only the blanks change."""
    if not is_known(licence):
        return " ".join(licence.split())
    return " ".join(map(_canonical, _tokens(licence))).replace("( ", "(").replace(" )", ")")


def forbids(licence: str | None, use: str) -> bool:
    """Whether the licence forbids the use, "research" or "commercial"; one that is missing or not known forbids nothing.

    Of `A OR B` one may be chosen, `A AND B` must both be kept.
    """
    if use != "commercial" or licence is None:
        return False
    return _any(_tokens(licence), _says_so) if is_known(licence) else _says_so(licence)


def forbids_sharing(licence: str | None) -> bool:
    """Whether the licence forbids to give away what is made from the part; one that is missing or not known forbids nothing."""
    return licence is not None and _any(_tokens(licence), lambda name: bool(CLOSED.search(_spelling(name))))


def forbids_teaching(licence: str | None, others: str | None) -> bool:
    """Whether a licence forbids to train a model on what this one says; one of the same licence is taken to be made of it.

    Args:
        licence: of the teacher.
        others: of the model that learns.
    """
    if licence is None or (others is not None and normalise(licence) == normalise(others)):
        return False
    return _any(_tokens(licence), lambda name: _spelling(name) in NOT_TO_LEARN_FROM)


def conditions(licence: str | None) -> list[str]:
    """What a licence asks of whoever passes on what is made from the part, as far as its name tells; none of what is not known."""
    names = [name for name in _tokens(licence or "") if name not in ("and", "or", "(", ")")]
    spellings = [_spelling(name) for name in names if _canonical(name)]
    return [words for pattern, words in CONDITIONS if any(pattern.search(spelling) for spelling in spellings)]


def of_card(folder: Path) -> str | None:
    """The licence that a model's or dataset's card, the folder's README.md, names in its front matter.

    Of several, all must be kept: `A AND B`. Where it says `other`, the card's `license_name` counts.
    """
    values = _front_matter(folder / "README.md")
    licence = values.get("license")
    listed = licence if isinstance(licence, list) else [licence]
    names = [values.get("license_name") or name if name == "other" else name for name in listed]
    return " AND ".join(name.strip() for name in names if isinstance(name, str) and name.strip()) or None


def with_cards(licences: dict[str, str | None]) -> dict[str, str | None]:
    """Part, such as `bases.smollm2`, to licence; where null, what the part's card said when the part was built.

    The paths are relative to the current folder, the project's.
    """
    return {part: licence or _recorded(part) for part, licence in licences.items()}


def card_fields(licences: dict[str, str | None]) -> dict[str, str]:
    """The front matter of the card of what is made from parts with these licences.

    A licence that all parts share is the result's. Of several, `license_name` lists all, and `of_card` reads them back.
    """
    names = sorted({normalise(licence or "unknown").lower() for licence in licences.values()})
    if len(names) == 1 and names[0] in HUB and is_known(names[0]):
        return {"license": names[0]}
    return {"license": "other", "license_name": "-and-".join(re.sub(r"[^a-z0-9.+-]+", "-", name) for name in names)}


def _recorded(part: str) -> str | None:
    table, name = part.split(".")
    file = Path(
        os.getenv("POSTTRAIN_RESULTS", "results"),
        *{"bases": ("bases", name, "base.json"), "datasets": ("data", name, "data.json")}[table],
    )
    return read_json(file).get("licence") if file.exists() else None


def _front_matter(card: Path) -> dict[str, Any]:
    """The fields of a card's front matter; empty if there is no card, or it is not valid YAML."""
    if not card.is_file():
        return {}
    found = FRONT_MATTER.match(card.read_text(encoding="utf-8-sig", errors="replace"))
    try:
        values = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):  # such as an invalid date
        return {}
    return values if isinstance(values, dict) else {}


# ---- expressions of names


def _tokens(licence: str) -> list[str]:
    """Names, and between them `and`, `or` and brackets."""
    tokens = [token.strip() for token in OPERATORS.split(f" {licence} ") if token]
    return [token.lower() if OPERATORS.fullmatch(f" {token} ") else token for token in tokens if token]


def _any(tokens: list[str], forbids_it: Callable[[str], bool]) -> bool:
    """Whether an expression forbids something, where each name in it does or does not."""
    for operator, combined in (("or", all), ("and", any)):
        operands = _split(tokens, operator)
        if len(operands) > 1:
            return combined(_any(operand, forbids_it) for operand in operands)
    return _any(tokens[1:-1], forbids_it) if tokens[0] == "(" else forbids_it(tokens[0])


def _split(tokens: list[str], operator: str) -> list[list[str]]:
    """The operands of an operator that stands outside brackets."""
    depth, operands = 0, [[]]
    for token in tokens:
        depth += (token == "(") - (token == ")")
        if depth == 0 and token == operator:
            operands.append([])
        else:
            operands[-1].append(token)
    return operands


def _says_so(name: str) -> bool:
    spelling = _spelling(name)
    return spelling in NON_COMMERCIAL or bool(FORBIDDING.search(spelling))


def _spelling(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", (_canonical(name) or name).lower())


def _canonical(token: str) -> str | None:
    """A name as SPDX or the hub spells it, None where neither has it; an operator or a bracket as SPDX writes it."""
    if token in ("and", "or", "(", ")"):
        return token.upper()
    words = re.sub(r"[\s_,-]+", "-", token.lower())
    bare = re.sub(r"-(licen[cs]e|version)(?=-|$)", "", words)  # of `Apache License, Version 2.0`
    short = re.sub(
        r"-(community|agreement|terms-of-use)(?=-|$)", "", bare
    )  # of `Llama 3.1 Community License Agreement`
    short = re.sub(r"^llama-(?=\d)", "llama", short)
    known = (_spdx(spelling) or (spelling if spelling in KNOWN else None) for spelling in (token, words, bare, short))
    return next((name for name in known if name), None)


def _spdx(expression: str) -> str | None:
    """SPDX's spelling; None for a LicenseRef, which points to a text that only its author knows."""
    try:
        canonical = canonicalize_license_expression(expression)
    except InvalidLicenseExpression:
        return None
    return None if "licenseref-" in canonical.lower() else canonical
