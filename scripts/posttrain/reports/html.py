"""Pages for people: the templates in pages/, filled in; a page is one file, which needs no network."""

from pathlib import Path
from typing import Any

from posttrain.reports.formatting import FILTERS

FOLDER = Path(__file__).with_name("pages")


def render(template: str, **values: Any) -> str:
    """The page that a template of pages/ makes of the values; all text in them is escaped.

    `verbatim(FILE)` in a template puts in a file of pages/ as it is, such as a script.
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
    environment.filters |= FILTERS
    environment.globals["verbatim"] = lambda file: markupsafe.Markup((FOLDER / file).read_text(encoding="utf-8"))
    return environment.get_template(template).render(values) + "\n"
