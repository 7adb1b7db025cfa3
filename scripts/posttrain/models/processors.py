"""A model's processor: how the pictures or sounds of a row become what the model reads.

A normalised row has `<image>` or `<audio>` in its text for each of its media. `Processor.turns` writes them as the chat template
takes them, the template writes the processor's placeholder, `Processor.expand` writes as many tokens as one takes, and
`Processor.inputs` computes pixels and spectrograms. Text models have no processor.
"""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import media as dataset_media
from posttrain.data import sounds
from posttrain.data.media_text import Reader
from posttrain.data.messages import Turns
from posttrain.data.pictures import open_picture
from posttrain.models.base_inspection import first_line
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError

FILES = ("processor_config.json", "preprocessor_config.json")
TEMPLATE = "chat_template.json"  # of processors that were saved by older versions of transformers


class Kind(NamedTuple):
    """A kind of media."""

    column: str
    """of a normalised row, with the files' names"""
    part: str
    """the type of a part of a message"""
    argument: str
    """of transformers' processors"""
    token: str
    """attribute of transformers' processors with the placeholder"""
    config: str
    """key of config.json with the part of the model that reads it"""

    @property
    def mark(self) -> str:
        """What stands for it in a row's text."""
        return dataset_media.KINDS[self.column].mark


KINDS = (
    Kind("images", "image", "images", "image_token", "vision_config"),
    Kind("audios", "audio", "audio", "audio_token", "audio_config"),
)
# What a processor makes of the text itself, which is done here.
OF_TEXT = ("input_ids", "attention_mask")
# What it makes of the tokens: 0 for text, other numbers for each kind of media.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")


class Expanded(NamedTuple):
    """A text in which each placeholder stands as often as the model reads it."""

    text: str
    spans: list[tuple[int, int]]
    """first and last character of each picture or sound in it"""
    before: list[tuple[int, int]]
    """of its placeholder in the text before"""


def reads(folder: Path) -> set[str]:
    """The columns of media that the model in `folder` reads: it has a processor's files, and a part for each."""
    if not any((folder / name).exists() for name in FILES) or not (folder / "config.json").exists():
        return set()
    config = read_json(folder / "config.json")
    return {kind.column for kind in KINDS if kind.config in config}


def has_processor(folder: Path) -> bool:
    """Whether the model in `folder` reads media."""
    return bool(reads(folder))


def processor(folder: Path) -> "Processor | None":
    """The processor of the model in `folder`; None for a text model.

    Raises:
        UserError: transformers cannot load it.
    """
    folder = folder / "base" if (folder / "adapter_config.json").exists() else folder
    if not has_processor(folder):
        return None
    from transformers import AutoProcessor

    try:
        return Processor(AutoProcessor.from_pretrained(folder, trust_remote_code=False))
    except Exception as error:  # whatever a broken file makes transformers raise
        if not importlib.util.find_spec("torchvision"):
            raise UserError(
                "missing-package",
                f"{folder}",
                f"its processor cannot be loaded without torchvision, which is not installed: {first_line(error)}",
                "install the torchvision of this torch: `pip install torchvision`",
            ) from None
        raise UserError(
            "unreadable-model", f"{folder}", f"no processor that can be loaded: {first_line(error)}"
        ) from None


def reader(model: Path, tokens: Path) -> Reader | None:
    """What reads the media of the rows in a folder of tokens for the model in a folder; None for rows without media."""
    folder = read_json(tokens / "report.json").get("media") if has_processor(model) else None
    return Reader(processor(model), tokens / folder) if folder else None


class Processor:
    """One of transformers' processors, asked for one thing at a time."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.tokenizer = own.tokenizer
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.kinds = [kind for kind in KINDS if getattr(own, kind.token, None)]
        self._parts: dict[str, bool] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a row, the columns of media that the model can read."""
        return tuple(kind.column for kind in self.kinds)

    @property
    def placeholders(self) -> set[int]:
        """The ids of the tokens in whose places the model puts what it sees and hears."""
        tokens = {self._token(kind) for kind in self.kinds}
        names = (f"{kind.part}_token_id" for kind in self.kinds)
        ids = {getattr(holder, name, None) for name in names for holder in (self.own, self.tokenizer)}
        return (ids | set(self.tokenizer.convert_tokens_to_ids(sorted(tokens)))) - {None, self.tokenizer.unk_token_id}

    def _token(self, kind: Kind) -> str:
        return str(getattr(self.own, kind.token))

    # ---- files

    def open(self, column: str, file: Path) -> Any:
        """The picture or the sound in a file, as `expand` and `inputs` take it.

        Raises:
            UserError: a sound is longer than the model listens.
        """
        if column == "images":
            return open_picture(file)
        samples = sounds.read(file, self.rate)
        if len(samples) > self.longest * self.rate:
            raise UserError(
                "unreadable-sound",
                f"{file}",
                f"it lasts {len(samples) / self.rate:.1f} s, and the model listens to {self.longest:g} s at once",
                "split it",
            )
        return samples

    @property
    def rate(self) -> int:
        """Samples a second of the sounds that the model hears."""
        return self.own.feature_extractor.sampling_rate

    @property
    def longest(self) -> float:
        """Seconds of the longest sound that the model hears whole: its feature extractor cuts without a word."""
        return self.own.feature_extractor.n_samples / self.rate

    @property
    def _sampled(self) -> dict[str, int]:
        return {"sampling_rate": self.rate} if "audios" in self.columns else {}

    # ---- text

    def turns(self, turns: Turns) -> Turns:
        """Turns with each mark as the chat template takes it: a part of the message, or the placeholder itself."""
        return [self._turn(turn) for turn in turns]

    def _turn(self, turn: dict[str, Any]) -> dict[str, Any]:
        marks = {kind.mark: kind for kind in self.kinds}
        if not marks:
            return turn
        pieces = re.split(f"({'|'.join(map(re.escape, marks))})", turn["content"])
        if len(pieces) == 1:
            return turn
        if not self._takes_parts() or turn["role"] == "assistant":
            return turn | {"content": "".join(self._token(marks[p]) if p in marks else p for p in pieces)}
        parts = [{"type": marks[p].part} if p in marks else {"type": "text", "text": p} for p in pieces if p]
        return turn | {"content": parts}

    def _takes_parts(self) -> bool:
        """Whether the chat template makes a placeholder of each part of a message, in its place."""
        template = str(self.tokenizer.chat_template or "")
        if template not in self._parts:
            self._parts[template] = bool(template) and all(map(self._writes_part, self.kinds))
        return self._parts[template]

    def _writes_part(self, kind: Kind) -> bool:
        content = [{"type": "text", "text": "before"}, {"type": kind.part}, {"type": "text", "text": "after"}]
        try:
            text = self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        except Exception:  # whatever its author's program raises of what is no text
            return False
        return text.count(self._token(kind)) == 1 and "before" in text and "after" in text

    def counts(self, text: str) -> dict[str, int]:
        """The number of placeholders in a rendered text, by the column of their media."""
        return {kind.column: text.count(self._token(kind)) for kind in self.kinds}

    def expand(self, text: str, media: dict[str, Sequence[Any]]) -> Expanded:
        """A rendered text with its placeholders as often as the model reads them.

        Args:
            media: of each column the pictures or sounds, in the order of their placeholders.

        Raises:
            UserError: it has more or fewer placeholders than media.
        """
        given = {kind.argument: list(media[kind.column]) for kind in self.kinds if media.get(kind.column)}
        counts = self.counts(text)
        for kind in self.kinds:
            found, needed = counts[kind.column], len(media.get(kind.column) or ())
            if found != needed:
                raise UserError(
                    "invalid-row",
                    "",
                    f"the chat template makes {found} placeholders {self._token(kind)} of a row with {needed} {kind.column}",
                    f"take {self._token(kind)} out of its text, or give the base a chat template that writes {kind.part} parts",
                )
        if not given:
            return Expanded(text, [], [])
        nested = {name: [values] if name == "images" else values for name, values in given.items()}
        made = self.own(text=[text], **nested, **self._sampled, return_text_replacement_offsets=True)
        whole, spans, before, last = "", [], [], 0
        for place in made["text_replacement_offsets"][0]:
            start, end = place["span"]
            whole += text[last:start]
            spans.append((len(whole), len(whole) + len(place["replacement"])))
            before.append((start, end))
            whole, last = whole + place["replacement"], end
        return Expanded(whole + text[last:], spans, before)

    def alone(self, column: str, file: Any) -> str:
        """The text that stands for one picture or sound, as `open` gives it."""
        kind = next(kind for kind in self.kinds if kind.column == column)
        return self.expand(self._token(kind), {column: [file]}).text

    # ---- what the model reads

    def inputs(self, rows: Sequence[dict[str, Sequence[Any]]]) -> dict[str, Any]:
        """The model's inputs for the media of some rows, as tensors; none where no row has any.

        Args:
            rows: of each the pictures or sounds of its columns, in the order of their placeholders.
        """
        with_media = [row for row in rows if any(row.get(kind.column) for kind in self.kinds)]
        if not with_media:
            return {}
        texts = ["".join(self._token(k) * len(row.get(k.column) or ()) for k in self.kinds) for row in with_media]
        given: dict[str, Any] = {}
        for kind in self.kinds:
            lists = [list(row.get(kind.column) or ()) for row in with_media]
            if any(lists):
                given[kind.argument] = lists if kind.argument == "images" else [one for some in lists for one in some]
        made = self.own(text=texts, **given, **self._sampled, return_tensors="pt", padding=True)
        return {name: value for name, value in made.items() if name not in (*OF_TEXT, *TOKEN_TYPES)}

    def token_types(self, input_ids: Any) -> dict[str, Any]:
        """What the model is told of each token, of the same shape as `input_ids`: whether it is text; for models that ask."""
        import torch

        names = [name for name in TOKEN_TYPES if name in self._told]
        if not names:
            return {}
        kinds = torch.tensor(self.own.create_mm_token_type_ids(input_ids.tolist()), device=input_ids.device)
        return dict.fromkeys(names, kinds)

    @property
    def _told(self) -> set[str]:
        return set(self.own.model_input_names) if self.own.return_mm_token_type_ids else set()
