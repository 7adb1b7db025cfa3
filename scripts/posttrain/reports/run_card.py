"""The card of a run, results/{run}/README.md: recipe, data, results, limits, cost, exports, and how to load what was made."""

from pathlib import Path

from posttrain.exports import EXPORTS
from posttrain.methods import METHODS
from posttrain.metrics.statistics import verdict
from posttrain.objectives import OBJECTIVES
from posttrain.reports import cases, formatting, front_matter, work
from posttrain.reports.card_facts import Facts
from posttrain.reports.model_card import cell, code, inherited, sentence, settings, table, usage
from posttrain.reports.results_table import is_higher_better
from posttrain.workflow import paths

HUB = "https://huggingface.co"
MAX_NAMES = 6
GGUF = """It is for llama.cpp and for what is built on it, such as Ollama; the file has the chat template:

```bash
{command} --port 8080 &
curl -sf --retry 60 --retry-delay 1 --retry-all-errors http://127.0.0.1:8080/v1/chat/completions -d '{{
  "messages": [{{"role": "user", "content": "..."}}], "max_tokens": 200, "temperature": 0}}'
```
"""


def card(facts: Facts, kind: str | None = None, place: str = "FOLDER") -> str:
    """The text of README.md.

    Args:
        facts: of the run, as `card_facts.collect` has them.
        kind: of the export that the card goes with; None for the run's `model/`.
        place: where the reader finds the model: a folder, or its id on the hub.
    """
    from huggingface_hub import ModelCard

    sections = [
        f"# {facts['name']}{f', {kind}' if kind else ''}\n\n{_summary(facts, kind)}",
        f"## How to load it\n\n{_usage(facts, kind, place)}",
        f"## Results\n\n{_results(facts)}",
        f"## Recipe\n\n{_recipe(facts)}",
        f"## Data\n\n{_data(facts)}",
        f"## Limits\n\n{_limits(facts)}",
        f"## Bias and harm\n\n{_harm(facts)}",
        f"## Exports\n\n{_exports(facts)}",
        f"## Hardware, time and energy\n\n{_cost(facts)}",
        inherited(facts["licences"], facts["found"]),
        f"## Rebuild\n\n{_rebuild(facts)}",
    ]
    if "cases" in facts["eval"]:
        sections.insert(3, f"## Cases\n\n{_cases(facts)}")
    text = "\n\n".join(section.strip() for section in sections)
    return str(ModelCard(f"---\n{front_matter.data(facts, kind).to_yaml()}\n---\n\n{text}\n")).rstrip() + "\n"


# ---- what it is


def _summary(facts: Facts, kind: str | None) -> str:
    stages = [
        f"{stage['spec']['objective'].upper()} ({stage['spec']['method']}, `{stage['name']}`)"
        for stage in facts["line"]
    ]
    row = OBJECTIVES[facts["spec"]["objective"]]
    what = "A reward model" if row.reward_model else "A classifier" if row.classifier else "A language model"
    form = f" This is its export `{kind}`: {EXPORTS[kind].words}." if kind else ""
    return f"{what}: {_origin_of_base(facts['base'])}, then {', then '.join(stages)}. Made with posttrain.{form}"


def _origin_of_base(base: Facts) -> str:
    spec = base["spec"]
    if spec["source"] == "hub":
        return f"[`{spec['model']}`]({HUB}/{spec['model']}) at revision {code(spec['revision'])}"
    if spec["source"] == "wheel":
        return f"the model in the Python package {code(spec['package'])}"
    if spec["source"] == "pruned":
        dropped = ", ".join(map(str, base["manifest"]["dropped"]))
        return f"the base `{spec['of']['name']}` without its layers {dropped}"
    return (
        "a model of random weights"
        if spec["source"] == "random"
        else f"a model from a local folder, called `{base['name']}`"
    )


# ---- how to load it


def _usage(facts: Facts, kind: str | None, place: str) -> str:
    spec, row = facts["spec"], EXPORTS[kind] if kind else None
    if row and row.is_adapter:
        text = _adapter(Path(paths.export(facts["name"], kind), "README.md").read_text(encoding="utf-8"), place)
    elif row and row.gguf:
        files = sorted(Path(paths.export(facts["name"], kind)).glob("*.gguf"))
        where = f"-m {place}/{files[0].name}" if place == "FOLDER" else f"-hf {place}"
        text = GGUF.format(command=f"llama-server {where}")
    else:
        text = usage(spec, place)
    prompts = dict.fromkeys(
        system for data in facts["datasets"] if data["used"] and (system := data["spec"].get("system"))
    )
    if prompts:
        text += "\nIn training this system prompt stood before each prompt; write it as the first message:\n\n"
        text += "\n".join(f"- {code(system)}" for system in prompts)
    return text


def _adapter(own: str, place: str) -> str:
    """What an adapter's own card says of its base, how it is loaded and which servers take it."""
    from huggingface_hub import ModelCard

    _, _, text = ModelCard(own).text.partition("\n## ")
    return f"## {text}".replace("\n## ", "\n### ").replace("FOLDER", place).removeprefix("## The base\n\n")


# ---- results


def _results(facts: Facts) -> str:
    result, name = facts["eval"], facts["name"]
    others = list(result["against"])
    roles = [f"against `{other}`" for other in others]
    rows = [
        [f"{formatting.label(metric)} {'↑' if is_higher_better(metric) else '↓'}", *_measured(metric, row)]
        + [_compared(metric, result["against"][other].get(metric)) for other in others]
        for metric, row in result["metrics"].items()
    ]
    lines = [
        "Measured on held-out rows. Intervals are of 95%; ↑ more is better, ↓ less is better. A verdict compares the same examples: "
        "better and worse are significant, no evidence says how large a difference these examples would have shown.",
        table(["metric", "value", "interval", "measured on", *roles], rows),
    ]
    if suites := _suites(facts):
        lines.append(suites)
    if apart := _by_dataset(result):
        lines.append(apart)
    if apart := _by_domain(result):
        lines += ["What was gained in the domain, and what was forgotten outside of it:", apart]
    lines.append(f"Measured by `snakemake results/{name}/eval.json`. {_shipped(facts)}")
    return "\n\n".join(lines)


def _measured(metric: str, row: Facts) -> list[str]:
    return [formatting.value(metric, row), formatting.interval(metric, row), formatting.examples(row)]


def _compared(metric: str, row: Facts | None) -> str:
    if row is None:
        return ""
    word = verdict(row)
    if word not in ("better", "worse"):
        size = row.get("detectable")
        return f"{word} ({formatting.detectable(metric, size)})" if size is not None else word
    return f"**{word}**: {formatting.difference(metric, row)}"


def _by_dataset(result: Facts) -> str:
    """The metrics that were measured on several datasets, on each of them."""
    found = result.get("by_dataset", {})
    several = [name for name in result["metrics"] if sum(name in own for own in found.values()) > 1]
    rows = [
        [formatting.label(name), f"`{on}`", *_measured(name, own[name])]
        for name in several
        for on, own in found.items()
        if name in own
    ]
    return table(["metric", "dataset", "value", "interval", "measured on"], rows) if rows else ""


def _by_domain(result: Facts) -> str:
    """The metrics and verdicts inside and outside of the domain."""
    others = list(result["against"])
    rows = [
        [f"{place} (`{'`, `'.join(own['data'])}`)", formatting.label(metric), *_measured(metric, row)]
        + [_compared(metric, own["against"][other].get(metric)) for other in others]
        for place, own in result.get("by_domain", {}).items()
        for metric, row in own["metrics"].items()
    ]
    head = ["domain", "metric", "value", "interval", "measured on", *(f"against `{other}`" for other in others)]
    return table(head, rows) if rows else ""


def _suites(facts: Facts) -> str:
    """What each suite of the evaluation asks."""
    lines = []
    for name, suite in facts["measured"]["suites"].items():
        on = f" on `{suite['data']['name']}`" if isinstance(suite.get("data"), dict) else ""
        tasks = f" {cell(', '.join(suite['tasks']))}" if suite.get("tasks") else ""
        most = f", {suite['limit']:,} rows at most" if suite.get("limit") else ""
        lines.append(f"- `{name}`: {suite['kind']}{tasks}{on}{most}")
    return "The suites, which stand before the names of their metrics:\n\n" + "\n".join(lines) if lines else ""


def _shipped(facts: Facts) -> str:
    """How what is in `model/` relates to what was measured."""
    proof, kept = facts["merge"]["shipped"], not METHODS[facts["spec"]["method"]].mergeable
    what = "the adapter and its base" if kept else "the weights"
    same = f"{formatting.percent(proof['greedy_agreement'])} of {formatting.number(proof['n'])} real positions"
    return (
        f"What was measured is the trained model in float32. Loaded again from disk, {what} of this model, in {proof['dtype']}, choose the "
        f"same next token as the trained model on {same}."
    )


def _cases(facts: Facts) -> str:
    """The prompts that mattered to whoever made the model, and whether the answers were right."""
    parts = []
    for suite, rows in facts["eval"]["cases"].items():
        lines = [
            [
                cell(row["id"]),
                "green" if row["passed"] else "**red**",
                cell(row["failed"] or ""),
                cell(row.get("note", "")),
            ]
            for row in rows
        ]
        green = sum(row["passed"] for row in rows)
        parts.append(f"`{suite}`: {green} of {len(rows)} green.\n\n" + table(["case", "result", "why", "note"], lines))
    return "Prompts with what must and must not appear in the answer.\n\n" + "\n\n".join(parts)


# ---- recipe and data


def _recipe(facts: Facts) -> str:
    stages = []
    for number, stage in enumerate(facts["line"], 1):
        train = stage["train"]
        share = (
            f"{formatting.number(train['trainable_parameters'])} of {formatting.number(train['parameters'])} parameters"
        )
        stages.append(
            f"{number}. **`{stage['name']}`**: {sentence(stage['spec']).removesuffix(', made with posttrain.')}; "
            f"{formatting.number(train['steps'])} steps, {share} trained, in {train['precision']}."
        )
    return "\n".join(stages) + "\n\n" + settings({stage["name"]: stage["spec"] for stage in facts["line"]})


def _data(facts: Facts) -> str:
    rows = []
    for dataset in facts["datasets"]:
        record = dataset["record"]
        rows.append(
            [
                f"`{dataset['name']}`",
                ", ".join(f"`{name}`" for name in dataset["used"]) or "a part of the above, or of the reward",
                formatting.number(record["train"]),
                formatting.number(record["validation"]),
                ", ".join(f"{n:,} {kind}" for kind, n in record["dropped"].items() if n) or "none",
                _origin_of_data(dataset),
                cell(facts["found"].get(dataset["part"]) or ("unknown" if dataset["part"] else "of its parts")),
                ", ".join(f"{name} {formatting.percent(share)}" for name, share in dataset["languages"].items())
                or "not told",
            ]
        )
    head = ["dataset", "trains", "rows", "held out", "left out", "origin", "licence", "languages"]
    return table(head, rows) + "\n\nLanguages are told by a program from the first rows; short texts have none."


def _origin_of_data(dataset: Facts) -> str:
    spec = dataset["spec"]
    if spec.get("mix"):
        parts = [f"{taken['train']:,} of `{part}`" for part, taken in dataset["record"]["parts"].items()]
        return f"a mixture: {', '.join(parts)}"
    if spec.get("part"):
        return f"the {spec['part']} part of `{spec['from']['name']}`, as `{spec['by']['name']}` scores it"
    if spec.get("by"):
        return f"prompts of `{spec['from']['name']}` with completions by `{spec['by']['name']}`"
    if spec.get("hub"):
        return f"[`{spec['hub']}`]({HUB}/datasets/{spec['hub']}), revision {cell(spec['revision'])}, split {cell(spec['split'])}"
    if (rated := paths.target(spec["path"])).table == "ratings":
        return f"people's ratings of {cell(rated.name)}"
    return f"file {cell(spec['path'].rstrip('/').rpartition('/')[2])}"


# ---- what to know before using it


def _limits(facts: Facts) -> str:
    known = sorted({code for dataset in facts["datasets"] for code in dataset["languages"]})
    result = facts["eval"]
    few = min((row["n"] for row in result["metrics"].values()), default=0)
    lines = [
        f"The results are those of the rows above, {few:,} at the least a metric; nothing is known of other tasks.",
        f"Languages it was trained on here: {', '.join(known) or 'none was told'}. What it does in others was not measured.",
        f"Training rows had at most {formatting.number(facts['spec']['max_length'])} tokens.",
        *(f"The check {one.check} was overruled for `{one.run}`: {code(one.message)}." for one in facts["overruled"]),
    ]
    worse = [
        f"Worse than `{other}`: {formatting.listed(names)}."
        for other, rows in result["against"].items()
        if (names := [formatting.label(name) for name, row in rows.items() if verdict(row) == "worse"])
    ]
    return "\n".join(f"- {line}" for line in [*lines, *worse])


def _harm(facts: Facts) -> str:
    suites = facts["measured"]["suites"]
    own = [name for name, suite in suites.items() if suite["kind"] == "safety"]
    rows = [
        [formatting.label(metric), *_measured(metric, row)]
        for metric, row in facts["eval"]["metrics"].items()
        if metric.rpartition("/")[0] in own
    ]
    if OBJECTIVES[facts["spec"]["objective"]].classifier:
        return "Not measured: whether it errs as often on texts by and about every group of people."
    if OBJECTIVES[facts["spec"]["objective"]].reward_model:
        return "Not measured: whether it scores answers to and about groups of people alike."
    if not rows:
        return (
            "Not measured: this run's evaluation has no safety suite. Nothing is known of what it refuses, of harmful or toxic answers, or "
            "of whether it treats groups of people alike."
        )
    return table(["metric", "value", "interval", "measured on"], rows) + (
        "\n\nThese suites find gross faults in few prompts; they do not show that a model is safe."
    )


# ---- exports, cost, provenance


def _exports(facts: Facts) -> str:
    if not facts["exports"]:
        return "None has been made and proved."
    rows = []
    for kind, proof in facts["exports"].items():
        ratio, speed = proof.get("perplexity_ratio"), proof.get("tokens_per_second")
        worse = [name for own in proof["against"].values() for name, row in own.items() if row["verdict"] == "worse"]
        rows.append(
            [
                f"`{kind}`",
                f"{proof['program']} {cell(proof['program_version'])}",
                f"{formatting.short(proof['size_bytes'] / 1e6)} MB",
                f"{ratio['value']:.4g} [{ratio['low']:.4g}, {ratio['high']:.4g}]" if ratio else "",
                formatting.percent(proof["greedy_agreement"]["value"]) if "greedy_agreement" in proof else "",
                formatting.listed([*map(formatting.label, worse), *_turned_red(proof)]) or "nothing",
                formatting.short(speed) if speed else "",
            ]
        )
    head = ["kind", "proved by", "size", "perplexity ratio", "same next token", "worse in", "tokens/s"]
    return (
        "Each was loaded again by the program that runs it and compared with this model on held-out rows.\n\n"
        + table(head, rows)
    )


def _turned_red(proof: Facts) -> list[str]:
    """The cases that an export answers wrong and the trained model right."""
    return [f"case {cell(name)}" for rows in proof.get("cases", {}).values() for name in cases.changed(rows)[0]]


def _cost(facts: Facts) -> str:
    found = facts["cost"]
    machine = facts["line"][-1]["provenance"]["machine"]
    with_gpu = [stage["provenance"]["machine"]["gpu"] for stage in facts["line"]]
    rows = []
    for row, gpu in zip(found["rows"], with_gpu, strict=True):
        where = cell(gpu or f"CPU, {machine['threads']} threads")
        evaluation = formatting.duration(row["eval"]) if row["eval"] else ""
        training, energy = formatting.duration(row["train"]), formatting.energy(row["kwh"])
        rows.append([f"`{row['name']}`", where, training, evaluation, energy])
    amounts, unit = facts["work"]
    total = f"Together {formatting.duration(found['total']['seconds'])}, {work.amount(sum(amounts.values()), unit)} of training"
    price = ""
    if found["price"] is not None:
        money = found["total"]["seconds"] / 3600 * found["price"]
        price = f", {money:,.2f} {cell(found['currency'])}"
    return (
        table(["run", "machine", "training", "evaluation", "energy"], rows)
        + f"\n\n{total}, {formatting.energy(found['total']['kwh'])}{price}. {found['assumption']}"
    )


def _rebuild(facts: Facts) -> str:
    made = facts["line"][-1]["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    commit = f" at commit {made['code']['commit'][:10]}" if made["code"]["commit"] else ""
    return (
        f"With this run's configuration and data, posttrain{commit}, Python {made['python']} and {versions}:\n\n"
        f"```bash\nsnakemake results/{facts['name']}/eval.json results/{facts['name']}/README.md\nposttrain verify {facts['name']}\n```"
    )
