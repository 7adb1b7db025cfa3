"""What results/report.html says, collected from the files of the results: verdicts, curves, answers, checks, cost, licences."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from posttrain.data import licences, origins
from posttrain.evaluation import answer_differences
from posttrain.metrics.statistics import LEVEL, METRICS, SAME, TOO_FEW, VERDICTS, basis, is_share, metric, verdict
from posttrain.reports import curves, graph_layout, overruled
from posttrain.reports.page import percent
from posttrain.runtime.atomic import read_json
from posttrain.runtime.console import duration

MOST_POINTS = 400  # of a curve on the page; fewer on a page of many runs, as all curves together get
CURVES_BYTES = 1_800_000
DRAWN_POINTS = 100  # of a curve's still picture, for print and for browsers without scripts
EXAMPLES = 8  # of a run's answers; fewer on a page of many runs
ALL_EXAMPLES = 400
WATTS_PER_THREAD = 10  # a desktop's or server's processor of 65 to 350 W, by its threads
WATTS_OF_GPU = {
    "H200": 700, "H100": 700, "A100": 400, "V100": 300, "L40": 350, "A40": 300, "A10": 150, "L4": 72, "T4": 70,
    "4090": 450, "3090": 350,
}  # fmt: skip
WATTS_OF_OTHER_GPU = 300

Model = dict[str, Any]


def collect(context: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page shows, by section."""
    models = [_read(model) for model in context["models"]]
    by_name = {model["name"]: model for model in models}
    for model in models:
        model["ancestors"] = list(_ancestors(model, by_name))
    runs = [model for model in models if model["kind"] == "run"]
    return {
        "config": context["config"],
        "models": models,
        "runs": runs,
        "said": [
            {"name": run["name"], "sentences": said(run), "alone": alone(run), "overruled": run["overruled"]}
            for run in runs
        ],
        "overruled": overruled.sentences(itertools.chain(*(run["touching"] for run in runs))),
        "repeated": repeated(runs),
        "comparisons": comparisons(models),
        "by_chance": 1 - LEVEL,
        "graph": graph_layout.layout(context["models"]),
        "metrics": metrics(models),
        "origins": origins.compared(models, [metric["name"] for metric in metrics(models)]),
        "curves": [training(run, len(runs)) for run in runs],
        "generations": answers(runs),
        "datasets": datasets(context["datasets"]),
        "sweeps": [_sweep(name, points) for name, points in context["sweeps"].items()],
        "ratings": [_rating(pair) for pair in context["ratings"]],
        "cost": cost(models, context),
        "licences": [licence(model, models) for model in models],
    }


def _read(model: Model) -> Model:
    """A model of the context with what the files of its folder say."""
    folder = Path(f"results/{model['name']}")
    touching = overruled.of(model["name"])
    found = model | {
        "eval": read_json(folder / "eval.json"),
        "touching": touching,
        "overruled": overruled.named(touching),
    }
    if model["kind"] == "base":
        file = Path(f"results/bases/{model['name']}/base.json")
        return found | {"files": read_json(file)["files"] if file.exists() else {}}
    for name in ("train", "merge", "preflight", "provenance"):
        found[name] = read_json(folder / f"{name}.json")
    shipped = found["eval"].get("shipped", {"metrics": {}})
    found["shipped"] = [f"{name} {value(name, row['value'])}" for name, row in shipped["metrics"].items()]
    return found | {"steps": curves.read(folder / "train.jsonl"), "files": found["provenance"]["model"]}


def _ancestors(model: Model, by_name: dict[str, Model]) -> Iterator[str]:
    """The names of the models that a model starts from, its parent first, its base last."""
    while model["parent"]:
        yield model["parent"]
        model = by_name[model["parent"]]


# ---- what came out


def said(run: Model) -> list[tuple[str, list[dict[str, Any]]]]:
    """A run's verdicts, as sentences: better, worse, no evidence, too few examples, each with its `other`, `metrics` and `more`.

    Of what differs each metric has its two values, of too few examples their number; of the last two the first four metrics
    are named.
    """
    sentences: dict[str, list[dict[str, Any]]] = {}
    for word, (other, rows) in itertools.product(VERDICTS, run["eval"]["against"].items()):
        names = [name for name, row in rows.items() if verdict(row) == word]
        if word in ("better", "worse"):
            ours = {name: run["eval"]["metrics"][name]["value"] for name in names}
            told, more = [f"{name} ({_step(name, ours[name], rows[name]['difference'])})" for name in names], 0
        else:
            told, more = names[:4], len(names[4:])
        if word == TOO_FEW:
            told = [f"{name} ({basis(run['eval']['metrics'][name])})" for name in told]
        if names:
            sentences.setdefault(word, []).append({"other": other, "metrics": told, "more": more})
    return list(sentences.items())


def alone(run: Model) -> list[str]:
    """The metrics of a run, in words, for one that is compared with nothing."""
    return [f"{name} {value(name, row['value'])}" for name, row in run["eval"]["metrics"].items()]


def _step(name: str, ours: float, difference: float) -> str:
    """The value before and after, or, where they read the same, the difference."""
    before, after = value(name, ours - difference), value(name, ours)
    return f"{before} → {after}" if before != after else f"{after}, by {signed(name, difference)}"


def comparisons(models: list[Model]) -> list[dict[str, Any]]:
    """Every comparison of every model, as a flat table's rows; `verdict` in words, `basis` and what was `overruled`."""
    return [
        {"name": model["name"], "other": other, "metric": name, "detectable": None}
        | row
        | {"verdict": verdict(row), "basis": basis(model["eval"]["metrics"][name]), "overruled": model["overruled"]}
        for model in models
        for other, rows in model["eval"]["against"].items()
        for name, row in rows.items()
    ]


def repeated(runs: list[Model]) -> dict[tuple[str, str], str]:
    """Where a message of a check stands already, by run and check: the first run that has the same one, as it would fill pages."""
    first: dict[tuple[str, str], str] = {}
    found = {}
    for run in runs:
        for check in run["preflight"]["checks"]:
            before = first.setdefault((check["name"], check["message"]), run["name"])
            if before != run["name"]:
                found[run["name"], check["name"]] = before
    return found


def metrics(models: list[Model]) -> list[dict[str, Any]]:
    """The columns of the table: every metric that a model has, the standard ones first, and which way is better."""
    names = list(dict.fromkeys(name for model in models for name in model["eval"]["metrics"]))
    names.sort(key=lambda name: list(METRICS).index(name) if name in METRICS else len(METRICS))
    return [{"name": name, "higher": metric(name.split("/")[-1]).higher_is_better} for name in names]


# ---- during training


def training(run: Model, runs: int) -> dict[str, Any]:
    """A run's curves as its page has them, its overfitting in words, and how many points a curve may have."""
    held_out = run["train"].get("held_out")
    panels = curves.panels(run["steps"], held_out)
    count = sum(len(panel.series) for panel in panels)
    most = min(MOST_POINTS, max(40, CURVES_BYTES // (14 * count * runs)))
    longest = max(len(series.x) for panel in panels for series in panel.series)
    return {
        "name": run["name"],
        "overfits": curves.in_words(run["steps"], held_out),
        "turned": (curves.lowest(run["steps"]) or {"turned": False})["turned"],
        "panels": [_panel(panel, most) for panel in panels],
        "thinned": most if longest > most else None,
    }


def _panel(panel: curves.Panel, most: int) -> dict[str, Any]:
    panel = panel._replace(series=[curves.thin(line, most) for line in panel.series])
    first, last = panel.series[0].y[0], panel.series[0].y[-1]
    return {
        "title": panel.title,
        "unit": panel.unit,
        "across": panel.across,
        "mark": panel.mark,
        "words": f"{short(first)} at first, {short(last)} at the end",
        "still": still(panel),
        "series": [
            {"label": line.label, "x": [_digits(x) for x in line.x], "y": [_digits(y) for y in line.y]}
            for line in panel.series
        ],
    }


def _digits(value: float) -> float:
    """Five significant digits, an integer as one."""
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


WIDTH, HEIGHT = 300, 110  # of a still picture's plot


def still(panel: curves.Panel) -> dict[str, Any]:
    """A panel as polylines in a box of 300 x 110, with what its corners mean."""
    series = [curves.thin(line, DRAWN_POINTS) for line in panel.series]
    xs, ys = [x for line in series for x in line.x], [y for line in series for y in line.y]
    (left, right), (low, high) = (min(xs), max(xs)), (min(ys), max(ys))

    def place(x: float, y: float) -> str:
        across = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return f"{WIDTH * across:.0f},{HEIGHT * (1 - up):.0f}"

    lines = [" ".join(map(place, line.x, line.y)) for line in series]
    mark = None if panel.mark is None else place(panel.mark, low).split(",")[0]
    return {
        "lines": lines,
        "left": short(left),
        "right": short(right),
        "low": short(low),
        "high": short(high),
        "mark": mark,
    }


def answers(runs: list[Model]) -> list[dict[str, Any]]:
    """Answers of each run beside its base's and its parent's; runs without any left out."""
    most = min(EXAMPLES, max(1, ALL_EXAMPLES // len(runs)))
    found = []
    for run in runs:
        others = list(dict.fromkeys((run["ancestors"][-1], run["parent"])))
        if examples := answer_differences.examples(run, others, most):
            found.append({"name": run["name"], "examples": examples, "others": others})
    return found


# ---- data, sweeps, ratings


def datasets(names: list[str]) -> list[dict[str, Any]]:
    """The data reports that are there."""
    files = {name: Path(f"results/data/{name}/report.json") for name in names}
    return [{"name": name, **read_json(file)} for name, file in files.items() if file.exists()]


def _sweep(name: str, points: list) -> dict[str, Any]:
    return {"name": name, "points": len(points), "there": Path(f"results/sweeps/{name}/report.html").exists()}


def _rating(pair: str) -> dict[str, Any]:
    folder = Path(f"results/ratings/{pair}")
    a, b = pair.split("~")
    result = read_json(folder / "ratings.json") if (folder / "ratings.json").exists() else None
    touching = overruled.named(overruled.of(a, b))
    return {
        "pair": pair,
        "a": a,
        "b": b,
        "result": result,
        "overruled": touching,
        "there": (folder / "rate.html").exists(),
    }


# ---- cost


def cost(models: list[Model], context: dict[str, Any]) -> dict[str, Any]:
    """Seconds, kWh and money of training and evaluating each model, and in all.

    A base was evaluated on a machine that nothing tells of; it is taken to be the first run's.
    """
    provenances = [model["provenance"] for model in models if model["kind"] == "run"]
    rows = []
    for model in models:
        times = {"train": model["train"]["seconds"] if "train" in model else 0, "eval": model["eval"]["seconds"]}
        watts = context["watts"] or _watts(model.get("provenance", provenances[0]))
        seconds = sum(times.values())
        rows.append(
            {"name": model["name"], **times, "seconds": seconds, "kwh": watts * seconds / 3.6e6, **_memory(model)}
        )
    return {
        "rows": rows,
        "total": {key: math.fsum(row[key] for row in rows) for key in ("train", "eval", "seconds", "kwh")},
        "assumption": _assumption(context["watts"], provenances),
        "price": context["price_per_hour"],
        "currency": context["currency"],
    }


def _memory(model: Model) -> dict[str, Any]:
    train = model.get("train", {})
    return {"memory": train.get("memory_gib"), "memory_of": train.get("memory_of")}


def _watts(provenance: dict[str, Any]) -> float:
    return WATTS_PER_THREAD * provenance["training"]["threads"] + _gpu_watts(provenance["machine"]["gpu"])


def _gpu_watts(gpu: str | None) -> float:
    if gpu is None:
        return 0
    return next((watts for name, watts in WATTS_OF_GPU.items() if name in gpu), WATTS_OF_OTHER_GPU)


def _assumption(watts: float | None, provenances: list[dict[str, Any]]) -> str:
    """Where the energy comes from, as a sentence."""
    if watts:
        return f"Energy: {short(watts)} W, as the configuration says, for every hour."
    gpus = sorted({provenance["machine"]["gpu"] for provenance in provenances} - {None})
    cards = "".join(f", and {_gpu_watts(gpu)} W for {gpu}" for gpu in gpus)
    return (
        f"Energy is an estimate: {WATTS_PER_THREAD} W for each thread that trains{cards}, for every hour. "
        "Measure what the machine takes and write it as cost.watts to have it right."
    )


# ---- licences


def licence(model: Model, models: list[Model]) -> dict[str, Any]:
    """What a model is built on and under which licences, and what its own licence is then; null for random weights."""
    parts = licences.with_cards(model["licences"] if model["kind"] == "run" else _of_base(model["name"], models))
    fields = licences.card_fields(parts)
    rows = [
        {
            "part": part,
            "licence": text,
            "known": text is not None and licences.is_known(text),
            "forbids": licences.forbids(text, "commercial"),
        }
        for part, text in parts.items()
    ]
    return {
        "name": model["name"],
        "own": fields.get("license_name", fields["license"]) if parts else None,
        "parts": rows,
    }


def _of_base(name: str, models: list[Model]) -> dict[str, str | None]:
    """A base's licence as the runs on it have it; none of them has one of a base of random weights."""
    part = f"bases.{name}"
    return next(({part: run["licences"][part]} for run in models if part in run.get("licences", ())), {})


# ---- numbers for people


def short(value: float) -> str:
    """A number as a person reads it: three significant digits, all before the point, a true minus sign."""
    size = abs(value)
    text = f"{size:,.0f}" if size >= 1000 else f"{size:.3g}"
    return f"\N{MINUS SIGN}{text}" if value < 0 and float(text.replace(",", "")) else text


def value(name: str, number: float) -> str:
    """A metric's value: a share in percent, anything else to three digits."""
    return percent(number) if is_share(name) else short(number)


def signed(name: str, difference: float, unit: str = " points") -> str:
    """A metric's difference: `+5 points` of a share in percent, else `-2.02`, with a true minus sign."""
    text = f"{short(100 * difference)}{unit}" if is_share(name) else short(difference)
    return f"+{text}" if difference > 0 else text


def either(name: str, difference: float) -> str:
    """A difference that may go either way: `±5 points`; that of examples which are all the same, in words."""
    if not difference:
        return SAME
    return f"±{signed(name, difference).removeprefix('+')}"


def energy(kwh: float) -> str:
    """`0.4 Wh`, `1.2 kWh`."""
    return f"{short(1000 * kwh)} Wh" if kwh < 1 else f"{short(kwh)} kWh"


def chance(p: float) -> str:
    """A p-value: `< 0.001`, `0.03`."""
    return "< 0.001" if p < 0.001 else short(p)


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after each of its parts; short ones stay whole."""
    return Markup(re.sub(r"([/,]|_(?=\w{8}))", r"\1<wbr>", str(escape(name))))


FILTERS = {
    "breakable": breakable, "basis": basis, "verdict": verdict, "short": short, "value": value, "signed": signed,
    "either": either, "energy": energy, "chance": chance, "duration": duration,
}  # fmt: skip


def as_json(values: Any) -> str:
    """Compact JSON that can stand in a page: no sign that could end its element."""
    return Markup(json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"))
