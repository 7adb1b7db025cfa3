"""What a proof asks: held-out answers to score, held-out prompts to answer, and conversations to render."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.data import conversations, dataset_types, thoughts
from posttrain.data.dataset_types import Settings
from posttrain.data.messages import Row
from posttrain.data.samples import HeldOut, conversation
from posttrain.data.tokens import IGNORED, prompt_tokens
from posttrain.evaluation.cases import Case
from posttrain.export.programs import Program
from posttrain.metrics.tool_calls import message_text

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "날씨를 알려 줍니다",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "서울"}}}
# Conversations that every export is asked to render, where its template takes them: turns, and tools.
PROBES: tuple[tuple[list[dict[str, Any]], list[dict] | None], ...] = (
    ([{"role": "user", "content": "안녕하세요! 오늘 서울 날씨 어때요?"}], None),
    ([{"role": "user", "content": " naïve café 👩‍👩‍👧 \n\n\t½ ﷽  "}], None),
    ([{"role": "system", "content": "짧게 답하세요."}, {"role": "user", "content": "What is 1 + 1?"}], None),
    (
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "안녕!"},
            {"role": "user", "content": "def f(x):\n    return {'a': x}"},
        ],
        None,
    ),
    ([{"role": "user", "content": "What is the weather in Seoul?"}], [TOOL]),
    (
        [
            {"role": "user", "content": "What is the weather in Seoul?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "get_weather", "content": '{"temperature": 21, "sky": "맑음"}'},
        ],
        [TOOL],
    ),
)


def scored(tokenizer: Any, folder: Path, spec: dict, stops: list[int]) -> list[Row]:
    """Held-out answers of a dataset, one row each: `id`, `prompt_group`, `side`, `prompt_ids`, `answer_ids`, `counted`.

    Args:
        folder: the dataset's.
        spec: of it `rows` and `max_length`.
        stops: the tokens that end an answer.
    """
    found = []
    for name, row, held_out in _rows(folder, spec["rows"]):
        kind = dataset_types.of(row)
        encoded = kind.encode(tokenizer, [row], Settings(spec["max_length"], stops))
        for one in encoded:
            if one.kept:
                own = one.row.get("id") or name
                found += [held_out.example(own, row) | part for part in _answers(one.row)]
    return found


def _answers(row: Row) -> Iterator[Row]:
    """The answers in a row of tokens. A prompt alone has none."""
    if "labels" in row:
        ids, labels = row["input_ids"], row["labels"]
        first = next(at for at in range(1, len(ids)) if labels[at] != IGNORED)  # nothing predicts the first token
        counted = [label != IGNORED for label in labels[first:]]
        yield {"side": "", "prompt_ids": ids[:first], "answer_ids": ids[first:], "counted": counted}
        return
    for side in ("chosen", "rejected", "completion"):
        if ids := row.get(f"{side}_ids"):
            counted = [True] * len(ids)
            side = "" if side == "completion" else side
            yield {"side": side, "prompt_ids": row["prompt_ids"], "answer_ids": ids, "counted": counted}


def asked(tokenizer: Any, folder: Path, rows: int, longest: int) -> list[Row]:
    """Held-out prompts of a dataset: `id`, `prompt_group`, `prompt`, `reference`, `turns` and `tools` (JSON), `prompt_ids`.

    Args:
        longest: tokens of a prompt; longer ones are left out.
    """
    found = []
    for name, row, held_out in _rows(folder, rows):
        kind = dataset_types.of(row)
        turns = kind.prompt(row)
        ids = prompt_tokens(tokenizer, turns, row.get("tools")) if turns else []
        if not ids or len(ids) > longest:
            continue
        answer = kind.reference and message_text(row[kind.reference][-1])
        texts = {"prompt": turns[-1]["content"], "reference": thoughts.answer(answer) if answer else None}
        asked = {"turns": _ready(tokenizer, turns), "tools": row.get("tools"), "prompt_ids": ids}
        found.append(held_out.example(name, row) | texts | asked)
    return found


def of_cases(tokenizer: Any, asked: list[Case], longest: int) -> list[Row]:
    """The prompts of cases as `asked` has held-out ones, with `most`, the tokens of an answer, instead of a reference."""
    return [
        {
            "id": case.id,
            "prompt": case.turns[-1]["content"],
            "tools": case.tools,
            "turns": _ready(tokenizer, case.turns),
        }
        | {"prompt_ids": prompt_tokens(tokenizer, case.turns, case.tools), "most": case.max_new_tokens or longest}
        for case in asked
    ]


def answers(program: Program, rows: list[Row], longest: int, stops: list[int]) -> list[list[int]]:
    """A program's greedy answers to the rows of one suite, of at most `longest` tokens, or of a row's own `most`."""
    found: list[list[int]] = [[] for _ in rows]
    for most in dict.fromkeys(row.get("most", longest) for row in rows):
        places = [at for at, row in enumerate(rows) if row.get("most", longest) == most]
        outputs = program.generate([rows[at]["prompt_ids"] for at in places], most, stops)
        for at, ids in zip(places, outputs, strict=True):
            found[at] = ids
    return found


def _ready(tokenizer: Any, turns: list[Row]) -> str:
    """Turns as the template takes them, as JSON."""
    ready = conversations.for_template(tokenizer, turns) if tokenizer.chat_template else turns
    return json.dumps(ready, ensure_ascii=False)


def _rows(folder: Path, limit: int) -> Iterator[tuple[str, Row, HeldOut]]:
    """At most `limit` held-out rows, the same for every model."""
    held_out = HeldOut(folder)
    names = [held_out.ids[i] for i in held_out.sample(held_out.ids, limit)]
    found = held_out.read(names)
    for name in names:
        yield name, found[conversation(name)], held_out
