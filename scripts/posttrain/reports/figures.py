"""Figures for people: one look, saved as PNG and SVG, and inlined in pages, where they take the page's colours, dark ones too."""

import re
from pathlib import Path
from typing import Any

from posttrain.runtime.atomic import whole_file

INK, GRID = "#22252a", "#dedbd5"  # as in pages/style.css, which has dark variants
COLOURS = ("#2a5d94", "#b4500f", "#3f7d4e", "#8a4f9e", "#8a6d14", "#5d6269")  # --curve0 to --curve5 there
STYLE = {
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": "cycler('color', " + repr(list(COLOURS)) + ")",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text: small, searchable, readable aloud
    "svg.hashsalt": "posttrain",  # the same figure, the same bytes
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def pyplot() -> Any:
    """Matplotlib's pyplot without a display, in the house's style."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(STYLE)
    return pyplot


def save(figure: Any, stem: Path, title: str) -> str:
    """Write `stem`.png and `stem`.svg; returns the SVG to be put into a page, with `title` for those who cannot see it."""
    png, svg = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg"))
    figure.tight_layout()
    write(figure, png)
    write(figure, svg, Title=title)
    pyplot().close(figure)
    return inline(svg.read_text(encoding="utf-8"), stem.name, title)


def write(figure: Any, path: Path, **metadata: str) -> None:
    """Write a figure, laid out, as the kind of file that `path` ends in, the same bytes for the same figure."""
    kind = path.suffix.removeprefix(".")
    unsaid = {"png": ("Software",), "svg": ("Date", "Creator")}[kind]
    with whole_file(path) as file:
        figure.savefig(file, format=kind, metadata=dict.fromkeys(unsaid) | metadata)


def inline(svg: str, name: str, title: str) -> str:
    """An SVG file's text as part of a page: no header, colours of the page, ids that are this figure's own."""
    import html

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--line)").replace("fill: #ffffff", "fill: none")
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--curve{number})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}" class="figure"', 1)
