"""The graph of a plan as Mermaid text, which GitHub draws, and as an SVG file like the report's."""

from html import escape
from typing import Any, NamedTuple

from posttrain.planning.plan import Plan
from posttrain.reports import formatting, graph_layout
from posttrain.workflow import paths
from posttrain.workflow.project import Project

MOST = 60  # nodes; of more, the runs that differ in overrides only are one
STYLE = """\
svg { font-family: system-ui, sans-serif; background: Canvas; color-scheme: light dark }
rect { fill: Canvas; stroke: #4a6fa5; stroke-width: 1.5 }
rect.there { stroke: #888; stroke-dasharray: 4 3 }
text { fill: CanvasText; font-size: 14px } text.small { font-size: 11.5px; opacity: .75 }
path { fill: none; stroke: #888; stroke-width: 1.5 } path.reward { stroke-dasharray: 4 3 }"""


class Node(NamedTuple):
    """A result of the plan: all of its jobs together."""

    name: str
    rules: list[str]
    seconds: float
    jobs: int
    results: int
    """how many it stands for"""


def nodes(plan: Plan) -> tuple[dict[str, Node], set[tuple[str, str]], set[str]]:
    """The results with their jobs, which needs which, and those that are there already."""
    many = len({job.result for job in plan.jobs}) + len(plan.there) > MOST
    of = {job.job: _group(job.result) if many else job.result for job in plan.jobs}
    found: dict[str, Node] = {}
    members: dict[str, set[str]] = {}
    for job in plan.jobs:
        name = of[job.job]
        node = found.get(name, Node(name, [], 0.0, 0, 0))
        members.setdefault(name, set()).add(job.result)
        rules = node.rules if job.rule in node.rules else [*node.rules, job.rule]
        found[name] = Node(name, rules, node.seconds + (job.time.seconds or 0), node.jobs + 1, len(members[name]))
    name = _group if many else str
    there = {name(result) for result in plan.there} - found.keys()
    # Two datasets are each compared with the other's held-out rows, which is no order between them.
    ordered = [job for job in plan.jobs if job.rule != "overlap"]
    edges = {(of[need], of[job.job]) for job in ordered for need in job.needs}
    edges |= {(name(result), of[job.job]) for job in ordered for result in job.reads if name(result) in there}
    return found, _direct({(one, other) for one, other in edges if one != other}), there


def _direct(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges that no way of several edges stands for."""
    after: dict[str, set[str]] = {}
    for one, other in edges:
        after.setdefault(one, set()).add(other)

    def reached(start: str) -> set[str]:
        found, pending = set(), [start]
        while pending:
            for name in after.get(pending.pop(), ()):
                if name not in found:
                    found.add(name)
                    pending.append(name)
        return found

    beyond = {name: set().union(*map(reached, others)) for name, others in after.items()}
    return {(one, other) for one, other in edges if other not in beyond[one]}


def _labels(names: list[str]) -> dict[str, str]:
    """Short names of the results, as far as they stay different."""
    short = {}
    for name in names:
        first, *rest = name.removeprefix(f"{paths.RESULTS}/").split("/")
        short[name] = "/".join([first, *(part.partition(",")[0] for part in rest)]).removesuffix("/table.tsv")
    said = list(short.values())
    return {name: label if said.count(label) == 1 else name for name, label in short.items()}


def _group(result: str) -> str:
    """A result without what follows its name: overrides, lengths of tokens."""
    return "/".join(part.partition(",")[0] for part in result.split("/"))


def mermaid(plan: Plan) -> str:
    """A flowchart of the results that are built, each with its jobs and their time."""
    found, edges, there = nodes(plan)
    place = {name: f"n{number}" for number, name in enumerate([*found, *sorted(there)])}
    labels, lines = _labels(list(place)), ["flowchart LR"]
    for name, node in found.items():
        number = f" ({node.results})" if node.results > 1 else ""
        lines.append(f'    {place[name]}["{_safe(labels[name])}{number}<br/>{_what(node)}"]')
    lines += [f'    {place[name]}["{_safe(labels[name])}<br/>there already"]:::there' for name in sorted(there)]
    lines += [
        f"    {place[one]} --> {place[other]}"
        for one, other in sorted(edges, key=lambda edge: [place[name] for name in edge])
    ]
    return "\n".join([*lines, "    classDef there stroke-dasharray: 4 3", ""])


def _what(node: Node) -> str:
    return f"{', '.join(node.rules)}: {formatting.duration(node.seconds)}"


def _safe(name: str) -> str:
    """A name with what Mermaid and HTML would take for their own written as entities."""
    return escape(name).replace("&quot;", "#quot;").replace("&#x27;", "#39;")


# ---- the report's graph, with times


def svg(project: Project, plan: Plan) -> str:
    """The models of a plan, base to run, as the report's graph has them; each with the time of its jobs."""
    return _drawn(graph_layout.layout(_models(project, plan)), set(_trained(plan)))


def _trained(plan: Plan) -> dict[str, float]:
    """Models with jobs, and the seconds of these."""
    found: dict[str, float] = {}
    for job in plan.jobs:
        first = job.result.split("/")
        name = first[1] if first[0] == "bases" else first[0]
        if first[0] not in ("data", "tokens") and job.rule not in ("report", "sweep", "ratings", "rating_page"):
            found[name] = found.get(name, 0.0) + (job.time.seconds or 0)
    return found


def _models(project: Project, plan: Plan) -> list[dict[str, Any]]:
    """As `graph_layout.layout` takes them: the models with jobs and those that they descend from, parents first."""
    times = _trained(plan)
    names = [name for name in times if name.partition(",")[0] in project.config.bases | project.config.runs]
    models = []
    for name in project.graph.parents_first(names):
        time = formatting.duration(times[name]) if name in times else "there already"
        if name in project.config.bases:
            models.append({"name": name, "kind": "base", "parent": None, "also": [], "what": f"base: {time}"})
            continue
        node = project.run(name)
        what = f"{node.run.objective}, {node.run.method}: {time}"
        models.append(
            {"name": name, "kind": "run", "parent": node.parent, "also": node.models[1:], "what": what, "time": time}
        )
    return models


def _drawn(graph: dict[str, Any], built: set[str]) -> str:
    width, height = round(graph["width"]) + 1, round(graph["height"])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    lines += ["<title>Plan</title>", f"<style>{STYLE}</style>"]
    lines += [f'<path class="{edge["kind"]}" d="{edge["path"]}"/>' for edge in graph["edges"]]
    for node in graph["nodes"]:
        x, y = round(node["x"]), round(node["y"])
        mark = "" if node["name"] in built else ' class="there"'
        lines += [
            f"<g><title>{escape(node['name'])}</title>"
            f'<rect{mark} x="{x}" y="{y}" width="{round(node["width"])}" height="{graph_layout.HEIGHT}" rx="5"/>'
            f'<text x="{x + 12}" y="{y + 17}">{escape(node["lines"][0])}</text>'
            f'<text class="small" x="{x + 12}" y="{y + 32}">{escape(node["lines"][1])}</text></g>'
        ]
    return "\n".join([*lines, "</svg>", ""])
