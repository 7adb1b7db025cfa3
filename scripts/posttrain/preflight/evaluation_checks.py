"""Checks of what is measured: while a run trains, and in its evaluation."""

import importlib.util
from typing import TYPE_CHECKING

from posttrain.data.bins import bins
from posttrain.data.dataset_types import DATASET_TYPES
from posttrain.models.context import SCALED, learns_positions, max_positions, rope_scaling
from posttrain.preflight.findings import Finding

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext


def evaluation(run: "RunContext") -> Finding | None:
    """What the run's evaluation will need is there, before the training is paid for."""
    from posttrain.preflight import measured_rows

    if not run.evaluation:
        return Finding("skipped", "nothing is known of an evaluation")
    errors = _model_errors(run) + measured_rows.errors(run)
    told = errors or _model_warnings(run)
    return Finding("error" if errors else "warning", "; ".join(told)) if told else None


def held_out(run: "RunContext") -> Finding | None:
    """The held-out rows are enough to tell two models apart."""
    from posttrain.preflight import measured_rows

    if not run.evaluation:
        return Finding("skipped", "nothing is known of an evaluation")
    told = measured_rows.unmeasured(run)
    return Finding("warning", "; ".join(told)) if told else None


def measuring(run: "RunContext") -> Finding | None:
    """What a run is measured on while it trains is there, is enough, and is not what it is evaluated on."""
    from posttrain.training import early_stopping

    if early_stopping.plan(run.spec) is None:
        return Finding("skipped", "nothing is measured while the run trains")
    splits = ("train", "validation")
    rows, unseen = (run.data[name] if run.token_report is None else run.token_report[name]["rows"] for name in splits)
    if run.spec.get("packing"):
        rows = len(bins(run.tokens.lengths.tolist(), run.spec["max_length"]))
    steps = early_stopping.steps(run.spec, rows, len(DATASET_TYPES[run.data["shape"]].completions) == 2)
    names = [data["name"] for data in run.evaluation.get("data", [])]
    evaluated = run.evaluation["limit"] if run.spec["data"]["name"] in names else 0
    if why := early_stopping.no_answers(run.spec, run.data["shape"]):
        return Finding("error", why)
    found = list(early_stopping.faults(run.spec, steps, unseen, evaluated))
    errors = [text for severity, text in found if severity == "error"]
    told = errors or [text for _, text in found]
    return Finding("error" if errors else "warning", "; ".join(told)) if told else None


# ---- what an evaluation needs of the model, its tokenizer and its template


def _model_errors(run: "RunContext") -> list[str]:
    """What would end the evaluation in an error, once the training is paid for."""
    from posttrain.metrics import text_metrics

    spec, found = run.evaluation, []
    positions = max_positions(run.model.config)
    if positions and learns_positions(run.model.shapes) and spec["max_length"] > positions:
        found.append(
            f"evaluation.max_length is {spec['max_length']}, and the model has learnt {positions} positions; "
            f"write evaluation.max_length: {positions}"
        )
    for name, suite in spec["suites"].items():
        if suite["kind"] == "tasks" and importlib.util.find_spec("lm_eval") is None:
            found.append(f"evaluation.suites.{name} needs lm-evaluation-harness; `pip install lm-eval`")
        for metric in suite.get("metrics", ()):
            if (package := text_metrics.NEEDS.get(metric)) and importlib.util.find_spec(package) is None:
                found.append(
                    f"evaluation.suites.{name}: the metric `{metric}` needs {package}; `pip install {package}`"
                )
        if suite["kind"] == "tasks" and suite["chat"] and not run.tokenizer.chat_template:
            found.append(
                f"evaluation.suites.{name}: `apply_chat_template: true` needs a chat template, and the base has none; write "
                "`apply_chat_template: false`, or give the base one"
            )
        judge = run.judges.get(name)
        if judge is not None and judge.get_vocab() != run.tokenizer.get_vocab():
            found.append(
                f"evaluation.suites.{name}: {suite['by']['name']} has another tokenizer than this run, so it would read "
                "other words; name a reward run whose base has the same tokenizer"
            )
    return found


def _model_warnings(run: "RunContext") -> list[str]:
    """What would make its numbers mean less."""
    spec, found = run.evaluation, []
    positions = max_positions(run.model.config)
    longest = max(spec["max_length"], run.longest)
    kind, original = rope_scaling(run.model.config)
    if kind in SCALED and original and longest > original:
        found.append(
            f"the model's positions are {kind}: past {original} tokens a row's score depends on the others in its batch; "
            f"write evaluation.max_length: {original}"
        )
    answering = [suite["max_new_tokens"] for suite in spec["suites"].values() if "max_new_tokens" in suite]
    if positions and answering and run.longest + max(answering) > positions:
        lengths = [len(ids) for ids in run.prompts]
        full = sum(length >= positions for length in lengths)
        cut = sum(length + max(answering) > positions for length in lengths)
        if cut:
            none = f", and {full} leave none" if full else ""
            found.append(
                f"{cut} of the {len(lengths)} sampled prompts leave less than {max(answering)} tokens for an answer in the "
                f"model's context of {positions}{none}; answers end at the context"
            )
    return found
