"""The graph of runs, base -> SFT -> DPO: as a picture in columns by depth, laid out for SVG, and as nested lists."""

from functools import cache
from typing import Any

HEIGHT, GAP, COLUMN_GAP = 40, 12, 44
LOWER = 3  # rows that a node may stand below its first child, so that it is seen where there are hundreds
MAX_LINE = 30  # characters of a line in a node


def layout(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Places of nodes and edges, in pixels, of models (name, kind, parent, also, and objective and method, or what and time).

    Depth is the longest way from a base, reward models included, so that every edge goes from left to right.
    """
    nodes = {model["name"]: _node(model) for model in models}

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(other) for other, _ in nodes[name]["sources"]), default=-1)

    _place_rows(nodes)
    width = _place_columns(nodes, {name: depth(name) for name in nodes})
    edges = [
        {"kind": kind, "path": _path(nodes[name], node)} for node in nodes.values() for name, kind in node["sources"]
    ]
    height = max(node["y"] for node in nodes.values()) + HEIGHT + 1
    return {"width": width, "height": height, "nodes": list(nodes.values()), "edges": edges}


def tree(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same models as nested lists, each below its parent, for screens that are too narrow for the picture."""
    nodes = {model["name"]: model | {"what": _what(model), "children": []} for model in models}
    for node in nodes.values():
        if node["parent"]:
            nodes[node["parent"]]["children"].append(node)
    return [node for node in nodes.values() if not node["parent"]]


def _node(model: dict[str, Any]) -> dict[str, Any]:
    name, _, overrides = model["name"].partition(",")
    lines = [
        line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…" for line in (name, _second(model, overrides))
    ]
    sources = [(model["parent"], "parent")] if model["parent"] else []
    return {
        "name": model["name"],
        "kind": model["kind"],
        "parent": model["parent"],
        "sources": sources + [(other, "reward") for other in model["also"]],
        "lines": lines,
        "width": 24 + max(8.4 * len(lines[0]), 6.8 * len(lines[1])),
    }


def _second(model: dict[str, Any], overrides: str) -> str:
    """The second line: the overrides, else what it is; of a plan, with the time that it takes."""
    if not overrides:
        return _what(model)
    return overrides.replace(",", ", ") + (f": {model['time']}" if "time" in model else "")


def _what(model: dict[str, Any]) -> str:
    if "what" in model:
        return model["what"]
    return "base" if model["kind"] == "base" else f"{model['objective']}, {model['method']}"


def _place_rows(nodes: dict[str, dict]) -> None:
    """One row a leaf, in the order of the tree; what something starts from stands in the middle of it, or near its top."""
    children: dict[str | None, list[str]] = {}
    for name, node in nodes.items():
        children.setdefault(node["parent"], []).append(name)
    row = 0.0

    def place(name: str) -> float:
        nonlocal row
        below = [place(child) for child in children.get(name, ())]
        if not below:
            below, row = [row], row + 1
        mine = min((below[0] + below[-1]) / 2, below[0] + LOWER)
        nodes[name]["y"] = mine * (HEIGHT + GAP) + 1
        return mine

    for root in children[None]:
        place(root)


def _place_columns(nodes: dict[str, dict], depth: dict[str, int]) -> float:
    """Give each node its column's left edge; returns the width of all."""
    left = 1.0
    for column in range(max(depth.values()) + 1):
        inside = [node for name, node in nodes.items() if depth[name] == column]
        for node in inside:
            node["x"] = left
        left += max(node["width"] for node in inside) + COLUMN_GAP
    return left - COLUMN_GAP + 1


def _path(source: dict, target: dict) -> str:
    """A curve from the right of one node to the row of the other, then straight on, where no node stands in between."""
    x, y = source["x"] + source["width"], source["y"] + HEIGHT / 2
    turn, below = x + COLUMN_GAP, target["y"] + HEIGHT / 2
    middle = x + COLUMN_GAP / 2
    return f"M{x:.0f} {y:.0f}C{middle:.0f} {y:.0f} {middle:.0f} {below:.0f} {turn:.0f} {below:.0f}H{target['x']:.0f}"
