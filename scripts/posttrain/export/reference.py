"""What the unquantised model says on a proof's rows: the reference of all exports of a run, in one Parquet file.

A row is a held-out answer that was scored (`side` is chosen, rejected or empty), or a held-out prompt that was answered (`suite`
names the suite whose metrics measure the answer). What does not apply is null.
"""

from pathlib import Path

from posttrain.data import conversations
from posttrain.data.messages import Row
from posttrain.evaluation import cases
from posttrain.export import questions
from posttrain.export.with_transformers import Transformers
from posttrain.inference import decoding
from posttrain.runtime.atomic import whole_file
from posttrain.runtime.errors import UserError

TEXTS = ("kind", "suite", "dataset", "part", "id", "prompt_group", "side", "prompt", "reference", "turns", "tools")
IDS = ("prompt_ids", "answer_ids", "greedy", "output_ids")


def write(spec: dict, model: Path, data: list[Path], output: Path) -> int:
    """Ask the model in a folder; returns the number of rows.

    Args:
        spec: what `Specs.reference` says.
        model: its folder, in float32.
        data: the folders of the datasets that the spec names.
        output: the file to write.

    Raises:
        UserError: nothing is held out.
    """
    import torch

    program = Transformers(model, dtype=torch.float32)
    folders = {folder.name: folder for folder in data}
    stops = conversations.stops(weights(model), program.tokenizer)
    rows = _scored(program, spec, folders, stops)
    rows += [] if program.is_reward else _answered(program, spec, folders, stops)
    if not rows:
        name = spec["data"]["name"]
        hint = f"write datasets.{name}.validation"
        raise UserError("nothing-held-out", name, "no row is held out that a proof of an export could use", hint)
    _save(rows, output)
    return len(rows)


def weights(model: Path) -> Path:
    """The folder with a model's own configuration: of an adapter beside its base, the base's."""
    return model / "base" if (model / "base").is_dir() else model


def _scored(program: Transformers, spec: dict, folders: dict[str, Path], stops: list[int]) -> list[Row]:
    name = spec["data"]["name"]
    rows = questions.scored(program.tokenizer, folders[name], spec, stops)
    where = {"kind": "scored", "suite": "", "dataset": name}
    if program.is_reward:
        scores = program.rewards([(*row["prompt_ids"], *row["answer_ids"]) for row in rows])
        return [where | row | {"score": score} for row, score in zip(rows, scores, strict=True)]
    said = program.score([(row["prompt_ids"], row["answer_ids"]) for row in rows])
    return [
        where | row | {"log_probs": one.log_probs, "greedy": one.greedy} for row, one in zip(rows, said, strict=True)
    ]


def _answered(program: Transformers, spec: dict, folders: dict[str, Path], stops: list[int]) -> list[Row]:
    """Answers to the prompts of the suites, of the run's own dataset where there is no suite with data, and of cases."""
    suites = {
        name: (suite["data"]["name"], suite["max_new_tokens"])
        for name, suite in spec["suites"].items()
        if suite["kind"] != "cases"
    }
    found = []
    for suite, (dataset, longest) in (suites or {"": (spec["data"]["name"], spec["max_new_tokens"])}).items():
        context = decoding.context(program.model) or spec["max_length"] + longest
        room = min(spec["max_length"], context - longest)
        rows = questions.asked(program.tokenizer, folders[dataset], spec["rows"], room)
        outputs = program.generate([row["prompt_ids"] for row in rows], longest, stops)
        where = {"kind": "answered", "suite": suite, "dataset": dataset}
        found += [where | row | {"output_ids": ids} for row, ids in zip(rows, outputs, strict=True)]
    return found + _of_cases(program, spec, stops)


def _of_cases(program: Transformers, spec: dict, stops: list[int]) -> list[Row]:
    """Answers to the user's own prompts."""
    found = []
    for name, suite in spec["suites"].items():
        if suite["kind"] == "cases":
            path, longest = Path(suite["path"]), suite["max_new_tokens"]
            rows = questions.of_cases(program.tokenizer, cases.read(path), longest)
            outputs = questions.answers(program, rows, longest, stops)
            where = {"kind": "answered", "suite": name, "dataset": path.stem}
            found += [where | row | {"output_ids": ids} for row, ids in zip(rows, outputs, strict=True)]
    return found


def _save(rows: list[Row], output: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(IDS, pa.list_(pa.int32()))
    kinds |= {"counted": pa.list_(pa.bool_()), "log_probs": pa.list_(pa.float64()), "score": pa.float64()}
    kinds |= {"most": pa.int32()} if any("most" in row for row in rows) else {}
    with whole_file(output) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(kinds.items())), file)


def read(file: Path) -> list[Row]:
    """The rows of a reference, without what does not apply to them."""
    import pyarrow.parquet as pq

    return [{key: value for key, value in row.items() if value is not None} for row in pq.read_table(file).to_pylist()]
