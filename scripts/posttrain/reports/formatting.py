"""Numbers for people: shares in percent, values to the digits that their intervals leave, differences, p-values, durations."""

import math
import re
from typing import Any

from markupsafe import Markup, escape

from posttrain.metrics.statistics import SAME, is_share
from posttrain.reports.answer_differences import beginning
from posttrain.runtime.console import duration as long_duration

MINUS = "\N{MINUS SIGN}"
MAX_DECIMALS = 6


def number(value: float) -> str:
    """A number with its thousands apart: `12,345`, `0.5`."""
    return f"{value:,}"


def rows(count: int) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} row" + ("" if count == 1 else "s")


def percent(share: float) -> str:
    """A share in percent, `12.5%`; only nothing is 0%, and only all is 100%."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def short(value: float) -> str:
    """Three significant digits, all before the point, a true minus sign: `3.13`, `12,346`."""
    size = abs(value)
    text = f"{size:,.0f}" if size >= 1000 else f"{size:.3g}"
    return f"{MINUS}{text}" if value < 0 and float(text.replace(",", "")) else text


def energy(kwh: float) -> str:
    """`0.4 Wh`, `1.2 kWh`."""
    return f"{short(1000 * kwh)} Wh" if kwh < 1 else f"{short(kwh)} kWh"


def bytes_(count: float) -> str:
    """`2.4 MB`, `538 MB`, `1.2 GB`, in powers of 1000 as file managers count them."""
    size, unit = (count / 1e9, "GB") if count >= 999.5e6 else (count / 1e6, "MB")
    return f"{short(size)} {unit}"


def p_value(p: float) -> str:
    """`<0.001`, `0.031`."""
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def duration(seconds: float) -> str:
    """`4.2 s`, `45 s`, `12 min`, `3 h 05 min`."""
    return f"{seconds:.2g} s" if seconds < 10 else long_duration(seconds)


# ---- metrics


def label(name: str) -> str:
    """A metric's name in a sentence: `tool name`, `safety: refusal`."""
    return name.replace("_", " ").replace("/", ": ")


def value(name: str, row: dict[str, Any]) -> str:
    """A metric's value to the digits that its interval leaves: `93%`, `5.2`."""
    return _unsigned(_scaled(name, row["value"]), decimals(name, row)) + ("%" if is_share(name) else "")


def interval(name: str, row: dict[str, Any]) -> str:
    """The ends of an interval, of a share in percent: `[88, 96]`."""
    digits = decimals(name, row)
    low, high = (_unsigned(_scaled(name, row[end]), digits) for end in ("low", "high"))
    return f"[{low}, {high}]"


def difference(name: str, row: dict[str, Any]) -> str:
    """A difference of a metric with its interval: `+12 points [8, 16]`, of anything but shares `-0.50 [-0.75, -0.25]`."""
    text = _unsigned(_scaled(name, row["difference"]), decimals(name, row))
    plus = "" if text.startswith(MINUS) or not re.search("[1-9]", text) else "+"
    unit = (" point" if text in ("1", f"{MINUS}1") else " points") if is_share(name) else ""
    return f"{plus}{text}{unit} {interval(name, row)}"


def detectable(name: str, size: float) -> str:
    """The difference that would have been shown, either way: `would show ±30 points`; that all examples are the same, where they are."""
    if not size:
        return SAME
    return f"would show ±{short(100 * size)} points" if is_share(name) else f"would show ±{short(size)}"


def examples(row: dict[str, Any]) -> str:
    """How many examples a metric has, and of how many prompts where several share one: `n 120`, `n 60 of 20 prompts`."""
    n, clusters = row["n"], row.get("clusters", row["n"])
    return f"n {n:,}" if n == clusters else f"n {n:,} of {clusters:,} prompt{'' if clusters == 1 else 's'}"


def decimals(name: str, row: dict[str, Any]) -> int:
    """How many digits after the point a value, or a difference, and its interval have.

    An interval says how far a value is known, so two of its width's digits are written, of percent one. A digit more where the
    end of a difference would read as zero without being zero.
    """
    low, high = (_scaled(name, row[end]) for end in ("low", "high"))
    middle = _scaled(name, row["difference"] if "difference" in row else row["value"])
    width = high - low if math.isfinite(high - low) else 0
    if width <= 1e-9 * abs(middle):  # nothing but rounding errors
        size = abs(middle) if math.isfinite(middle) else 0
        return 1 if is_share(name) and size % 1 else 0 if is_share(name) or not size else _digits(size, 3)
    digits = _digits(width, 1 if is_share(name) else 2)
    if "difference" in row:
        while digits < MAX_DECIMALS and any(end and not round(end, digits) for end in (low, high)):
            digits += 1
    return digits


def _digits(size: float, significant: int) -> int:
    return min(MAX_DECIMALS, max(0, significant - 1 - math.floor(math.log10(size))))


def _scaled(name: str, value: float) -> float:
    return 100 * value if is_share(name) else value


def _unsigned(value: float, digits: int) -> str:
    """A number with a true minus sign, and none before zero."""
    text = f"{abs(value):,.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and re.search("[1-9]", text) else text


# ---- text


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after each of its parts; short ones stay whole."""
    return Markup(re.sub(r"([/,~]|_(?=\w{8}))", r"\1<wbr>", str(escape(name))))


def listed(words: Any, last: str = "and") -> str:
    """Words as a list in a sentence: `a, b and c`."""
    *first, end = [*words] or [""]
    return f"{', '.join(first)} {last} {end}" if first else end


FILTERS = {
    "number": number, "rows": rows, "percent": percent, "short": short, "energy": energy, "p_value": p_value, "duration": duration,
    "label": label, "breakable": breakable, "listed": listed, "beginning": beginning,
}  # fmt: skip
