"""The JSON files of results as others read them; docs/files.md says what each key means.

A key that is NotRequired is there only where it applies. Two files have more keys than are listed here: spec.json, which has
one for each setting that determines the result, and report.json, which has what the data page shows.
"""

from typing import Any, NotRequired, TypedDict

Hashes = dict[str, str]  # file name to SHA-256


class Reference(TypedDict):
    """What a spec says of something that the result is built from."""

    name: str
    spec: str


RunSpec = TypedDict(
    "RunSpec",
    {
        "stage": str,
        "version": int,
        "tokens": int,
        "objective": str,
        "method": str,
        "from": Reference,
        "data": Reference,
        "seed": int,
        "learning_rate": float,
        "max_length": int,
        "batch_size": int,
        "reward": NotRequired[dict[str, Any]],
        "early_stopping": NotRequired[dict[str, Any]],
    },
)
RunSpec.__doc__ = """results/{run}/spec.json: everything that determines a run."""


class Data(TypedDict):
    """results/data/{dataset}/data.json: what became of a dataset's rows."""

    format: str
    recognised: str | None
    shape: str
    rows: int
    train: int
    validation: int
    dropped: dict[str, int]
    origin: str | None
    licence: str | None
    files: Hashes
    written: Hashes
    seal: str
    unknown: NotRequired[dict[str, Any]]
    near: NotRequired[dict[str, Any]]
    held_out_prompts: NotRequired[int]
    detectable: NotRequired[float | None]
    parts: NotRequired[dict[str, dict[str, int]]]
    train_margins: NotRequired[list[float]]
    validation_margins: NotRequired[list[float]]
    warnings: NotRequired[list[str]]


class DataReport(TypedDict):
    """results/data/{dataset}/report.json: data.json, and what there is to look at before training."""

    shape: str
    rows: int
    licence: str | None
    card_licence: str | None
    lengths: dict[str, Any]
    languages: dict[str, Any]
    overlap: dict[str, Any]
    tokenizers: dict[str, Any]
    warnings: list[str]


class Check(TypedDict):
    """One check of the preflight."""

    name: str
    severity: str | None
    result: str
    message: str
    example: str


class Preflight(TypedDict):
    """results/{run}/preflight.json: what was checked before the training."""

    run: str
    passed: bool
    checks: list[Check]
    memory: dict[str, Any]
    trained: str
    licences: dict[str, str | None]


class Training(TypedDict):
    """results/{run}/train.json: the summary of a training."""

    steps: int
    loss: float | None
    precision: str
    attention: str
    threads: int
    memory_gib: float
    memory_of: str
    trainable_parameters: int
    parameters: int
    seconds: float
    micro_batch: int
    accumulation: int
    processes: int
    strategy: str
    attempts: list[dict[str, Any]]
    resumed_from: int | None
    mlflow_run_id: str | None
    held_out: NotRequired[dict[str, Any]]
    cached: NotRequired[dict[str, str | None]]
    use_liger_kernel: NotRequired[bool]


class Merge(TypedDict):
    """results/{run}/merge.json: the proof that the merged model is the trained one."""

    max_abs_logit_difference: float
    mean_abs_logit_difference: float
    greedy_agreement: float
    n: int
    effect: float
    relative: float
    rounding: float
    dtype: str
    shipped: dict[str, Any]
    base_dtype: str
    files: Hashes


class Measurement(TypedDict):
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    clusters: NotRequired[int]


class Comparison(TypedDict):
    """A metric compared with another model's on the same examples."""

    difference: float
    low: float
    high: float
    p: float
    verdict: str
    detectable: NotRequired[float | None]


class Evaluation(TypedDict):
    """results/{model}/eval.json: metrics and verdicts."""

    run: str
    spec: str
    metrics: dict[str, Measurement]
    by_dataset: dict[str, dict[str, Measurement]]
    against: dict[str, dict[str, Comparison]]
    seconds: float
    manifest: str
    written: Hashes
    seal: str
    by_part: NotRequired[dict[str, Any]]
    by_domain: NotRequired[dict[str, Any]]
    groups: NotRequired[dict[str, Any]]
    shipped: NotRequired[dict[str, Any]]
    judge: NotRequired[dict[str, Any]]
    judge_spec: NotRequired[str]
    judged: NotRequired[Hashes]


class Provenance(TypedDict):
    """results/{run}/provenance.json: of what, by what and with what a run was built."""

    spec: str
    settings: dict[str, Any]
    parent: dict[str, Any]
    tokens: Hashes
    rows: Hashes
    logprobs: Hashes
    judges: Hashes
    trained: Hashes
    merged: Hashes
    model: Hashes
    steps: Hashes
    merge: Hashes
    training: dict[str, Any]
    versions: dict[str, str]
    python: str
    code: dict[str, str | None]
    machine: dict[str, Any]
    command: str
    seal: str


FILES: dict[str, type] = {
    "spec.json": RunSpec,
    "data.json": Data,
    "report.json": DataReport,
    "preflight.json": Preflight,
    "train.json": Training,
    "merge.json": Merge,
    "eval.json": Evaluation,
    "provenance.json": Provenance,
}
OPEN = ("spec.json", "report.json")  # they have more keys than are listed


def faults(file: str, values: dict[str, Any]) -> list[str]:
    """Keys that are missing from a file, or that nobody has documented."""
    known = FILES[file]
    more = [] if file in OPEN else sorted(values.keys() - known.__annotations__.keys())
    missing = sorted(known.__required_keys__ - values.keys())
    return [*(f"{key} is missing" for key in missing), *(f"{key} is unknown" for key in more)]
