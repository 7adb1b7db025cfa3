"""Statistics of a dataset: lengths of turns, languages, extreme rows, completions that occur in their prompts.

The files are streamed, and counted on Arrow's buffers with numpy: a row costs microseconds, and the memory does not
grow with the rows. Lengths are characters; a `text` counts as one turn.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from posttrain.data import dataset_types, rows
from posttrain.data.dataset_types import COMPLETIONS, TURNS
from posttrain.data.messages import ROLES, Row
from posttrain.metrics.word_hashes import sums, words

GROUPS = ("text", *ROLES, *COMPLETIONS)  # of turns whose lengths are counted together
KEPT = 5  # rows of each extreme
BEGINNING = 200  # characters of a row that people are shown
SAMPLE = 1000  # rows whose language is told, at half a millisecond each
LANGUAGE_OF = 1000  # characters
CONFIDENCE = 0.5  # code without comments, sums and two-word answers have less; an ordinary sentence has 0.9 and more
MIN_BYTES = 32  # bytes; the mean of fewer says little
MIN_WORDS = 5  # of a completion; shorter ones may occur in their prompt by chance
BATCH = 512  # rows, so that long rows fit as well

_LENGTHS = [0, *(2**power for power in range(41))]
_TURNS = [*range(1, 9), *(2**power for power in range(4, 31))]


class Texts(NamedTuple):
    """A column of a batch: all its turns, end to end."""

    rows: np.ndarray
    """(rows + 1,): where each row begins, in the turns"""
    turns: np.ndarray
    """(turns + 1,): where each turn begins, in the bytes"""
    data: np.ndarray
    """(bytes,): UTF-8"""
    characters: np.ndarray
    """(turns,)"""
    roles: Any
    """Arrow strings (turns,); None for a text"""

    def bounds(self) -> np.ndarray:
        """Where each row begins, in the bytes: (rows + 1,)."""
        return self.turns[self.rows]


def profile(files: list[Path]) -> dict[str, Any]:
    """Measure the normalised rows of Parquet files that have the same columns.

    Returns:
        `lengths`: by `text`, role or kind of answer, and the turns of a conversation; `languages`; `extremes`: the
        longest, shortest and strangest rows; `answer_in_prompt`: in how many rows, and the place of the first; `pairs`
        (which answer is the longer one) and `labels`: None for dataset types without them; `untrained_turns`: assistant turns
        with `train: false`.
    """
    counts = _Counts(sum(map(_rows, files)))
    for batch in batches(files):
        counts.add(batch)
    report = counts.report()
    report["extremes"]["strangest"] = strangest(files, counts.bytes)
    return report


def batches(files: list[Path], columns: tuple[str, ...] = ("place", "label", "text", *TURNS)) -> Iterator[Any]:
    """The files' rows as Arrow record batches of those of the columns that they have."""
    for path in files:
        yield from rows.batches(path, BATCH, columns)


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


def columns_of(batch: Any) -> dict[str, Texts]:
    """The batch's texts by column."""
    return {name: texts(batch[name]) for name in dataset_types.of(batch.schema.names).texts}


def texts(column: Any) -> Texts:
    """One Arrow column of texts or of lists of turns; copies no text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(column.type):
        rows = column.offsets.to_numpy()
        roles, content = (pc.struct_field(column.flatten(), name) for name in ("role", "content"))
        rows = rows - rows[0]
    else:
        rows, roles, content = np.arange(len(column) + 1), None, column
    _, offsets, data = content.buffers()
    turns = np.frombuffer(offsets, np.int32)[content.offset : content.offset + len(content) + 1]
    data = np.frombuffer(data or b"", np.uint8)[turns[0] : turns[-1]]
    return Texts(rows, turns - turns[0], data, pc.utf8_length(content).to_numpy(), roles)


class _Counts:
    """What one pass over the rows counts."""

    def __init__(self, rows: int) -> None:
        self.rows = 0
        sample = min(rows, SAMPLE)
        self.sampled = np.arange(sample) * rows // max(1, sample)  # evenly spaced
        self.languages: Counter[str] = Counter()
        self.bytes = np.zeros(256, np.int64)
        self.lengths: dict[str, _Histogram] = {}
        self.turns = _Histogram(_TURNS)
        self.longest, self.shortest = _Furthest(), _Furthest()
        self.answers, self.first_answer = 0, None
        self.pairs: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.untrained = 0

    def add(self, batch: Any) -> None:
        columns = columns_of(batch)
        for name, column in columns.items():
            self.bytes += np.bincount(column.data, minlength=256)
            for group, lengths in by_role(name, column):
                self.lengths.setdefault(group, _Histogram(_LENGTHS)).add(lengths)
        kind = dataset_types.of(columns)
        if kind.turns:
            self.turns.add(sum(np.diff(columns[name].rows) for name in kind.turns if name not in kind.derived))
        characters = sum(_by_row(column) for column in columns.values())
        self.longest.add(characters, batch)
        self.shortest.add(-characters, batch)
        self._add_answers(columns, batch)
        self.untrained += untrained_turns(batch)
        self._add_languages(batch)
        self.rows += len(batch)

    def _add_answers(self, columns: dict[str, Texts], batch: Any) -> None:
        found = answers_in_prompts(columns)
        if found and not self.answers:
            self.first_answer = batch["place"][found[0]].as_py()
        self.answers += len(found)
        if "chosen" in columns:
            longer = np.sign(_by_row(columns["chosen"]) - _by_row(columns["rejected"]))
            names = {"chosen_longer": 1, "same_length": 0, "rejected_longer": -1}
            self.pairs.update({name: int((longer == sign).sum()) for name, sign in names.items()})
        if "label" in batch.schema.names:
            wanted = batch["label"].true_count
            self.labels.update({"true": wanted, "false": len(batch) - wanted})

    def _add_languages(self, batch: Any) -> None:
        first, last = np.searchsorted(self.sampled, [self.rows, self.rows + len(batch)])
        self.languages.update(map(language, batch.take(self.sampled[first:last] - self.rows).to_pylist()))

    def report(self) -> dict[str, Any]:
        sampled = len(self.sampled)
        languages = sorted(self.languages.items(), key=lambda pair: (-pair[1], pair[0]))
        extremes = {
            "longest": [{"characters": length} | shown for length, shown in self.longest.kept],
            "shortest": [{"characters": -length} | shown for length, shown in self.shortest.kept],
        }
        return {
            "lengths": {
                "characters": {group: self.lengths[group].report() for group in GROUPS if group in self.lengths},
                "turns": self.turns.report(),
            },
            "languages": {"sampled": sampled, "shares": {name: round(n / sampled, 4) for name, n in languages}},
            "extremes": extremes,
            "answer_in_prompt": {"rows": self.answers, "first": self.first_answer},
            "pairs": dict(self.pairs) or None,
            "labels": dict(self.labels) or None,
            "untrained_turns": self.untrained,
        }


def untrained_turns(batch: Any) -> int:
    """How many turns of a batch have `train: false`."""
    import pyarrow.compute as pc

    if "messages" not in batch.schema.names:
        return 0
    turns = batch["messages"].flatten()
    return 0 if turns.type.get_field_index("train") < 0 else pc.struct_field(turns, "train").false_count


def by_role(name: str, column: Texts) -> Iterator[tuple[str, np.ndarray]]:
    """Characters of a column's turns by who says them; an assistant's turn of an answer goes by the answer's name."""
    import pyarrow.compute as pc

    if column.roles is None:
        yield name, column.characters
        return
    for role in ROLES:
        lengths = column.characters[pc.equal(column.roles, role).to_numpy(zero_copy_only=False)]
        if len(lengths):
            yield name if role == "assistant" and name in COMPLETIONS else role, lengths


def _by_row(column: Texts) -> np.ndarray:
    """Characters of each row, (rows,)."""
    return sums(column.characters, column.rows)


class _Histogram:
    """Counts in bins, each from one edge up to the next."""

    def __init__(self, edges: list[int]) -> None:
        self.edges = edges
        self.counts = np.zeros(len(edges), np.int64)
        self.total, self.most = 0, 0

    def add(self, values: np.ndarray) -> None:
        bins = np.searchsorted(self.edges, values, side="right") - 1
        self.counts += np.bincount(bins, minlength=len(self.edges))
        self.total += int(values.sum())
        self.most = max(self.most, int(values.max(initial=0)))

    def report(self) -> dict[str, Any]:
        filled = np.flatnonzero(self.counts).tolist()
        between = range(filled[0], filled[-1] + 1) if filled else ()
        n = int(self.counts.sum())
        return {
            "n": n,
            "mean": round(self.total / max(1, n), 1),
            "most": self.most,
            "bins": [
                {"at_least": self.edges[i], "below": self.edges[i + 1], "n": int(self.counts[i])} for i in between
            ],
        }


class _Furthest:
    """The rows of the highest values; of equal ones the first."""

    def __init__(self) -> None:
        self.kept: list[tuple[Any, Row]] = []

    def add(self, values: np.ndarray, batch: Any) -> None:
        floor = self.kept[-1][0] if len(self.kept) == KEPT else -np.inf
        higher = np.flatnonzero(values > floor)
        best = higher[np.argsort(-values[higher], kind="stable")[:KEPT]]
        rows = batch.take(best).to_pylist() if len(best) else []
        found = zip(values[best].tolist(), map(_shown, rows), strict=True)
        self.kept = sorted([*self.kept, *found], key=lambda pair: -pair[0])[:KEPT]


def _shown(row: Row) -> Row:
    return {"place": row["place"], "text": dataset_types.of(row).text(row)[:BEGINNING]}


# ---- answers that are given away


def answers_in_prompts(columns: dict[str, Texts]) -> list[int]:
    """The rows of a batch whose completion, of MIN_WORDS or more, occurs in an earlier turn that is not the assistant's."""
    kind = dataset_types.of(columns)
    if kind.answer is None:
        return []
    answers, prompts = columns[kind.answer], columns[kind.turns[0]]
    prompt_bytes, answer_bytes = prompts.data.tobytes(), answers.data.tobytes()
    last = answers.rows[1:] - 1
    ends = answers.turns[last] if prompts is answers else prompts.bounds()[1:]
    bounds = (prompts.bounds()[:-1], ends, answers.turns[last], answers.turns[last + 1])
    found = []
    for row, (start, end, left, right) in enumerate(zip(*(bound.tolist() for bound in bounds), strict=True)):
        answer = answer_bytes[left:right].strip()
        if prompt_bytes.find(answer, start, end) >= 0 and len(words(answer.decode())) >= MIN_WORDS:
            turns = range(prompts.rows[row], prompts.rows[row + 1] - (prompts is answers))
            if any(_asks(prompts, turn) and answer in _said(prompts, turn) for turn in turns):
                found.append(row)
    return found


def _asks(column: Texts, turn: int) -> bool:
    return column.roles[turn].as_py() != "assistant"


def _said(column: Texts, turn: int) -> bytes:
    return column.data[column.turns[turn] : column.turns[turn + 1]].tobytes()


# ---- strange rows


def strangest(files: list[Path], counts: np.ndarray) -> list[Row]:
    """The rows whose bytes are the least expected, by the mean of -log2(share of the byte in the whole dataset).

    Args:
        counts: (256,), how often each byte stands in the files.
    """
    bits = -np.log2(np.maximum(counts, 1) / max(1, counts.sum()))
    thousandths = np.round(1000 * bits).astype(np.uint16)
    furthest = _Furthest()
    for batch in batches(files):
        columns = columns_of(batch).values()
        lengths = sum(np.diff(column.bounds()) for column in columns)
        surprisal = sum(sums(thousandths.take(column.data), column.bounds()) for column in columns)
        means = np.round(surprisal / np.maximum(1000 * lengths, 1), 3)
        furthest.add(np.where(lengths >= MIN_BYTES, means, -np.inf), batch)
    return [{"bits": mean} | shown for mean, shown in furthest.kept]


# ---- languages


def language(row: Row) -> str:
    """The ISO 639 code of what a row says, without system turns; 'undetermined' for code, sums and few words."""
    kind = dataset_types.of(row)
    said = row | {name: [turn for turn in row[name] or () if turn["role"] != "system"] for name in kind.turns}
    code, _ = _identifier().classify(kind.text(said)[:LANGUAGE_OF])
    return "undetermined" if code in ("und", "zxx") else code


@cache
def _identifier() -> Any:
    """py3langid's classifier (a naive Bayes on byte n-grams, Lui and Baldwin 2012); loading it takes a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=CONFIDENCE)
