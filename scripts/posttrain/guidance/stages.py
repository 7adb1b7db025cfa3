"""The runs of a road: what is asked, and the hyperparameters of each stage, with what of them fits into memory."""

from typing import Any, NamedTuple

from posttrain.guidance.facts import Place, Rows, Source
from posttrain.guidance.fitting import Fit, fitted, measured_in
from posttrain.guidance.tables import DATA, Data, Purpose
from posttrain.methods import METHODS
from posttrain.models.context import max_positions
from posttrain.objectives import OBJECTIVES

RANKS = {"data-small": 8, "data-medium": 16, "data-large": 32}
BATCHES = {"data-small": 4, "data-medium": 8, "data-large": 16}
EPOCHS = {"data-small": 3, "data-medium": 2, "data-large": 1}
LENGTHS = {"chat": 2048, "production": 2048}  # of rows that were not seen; 1024 otherwise


class Question(NamedTuple):
    """What a recommendation is asked for."""

    place: Place
    source: Source
    purpose: Purpose
    examples: Rows | None
    preferences: Rows | None
    quality: str | None


class Decision(NamedTuple):
    """One decision."""

    about: str
    choice: str
    rows: list[str]
    """ids of the guide's rows that it rests on"""
    why: list[str]
    overruled: list[str]
    """rows that say something else, and what won"""
    others: list[str]
    """what would fit as well, or would not, and why it was not chosen"""


class Stage(NamedTuple):
    """A run of the recommended road."""

    name: str
    objective: str
    method: str
    keys: dict[str, Any]
    fit: Fit


def data_row(question: Question) -> Data:
    """The row of the table by data; the number of rows decides, not their quality."""
    count = (question.examples or question.preferences).count
    return next(row for row in DATA if row.rows[0] <= count < row.rows[1])


def rows_of(question: Question, objective: str) -> Rows | None:
    """The rows that a stage learns from."""
    return question.examples if OBJECTIVES[objective].from_demonstrations else question.preferences


def stages(question: Question, road: list[str], method: str) -> list[Stage]:
    """The runs of a road by one method, with the settings that fit."""
    data, made = data_row(question), []
    for objective in road:
        longest = wanted_length(question, rows_of(question, objective))
        keys = hyperparameters(data, objective, method)
        run = {"objective": objective, "method": method} | keys
        fit = fitted(run, question.source.model, question.place, longest)
        made.append(Stage(f"{objective}_{method}", objective, method, keys, fit))
    return made


def hyperparameters(data: Data, objective: str, method: str) -> dict[str, Any]:
    """Batch, epochs and, of an adapter, rank and learning rate, which are set together.

    The scale of a LoRA is alpha / rank = 2 whatever its rank, so a step moves the weights by an amount that grows with the root of
    the rank (Kalajdzievski 2023, rank-stabilised LoRA); the learning rate falls with it. Of methods with a rank, the method's
    default rate belongs to its default rank.
    """
    row, shown = METHODS[method], OBJECTIVES[objective].from_demonstrations
    rate = row.learning_rates[not shown]
    keys: dict[str, Any] = {"batch_size": BATCHES[data.id], "epochs": EPOCHS[data.id] if shown else 1}
    if not row.low_rank:
        return {"learning_rate": rate} | keys
    rank = RANKS[data.id]
    keys = {"rank": rank, "alpha": 2 * rank, "learning_rate": rounded(rate * (row.rank / rank) ** 0.5)} | keys
    return keys | ({"dropout": 0.1 if data.few_shot else 0.05} if shown else {})


def rounded(number: float) -> float:
    """Two significant digits.

    >>> rounded(2e-4 * (16 / 8) ** 0.5), rounded(2e-4 * (16 / 256) ** 0.5)
    (0.00028, 5e-05)
    """
    return float(f"{number:.1e}")


def wanted_length(question: Question, rows: Rows | None) -> int:
    """Tokens that suit the rows: what 99 % of them have, with some to spare, or what is usual where they were not seen."""
    most = max_positions(question.source.model.config) or 2**20
    if rows is None or rows.longest is None:
        wanted = LENGTHS.get(question.purpose.name, 1024)
    else:
        wanted = next((n for n in (256, 512, 1024, 2048, 4096) if rows.longest * 1.2 <= n), 8192)
    return min(wanted, most)


def evaluated_in(question: Question, made: list[Stage]) -> tuple[str | None, float]:
    """See `measured_in`."""
    spread = any(stage.fit.strategy == "fsdp" for stage in made)
    return measured_in(question.source.model, question.place, spread)
