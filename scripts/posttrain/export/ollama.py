"""A Modelfile, with which Ollama runs a GGUF file as it was trained: the chat template in Go's language, stop tokens, system prompt.

Ollama reads no Jinja; its templates are Go's text/template. A trained template is recognised by what it does: it renders some
conversations, and if what it writes between two contents depends on the roles of the two alone, the same is written in Go. Any
other is refused: a conversation would not be rendered as in training.

Ollama gives a template all messages, system prompts among them, neighbours of one role as one; the Modelfile's SYSTEM stands before
a conversation that has none. Checked with template/template.go, parser/parser.go and server/routes.go of ollama/ollama of 2026.
"""

import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from posttrain.data.conversations import Turns, render, stops
from posttrain.runtime.atomic import read_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError

START, END = "start", "end"
MAX_CONTEXT = 8192  # tokens that Ollama is told to keep room for; more takes memory that many machines do not have
ROLES = {"S": "system", "U": "user", "A": "assistant"}
# Conversations by their roles. A template may refuse the later ones, or leave out the system prompt.
PLAIN, WITH_SYSTEM, LATE_SYSTEM = ("U", "UAU", "UAUAU"), ("SUAU", "SU", "SUAUAU"), ("UASU",)
# What the conversations say that a form is checked with. Nothing of it may be read as part of a template, in any language.
CONTENTS = (
    'What is {{ .System }} in "Go"? {% if x %} `a\\b` <|x|>',
    "한국어로 답해 주세요.\n\n  둘째 줄 😀",
    "def f(x):\n    return {'a': x}",
    "naïve café",
    "1",
)


@dataclass
class Form:
    """What a template writes around contents."""

    between: dict[tuple[str, str], str] = field(default_factory=dict)
    """text before a content, by the roles of the message before it (or `start`) and of its own; (`user`, `end`): after the last"""
    in_last: tuple[str, str] | None = None
    """where a system prompt stands before the content of the last user, the texts around it; else it is where its message is"""

    def text(self, turns: Turns) -> str:
        """A conversation that ends with a user's turn, as `go` renders it; messages that the form does not know are left out."""
        system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        parts, before = [], START
        for turn in turns:
            if (before, turn["role"]) in self.between:
                parts.append(self.between[before, turn["role"]])
                if self.in_last and system and turn is turns[-1]:
                    parts += [self.in_last[0], system, self.in_last[1]]
                parts.append(turn["content"])
                before = turn["role"]
        return "".join(parts) + self.between["user", END]

    def go(self) -> str:
        """The template in Go's language."""
        lines = [f'{{{{- $before := "{START}" }}}}', "{{- range $i, $_ := .Messages }}"]
        lines += ["{{- $last := eq (len (slice $.Messages $i)) 1 }}"]
        for number, role in enumerate(("system", "user", "assistant")):
            lines.append(f'{{{{- {"else " * bool(number)}if eq .Role "{role}" }}}}')
            known = {first: text for (first, second), text in self.between.items() if second == role}
            for place, (first, text) in enumerate(known.items()):
                start = f'{{{{- {"else " * bool(place)}if eq $before "{first}" }}}}{_action(text)}'
                lines.append(f'{start}{self._system(role)}{{{{ .Content }}}}{{{{ $before = "{role}" }}}}')
            lines += ["{{- end }}"] * bool(known)
            if role == "user":
                lines.append(f"{{{{- if $last }}}}{_action(self.between['user', END])}{{{{ end }}}}")
        return "\n".join([*lines, "{{- end }}", "{{- end }}"])

    def _system(self, role: str) -> str:
        if role != "user" or not self.in_last:
            return ""
        first, last = map(_action, self.in_last)
        return f"{{{{ if and $last $.System }}}}{first}{{{{ $.System }}}}{last}{{{{ end }}}}"


def _action(text: str) -> str:
    """An action of Go's that prints a text; none for no text. Ollama drops characters that cannot be printed, so they are escaped."""
    quoted = re.sub(
        r"[^\x20-\x7e]",
        lambda found: found[0] if found[0].isprintable() else f"\\U{ord(found[0]):08x}",
        json.dumps(text, ensure_ascii=False),
    )
    return f"{{{{ {quoted} }}}}" if text else ""


# ---- what a template does


def form(tokenizer: Any) -> Form:
    """The form of a tokenizer's chat template.

    Raises:
        UserError: it has none: what it writes depends on more than the roles of neighbours.
    """
    found = Form()
    for codes in PLAIN:
        _learn(found, codes, _rendered(tokenizer, codes, _marks(codes)))
    for codes in WITH_SYSTEM:
        text = _optional(tokenizer, codes, _marks(codes))
        if text is not None:
            _learn_system(found, codes, text)
    for codes in LATE_SYSTEM:
        text, rest = _optional(tokenizer, codes, _marks(codes)), Form(dict(found.between))
        if text is not None and not found.in_last and _fits(rest, codes, text):
            found = rest
    for codes in (*PLAIN, *WITH_SYSTEM, *LATE_SYSTEM):
        for shift in range(len(CONTENTS)):
            contents = [CONTENTS[(i + shift) % len(CONTENTS)] for i in range(len(codes))]
            text = _optional(tokenizer, codes, contents)
            late = codes in LATE_SYSTEM and ("assistant", "system") not in found.between
            if text is not None and not late and text != found.text(_turns(codes, contents)):
                raise _unfit(f"a conversation of {_named(codes)} has other text around other contents")
    return found


def _turns(codes: str, contents: list[str]) -> Turns:
    return [{"role": ROLES[code], "content": text} for code, text in zip(codes, contents, strict=True)]


def _marks(codes: str) -> list[str]:
    """Contents that no template has in it."""
    return [f"Zq{code}x{number}jK" for number, code in enumerate(codes)]


def _named(codes: str) -> str:
    return ", ".join(ROLES[code] for code in codes)


def _rendered(tokenizer: Any, codes: str, contents: list[str]) -> str:
    return render(tokenizer, _turns(codes, contents), generate=True)


def _optional(tokenizer: Any, codes: str, contents: list[str]) -> str | None:
    """A rendered conversation; None where the template refuses it, or leaves its system prompt out."""
    try:
        text = _rendered(tokenizer, codes, contents)
    except UserError:
        if codes in PLAIN:
            raise
        return None
    return text if "S" not in codes or contents[codes.index("S")] in text else None


def _gaps(text: str, marks: list[str]) -> list[str] | None:
    """The texts before, between and after marks that stand in a text in this order, once each; else None."""
    gaps = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            return None
        gaps.append(before)
    return [*gaps, text]


def _learn(found: Form, codes: str, text: str) -> None:
    """Take what stands between the contents of a conversation into a form.

    Raises:
        UserError: another conversation has something else between the same roles, or the contents are not in their order.
    """
    if not _fits(found, codes, text):
        raise _unfit(
            f"in a conversation of {_named(codes)} the messages, or what stands between them, are not as elsewhere"
        )


def _fits(found: Form, codes: str, text: str) -> bool:
    gaps = _gaps(text, _marks(codes))
    if gaps is None:
        return False
    roles = [START, *(ROLES[code] for code in codes), END]
    pairs = zip(pairwise(roles), gaps, strict=True)
    return all(found.between.setdefault(pair, gap) == gap for pair, gap in pairs)


def _learn_system(found: Form, codes: str, text: str) -> None:
    """Take where the system prompt of a conversation stands into a form: where its message is, or before the last user's content."""
    copy = Form(dict(found.between), found.in_last)
    if not found.in_last and _fits(copy, codes, text):
        found.between = copy.between
        return
    first, *others = _marks(codes)
    *others, last = others
    gaps = _gaps(text, [*others, first, last])
    roles = [START, *(ROLES[code] for code in codes[1:])]
    plain = found.between[roles[-2], roles[-1]]
    if gaps is None or not gaps[-3].startswith(plain):
        raise _unfit("its system prompt is neither the first message nor in the last")
    around = gaps[-3].removeprefix(plain), gaps[-2]
    if found.in_last not in (None, around):
        raise _unfit("what stands around its system prompt depends on the conversation")
    found.in_last = around


def _unfit(why: str) -> UserError:
    problem = f"the chat template cannot be written in Ollama's language: {why}"
    return UserError(
        "unfit-template", "Modelfile", problem, "use llama.cpp's llama-server, which reads the template itself"
    )


# ---- the file


def write(folder: Path, model: Path, system: str | None) -> None:
    """Write a Modelfile beside the GGUF file in `folder`, or tell why there is none: the export is whole without it.

    Args:
        model: the folder that the GGUF file was made from.
        system: the system prompt that the run was trained with.
    """
    from posttrain.models import loading
    from posttrain.models.context import max_positions

    config, tokenizer = read_json(model / "config.json"), loading.tokenizer(model)
    (file,) = folder.glob("*.gguf")
    context = max_positions(config.get("text_config") or config)
    try:
        text = modelfile(tokenizer, file.name, stops(model, tokenizer), system, context)
    except UserError as error:
        say(f"no Modelfile for Ollama: {error}")
        return
    (folder / "Modelfile").write_text(text, encoding="utf-8")


def modelfile(tokenizer: Any, gguf: str, ends: list[int], system: str | None = None, context: int | None = None) -> str:
    """The text of a Modelfile.

    Args:
        tokenizer: the run's, whose template was trained.
        gguf: name of the file beside it.
        ends: the tokens that end an answer.
        system: the system prompt that the run was trained with.
        context: the most tokens that the model reads and writes.

    Raises:
        UserError: Ollama has no way to write the template or the system prompt.
    """
    found = form(tokenizer)
    _without_bos(found, tokenizer)
    lines = [f"# {line}" for line in _notes(tokenizer, found)]
    lines += [f"FROM ./{gguf}", f'TEMPLATE """{found.go()}"""']
    if system:
        if '"""' in system or not all(character.isprintable() or character in "\n\t" for character in system):
            raise _unfit("the system prompt has three quotes or a character that cannot be printed")
        lines.append(f'SYSTEM """{system}"""')
    texts = sorted({tokenizer.decode([end]) for end in ends})
    lines += [f'PARAMETER stop "{text}"' for text in texts if text.isprintable() and '"' not in text]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    lines += [f"PARAMETER num_ctx {min(context, MAX_CONTEXT)}"] if context else []
    return "\n".join(lines) + "\n"


def _without_bos(found: Form, tokenizer: Any) -> None:
    """Take the text of BOS out of a form where llama.cpp puts the token before every text.

    Raises:
        UserError: it puts the token where the template has none.
    """
    bos = tokenizer.bos_token
    ids = tokenizer("a")["input_ids"]
    if not tokenizer.chat_template or bos is None or not ids or ids[0] != tokenizer.bos_token_id:
        return
    for (first, second), text in list(found.between.items()):
        if first == START:
            if not text.startswith(bos):
                raise _unfit(f"Ollama puts {bos} before a conversation, and the template does not")
            found.between[first, second] = text.removeprefix(bos)


def _notes(tokenizer: Any, found: Form) -> list[str]:
    """What the user has to know: how the file is used, and what Ollama cannot do as the template does."""
    lines = ["ollama create NAME -f Modelfile; greedy, as the run was evaluated. No tools."]
    if not found.in_last and (START, "system") not in found.between:
        lines.append("The template knows no system prompt: Ollama leaves it out.")
    spaces = render(tokenizer, [{"role": "user", "content": " Zq "}], generate=True)
    if " Zq " not in spaces:
        lines.append("The template takes white space off the ends of messages, which Ollama cannot.")
    return lines
