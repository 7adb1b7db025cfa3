"""What a run gains inside its domain and forgets outside of it: `by_domain` of eval.json, for people."""

from typing import Any

from posttrain.reports import results_table, verdict_lines

PLACES = ("inside", "outside")

Row = dict[str, Any]


def tables(models: list[Row]) -> list[Row]:
    """For the report: the results of the models inside the domain, and outside of it, as those of all examples."""
    having = [model for model in models if "by_domain" in model["eval"]]
    found = []
    for place in PLACES if having else ():
        own = [model | {"eval": model["eval"]["by_domain"][place]} for model in having]
        data = dict.fromkeys(name for model in own for name in model["eval"]["data"])
        found.append({"place": place, "data": ", ".join(data), "groups": results_table.groups(own)})
    return found


def lines(result: Row) -> list[str]:
    """For the terminal: the verdicts of an eval.json inside and outside, a line for each model that it is compared with."""
    return [
        f"{place} the domain ({', '.join(own['data'])}): {line}"
        for place, own in result.get("by_domain", {}).items()
        for line in verdict_lines.of(own | {"run": result["run"]})
    ]
