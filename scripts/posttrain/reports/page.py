"""Pages for people: the templates in pages/, filled in; a page is one file, which needs no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("pages")


def render(template: str, filters: dict[str, Callable[..., str]] | None = None, **values: Any) -> str:
    """The page that a template of pages/ makes of the values; all text in them is escaped.

    `verbatim(FILE)` in a template puts in a file of pages/ as it is, such as a script; `filters` are the page's own.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "percent": percent, "rows": rows, **(filters or {})}
    environment.globals["verbatim"] = lambda file: markupsafe.Markup((FOLDER / file).read_text(encoding="utf-8"))
    return environment.get_template(template).render(values) + "\n"


def number(value: float) -> str:
    """A number as people read it: `12,345`, `0.5`."""
    return f"{value:,}"


def percent(share: float) -> str:
    """A share in percent, `12.5%`; only nothing is 0%, and only all is 100%."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def rows(count: int) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} row" + ("" if count == 1 else "s")
