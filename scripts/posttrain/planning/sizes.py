"""How much there is to do: rows and tokens of datasets, parameters of models, known or estimated before anything is built."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import files
from posttrain.models.memory_estimate import estimate, trained_parameters
from posttrain.models.shapes import Model
from posttrain.planning import bases
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths
from posttrain.workflow.project import Project

# Of a text, by tokenizers of 30,000 tokens and more on English; those of smaller vocabularies need more.
CHARACTERS_A_TOKEN, OF_SMALL, SMALL = 4, 2, 10_000
MARKUP = 0.6  # of a JSON row's bytes: what is text, the names of keys and escapes left out
SAMPLED = 2**20  # bytes of a file in which rows are counted; the rest is taken to be alike
# Where nothing is known, such as of a dataset of the hub that is not downloaded.
ASSUMED_ROWS, ASSUMED_TOKENS = 10_000, 300
TENTH = 0.1
LONGEST = 2.5  # tokens of the longest row over those of a mean one


# Settings of a run that change neither the number of its parameters nor its memory: sweeps are over these.
NO_SIZE = (
    "learning_rate lora_plus seed from data epochs max_steps warmup schedule weight_decay max_grad_norm alpha".split()
)


class Rows(NamedTuple):
    """What a dataset holds."""

    train: float
    validation: float
    characters: float
    """of a row"""
    known: bool
    """they were counted in the dataset itself"""


class Tokens(NamedTuple):
    """A dataset's tokens for a base."""

    train: float
    """rows to train on"""
    validation: float
    mean: float
    """tokens of a row; of a pair, of one of its two sequences"""
    longest: float
    trained: float
    """share of the tokens that is trained"""
    known: bool
    """they were counted in the tokens themselves"""


class Sizes:
    """Sizes of one configuration's bases and datasets; each is looked up once."""

    def __init__(self, project: Project) -> None:
        """Sizes of what the project names."""
        self.project = project
        self._trained: dict[tuple, float] = {}
        self._memory: dict[tuple, float] = {}
        self.rows, self.tokens, self.model = cache(self._rows), cache(self._tokens), cache(self._model)

    def base(self, name: str) -> str:
        """The base that a model descends from."""
        return self.project.lineage(name)[0]

    def asked(self, rule: str, name: str) -> str:
        """The model that a job asks: of a selection the one that selects."""
        return self.project.names.selector(name) if rule == "select" else name.partition("/")[0]

    def parameters(self, name: str) -> int | None:
        """Of a base, or of the base that a run descends from; None where nothing tells."""
        found = self.model(self.base(name))
        return found.parameters if found else None

    def trained(self, name: str, spec: dict[str, Any]) -> float:
        """How many parameters a run with this spec trains; looked up once for all runs that differ in nothing that matters."""
        model = self.model(self.base(name))
        key = self.base(name), _of_size(spec)
        if key not in self._trained:
            self._trained[key] = trained_parameters(spec, model)
        return self._trained[key]

    def memory(self, name: str, spec: dict[str, Any], *asked: Any) -> float:
        """Bytes of a training, by `memory_estimate.estimate`, whose further arguments these are; looked up once as well."""
        teacher = self.project.run(name).teacher
        key = self.base(name), _of_size(spec), asked
        if key not in self._memory:
            taught = self.model(self.base(teacher)) if teacher else None
            self._memory[key] = estimate(spec, self.model(self.base(name)), *asked, teacher=taught)["total"]
        return self._memory[key]

    def _model(self, base: str) -> Model | None:
        return bases.model(self.project, base)

    def _rows(self, dataset: str) -> Rows:
        """The rows of a dataset: counted, or estimated from its files."""
        table = self.project.config.datasets[dataset]
        data, report = (Path(paths.data(dataset, name)) for name in ("data.json", "report.json"))
        written = self._source(dataset)
        if data.exists() and "train" in (counted := read_json(data)):
            lengths = read_json(report).get("lengths", {}).get("characters", {}) if report.exists() else {}
            said = sum(part["mean"] * part["n"] for part in lengths.values()) / max(1, counted.get("rows", 0))
            return Rows(counted["train"], counted["validation"], said or written.characters, True)
        if table.limit:
            written = written._replace(train=min(written.train, table.limit))
        return written

    def _source(self, dataset: str) -> Rows:
        """What the files of a dataset seem to hold."""
        table = self.project.config.datasets[dataset]
        if table.mix:
            parts = [(self.rows(name), part.limit) for name, part in table.mix.items()]
            train = sum(min(rows.train, limit or rows.train) for rows, limit in parts)
            return Rows(train, sum(rows.validation for rows, _ in parts), parts[0][0].characters, False)
        if table.from_:
            whole = self.rows(table.from_)
            if table.generated:
                return whole._replace(known=False)
            return whole._replace(train=whole.train / 2, known=False)
        unknown = Rows(ASSUMED_ROWS, ASSUMED_ROWS * TENTH, ASSUMED_TOKENS * CHARACTERS_A_TOKEN, False)
        if not table.path:
            return unknown
        rows, characters = self._in_files(table.path)
        if not rows:
            return unknown
        if isinstance(table.validation, str):
            return Rows(rows, self._in_files(table.validation)[0], characters, False)
        share = TENTH if table.validation is None else table.validation
        return Rows(rows * (1 - share), rows * share, characters, False)

    def _in_files(self, pattern: str) -> tuple[float, float]:
        """Rows, and characters of a row."""
        folder = self.project.folder
        try:
            found = [_in_file(folder / file) for file in files.expand(pattern, folder)]
        except UserError:  # told by the stage that reads it
            return 0, 0
        rows = sum(rows for rows, _ in found)
        return rows, sum(size for _, size in found) / max(1, rows)

    def _tokens(self, base: str, dataset: str, max_length: int, folder: str) -> Tokens:
        """A dataset's tokens for a base.

        Args:
            base: whose tokenizer it is.
            dataset: its name.
            max_length: at which rows are cut.
            folder: where the tokens are, or will be.
        """
        report = Path(folder, "report.json")
        if report.exists():
            found = read_json(report)
            part, rows = found["train"], max(1, found["train"]["rows"])
            share = part["trained_tokens"] / max(1, part["tokens"])
            validation = found.get("validation", {}).get("rows", 0)
            return Tokens(part["rows"], validation, part["tokens"] / rows, part["lengths"]["max"], share, True)
        rows, model = self.rows(dataset), self.model(base)
        each = OF_SMALL if model and model.vocabulary < SMALL else CHARACTERS_A_TOKEN
        mean = min(max_length, rows.characters / each)
        return Tokens(rows.train, rows.validation, mean, min(max_length, LONGEST * mean), 0.5, False)

    def tokens_of(self, name: str, dataset: str, max_length: int) -> Tokens:
        """A dataset's tokens for the base that a model descends from, trained parts as usual."""
        base = self.base(name)
        return self.tokens(base, dataset, max_length, paths.tokens(base, dataset, max_length))

    def of_run(self, name: str) -> Tokens:
        """The tokens that a run trains on."""
        node = self.project.run(name)
        folder = self.project.run_tokens(node)
        return self.tokens(self.base(name), node.run.data, node.run.max_length, folder)


def _of_size(spec: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in spec.items() if key not in NO_SIZE}, sort_keys=True)


@cache
def _in_file(file: Path) -> tuple[float, float]:
    """Rows of a file, and characters of all of them, by its first mebibyte."""
    size = file.stat().st_size
    kind = files.suffix(file)
    if kind == ".parquet":
        import pyarrow.parquet as pq

        found = pq.read_metadata(file)
        return found.num_rows, sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
    if file.suffix != kind:  # compressed: texts to about a third
        return math.ceil(3 * size / (CHARACTERS_A_TOKEN * ASSUMED_TOKENS)), 3 * size * MARKUP
    with file.open("rb") as stream:
        start = stream.read(SAMPLED)
    rows = start.count(b"\n  {" if kind == ".json" else b"\n") or start.count(b"},") + 1
    return rows * size / max(1, len(start)), size * MARKUP
