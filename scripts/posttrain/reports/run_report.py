"""What results/report.html says, collected from the files of the results, and the page made of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from posttrain.data import licences, origins
from posttrain.diagnosis import doctor
from posttrain.reports import (
    answer_differences,
    card_facts,
    cases,
    cost,
    curves,
    domains,
    formatting,
    graph_layout,
    html,
    overruled,
    planned,
    results_table,
    summary,
    training_curves,
    verdict_lines,
)
from posttrain.reports.intervals import value_axis
from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths

MAX_EXAMPLES = 8  # of a run's answers; fewer on a page of many runs
MAX_ALL_EXAMPLES = 400
MAX_CARDS = 12  # runs whose verdicts are shown before one has to ask for more
MAX_OPEN = 4  # runs; of more, each one's curves and answers are closed at first
SECTIONS = {
    "graph": "Graph", "table": "Results", "cases": "Cases", "more": "Sweeps and ratings", "training": "Training", "answers": "Answers",
    "data": "Data", "checks": "Checks", "cost": "Cost", "licences": "Licences", "rebuild": "Rebuild",
}  # fmt: skip

Model = dict[str, Any]


def collect(context: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page shows, by section."""
    models = [_read(model) for model in context["models"]]
    by_name = {model["name"]: model for model in models}
    for model in models:
        model["ancestors"] = list(_ancestors(model, by_name))
    runs = [model for model in models if model["kind"] == "run"]
    groups = results_table.groups(models)
    costs = cost.cost(models, context)
    compared = {run["name"]: [] for run in runs}
    for row in (row for group in groups for row in group["rows"] if row["model"] in compared):
        compared[row["model"]] += row["against"]
    cards = [summary.card(run, compared[run["name"]]) for run in runs]
    return {
        "config": context["config"],
        "models": models,
        "runs": runs,
        "cards": cards,
        "tiles": summary.tiles(runs, cards, costs),
        "overruled": overruled.sentences([one for run in runs for one in run["touching"]]),
        "graph": graph_layout.layout(context["models"]),
        "tree": graph_layout.tree(context["models"]),
        "groups": groups,
        "domains": domains.tables(models),
        "comparisons": sum(len(row["against"]) for group in groups for row in group["rows"]),
        "cases": cases.tables(_cases(models)),
        "judged": [line for model in models for line in verdict_lines.judged(model["eval"])],
        "origins": [_origins(table) for table in origins.compared(models, results_table.names(models))],
        "curves": [training_curves.training(run, len(runs)) for run in runs],
        "answers": _answers(runs),
        "datasets": _datasets(context["datasets"]),
        "sweeps": [_sweep(name, points) for name, points in context["sweeps"].items()],
        "ratings": [_rating(pair) for pair in context["ratings"]],
        "findings": findings(runs),
        "cost": costs,
        "planned": planned.of_models([model["name"] for model in models]),
        "licences": [licence(model, models) for model in models],
    }


def page(report: dict[str, Any]) -> str:
    """The page of what `collect` collected."""
    panels, ids = [], {}
    for run in report["curves"]:
        ids[run["name"]] = len(panels)
        panels += [
            {key: panel[key] for key in ("across", "mark", "series", "unit")}
            for panel in [*run["panels"], *run["aside"]]
        ]
    absent = {
        "cases": not report["cases"],
        "more": not (report["sweeps"] or report["ratings"]),
        "answers": not report["answers"],
        "data": not report["datasets"],
    }
    return html.render(
        "report.html",
        report=report,
        sections=[(key, title) for key, title in SECTIONS.items() if not absent.get(key)],
        curves=as_json(panels),
        ids=ids,
        max_cards=MAX_CARDS,
        max_open=MAX_OPEN,
    )


def as_json(values: Any) -> Markup:
    """Compact JSON that can stand in a page: no character that could end its element."""
    return Markup(json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"))


# ---- models


def _read(model: Model) -> Model:
    """A model of the context with what the files of its folder say."""
    folder = Path(paths.of(model["name"]))
    touching = overruled.of(model["name"])
    found = model | {
        "eval": read_json(folder / "eval.json"),
        "touching": touching,
        "overruled": overruled.named(touching),
    }
    if model["kind"] == "base":
        file = Path(paths.base(model["name"], "base.json"))
        return found | {"files": read_json(file)["files"] if file.exists() else {}}
    for name in ("train", "merge", "preflight", "provenance"):
        found[name] = read_json(folder / f"{name}.json")
    shipped = found["eval"].get("shipped", {"metrics": {}})
    found["shipped"] = [
        f"{formatting.label(name)} {formatting.value(name, row)}" for name, row in shipped["metrics"].items()
    ]
    found["diagnosis"] = doctor.diagnose(folder)
    return found | {"steps": curves.read(folder / "train.jsonl"), "files": found["provenance"]["model"]}


def _ancestors(model: Model, by_name: dict[str, Model]) -> Iterator[str]:
    """The names of the models that a model starts from, its parent first, its base last."""
    while model["parent"]:
        yield model["parent"]
        model = by_name[model["parent"]]


# ---- sections


def _cases(models: list[Model]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The cases of each model and of its proved exports, by what is asked."""
    found = {}
    for model in models:
        if own := model["eval"].get("cases"):
            found[model["name"]] = own
            proofs = card_facts.exports(model["name"]) if model["kind"] == "run" else {}
            found |= {f"{model['name']}, {kind}": proof["cases"] for kind, proof in proofs.items() if "cases" in proof}
    return found


def _origins(table: dict[str, Any]) -> dict[str, Any]:
    """A metric by dataset as the page shows it: a row a dataset and model."""
    name = table["metric"]
    axis = value_axis(name, [row for cells in table["rows"].values() for row in cells.values()])
    rows = [
        {"origin": origin, "model": model, **results_table.measured(name, cells[origin], axis)}
        for origin in table["origins"]
        for model, cells in table["rows"].items()
        if origin in cells
    ]
    return {"name": name, "ticks": axis.ticks, "rows": rows}


def _answers(runs: list[Model]) -> list[dict[str, Any]]:
    """Answers of each run beside its base's and its parent's; runs without any left out."""
    most = min(MAX_EXAMPLES, max(1, MAX_ALL_EXAMPLES // len(runs)))
    found = []
    for run in runs:
        others = list(dict.fromkeys((run["ancestors"][-1], run["parent"])))
        if examples := answer_differences.examples(run, others, most):
            found.append({"name": run["name"], "examples": examples, "others": others})
    return found


def _datasets(names: list[str]) -> list[dict[str, Any]]:
    """The data reports that exist."""
    files = {name: Path(paths.data(name, "report.json")) for name in names}
    return [{"name": name, **read_json(file)} for name, file in files.items() if file.exists()]


def _sweep(name: str, points: list) -> dict[str, Any]:
    return {"name": name, "points": len(points), "built": Path(paths.sweep(name, "report.html")).exists()}


def _rating(pair: str) -> dict[str, Any]:
    folder = Path(paths.ratings(pair))
    a, b = pair.split("~")
    return {
        "pair": pair,
        "a": a,
        "b": b,
        "result": read_json(folder / "ratings.json") if (folder / "ratings.json").exists() else None,
        "overruled": overruled.named(overruled.of(a, b)),
        "built": (folder / "rate.html").exists(),
    }


def findings(runs: list[Model]) -> list[dict[str, Any]]:
    """What the preflight found and what was overruled: each message once, with the runs that it is about."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        for check in run["preflight"]["checks"]:
            if check["result"] not in ("passed", "skipped"):
                word = "overruled" if check["result"] == "allowed" else check["result"]
                found.setdefault((word, check["name"], check["message"]), []).append(run["name"])
    rows = [
        {"word": word, "check": check, "message": message, "runs": names}
        for (word, check, message), names in found.items()
    ]
    return sorted(rows, key=lambda row: row["word"] != "overruled")


def licence(model: Model, models: list[Model]) -> dict[str, Any]:
    """What a model is built on and under which licences, and what its own licence is then; null for random weights."""
    parts = licences.with_cards(model["licences"] if model["kind"] == "run" else _base_licence(model["name"], models))
    fields = licences.card_fields(parts)
    rows = [
        {
            "part": part,
            "licence": text,
            "known": text is not None and licences.is_known(text),
            "forbids": licences.forbids(text, "commercial"),
            "closed": licences.forbids_sharing(text),
            "conditions": licences.conditions(text),
        }
        for part, text in parts.items()
    ]
    return {
        "name": model["name"],
        "own": fields.get("license_name", fields["license"]) if parts else None,
        "parts": rows,
    }


def _base_licence(name: str, models: list[Model]) -> dict[str, str | None]:
    """A base's licence as the runs on it have it; none of them has one of a base of random weights."""
    part = f"bases.{name}"
    return next(({part: run["licences"][part]} for run in models if part in run.get("licences", ())), {})
