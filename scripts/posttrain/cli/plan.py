"""`posttrain plan`: the jobs that a target takes, what each costs before it runs, and the sums."""

import argparse
import json
import shutil
import textwrap
from typing import TYPE_CHECKING

from posttrain.cli import configuration, plan_fit

if TYPE_CHECKING:
    from posttrain.planning.plan import Plan, Planned

MOST_ROWS = 60  # of more jobs, each rule's are one row
WIDE = 100  # columns from which the table says what an estimate rests on
NAME, NARROW = 34, 24  # characters of a job's name, in a wide and a narrow terminal


def run(options: argparse.Namespace) -> None:
    """Print the plan as a table, as JSON or as a Mermaid graph; of `--model`, whether its training fits."""
    if options.model:
        plan_fit.run(options)
        return
    from posttrain.planning import picture
    from posttrain.planning.plan import plan
    from posttrain.runtime.atomic import whole_file

    project, file = configuration.project(options)
    found = plan(project, options.targets, file, options.probe)
    if options.svg:
        with whole_file(options.svg) as path:
            path.write_text(picture.svg(project, found), encoding="utf-8")
    if options.json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    elif options.mermaid:
        print(picture.mermaid(found), end="")
    else:
        print(text(found, min(shutil.get_terminal_size().columns, 120)))


def text(plan: "Plan", width: int) -> str:
    """The plan for people, in lines of `width` characters."""
    if not plan.jobs:
        return f"nothing: {', '.join(plan.targets)} {'is' if len(plan.targets) == 1 else 'are'} up to date"
    table = _by_rule(plan) if len(plan.jobs) > MOST_ROWS else _by_job(plan, width)
    lines = [
        textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        for line in _sums(plan)
    ]
    return "\n".join([table, "", *lines])


def _by_job(plan: "Plan", width: int) -> str:
    """A row for each job."""
    rows = [["job", "time", "range", "memory", "disk", "by"]]
    for job in plan.jobs:
        basis = job.time.basis if width >= WIDE else job.time.source
        name = job.job.replace("/", " ", 1)
        if job.serves > 1:
            name = f"{name} (for {job.serves})"
        rows.append(
            [_short(name, NAME if width >= WIDE else NARROW), *_times(job), _bytes(job.memory), _bytes(job.disk), basis]
        )
    return _columns(rows, width)


def _by_rule(plan: "Plan") -> str:
    """A row for the jobs of each rule."""
    rows = [["rule", "jobs", "time", "range", "memory", "disk"]]
    groups: dict[str, list[Planned]] = {}
    for job in plan.jobs:
        groups.setdefault(job.rule, []).append(job)
    for rule, jobs in groups.items():
        known = [job.time for job in jobs if job.time.seconds is not None]
        times = _sum_of([(time.seconds, time.low, time.high) for time in known]) if known else ["?", ""]
        memory = max((job.memory or 0 for job in jobs), default=0)
        disk = sum(job.disk or 0 for job in jobs)
        rows.append([rule, f"{len(jobs):,}", *times, _bytes(memory), _bytes(disk)])
    return _columns(rows, 120)


def _sum_of(times: list[tuple[float, float, float]]) -> list[str]:
    from posttrain.reports.formatting import duration

    seconds, low, high = (sum(column) for column in zip(*times, strict=True))
    return [duration(seconds), f"{duration(low)} - {duration(high)}"]


def _times(job: "Planned") -> list[str]:
    if job.time.seconds is None:
        return ["?", ""]
    return _sum_of([(job.time.seconds, job.time.low, job.time.high)])


def _bytes(count: float | None) -> str:
    from posttrain.reports.formatting import bytes_

    return "?" if count is None else "" if count < 5e5 else bytes_(count)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _columns(rows: list[list[str]], width: int) -> str:
    """Names to the left, figures to the right, the first row underlined."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(size) if rows[0][i] in ("job", "rule", "by") else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        lines.append(line if len(line) <= width else f"{line[: width - 1]}…")
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _sums(plan: "Plan") -> list[str]:
    """The sums as sentences."""
    from posttrain.reports.formatting import bytes_, duration

    total = plan.total()
    number = f"{total['jobs']:,} job{'' if total['jobs'] == 1 else 's'}"
    took, low, high, longest = (duration(total[key]) for key in ("seconds", "low", "high", "longest"))
    side_by_side = (
        f"; {longest} with as many machines as can be used" if total["longest"] < 0.9 * total["seconds"] else ""
    )
    lines = [f"{number}: {took} one after another ({low} to {high}){side_by_side}."]
    if plan.unknown:
        rest = f" and {len(plan.unknown) - 6} more" if len(plan.unknown) > 6 else ""
        lines.append(
            f"Not counted, as the base's size is not known before it is built: {', '.join(plan.unknown[:6])}{rest}."
        )
    over = total["memory"] > plan.machine.total
    there = f"{bytes_(plan.machine.total)} on {plan.machine.name}"
    lines.append(f"Memory: {bytes_(total['memory'])} at most, of {there}.{' This does not fit.' if over else ''}")
    full = " This does not fit." if total["disk_at_most"] > plan.free else ""
    at_most = f"at most {bytes_(total['disk_at_most'])} at once, of {bytes_(plan.free)} that are free"
    lines += [f"Disk: {bytes_(total['disk'])}, {at_most}.{full}", *_costs(plan)]
    if plan.saved >= 1:
        lines.append(f"Shared: what several results need is built once, which saves {duration(plan.saved)}.")
    if plan.there:
        rest = f" and {len(plan.there) - 8} more" if len(plan.there) > 8 else ""
        lines.append(f"There already: {', '.join(plan.there[:8])}{rest}.")
    return [*lines, *_origin(plan)]


def _costs(plan: "Plan") -> list[str]:
    """Energy and money."""
    from posttrain.reports.formatting import energy, short

    total = plan.total()
    said = "as cost.watts says" if plan.measured_watts else "estimated; cost.watts sets it"
    price = "; with cost.price_per_hour the money is told" if plan.price is None else ""
    lines = [f"Energy: {energy(total['kwh'])} ({short(plan.watts)} W, {said}){price}."]
    if plan.price is not None:
        lines.append(f"Money: {total['money']:,.2f} {plan.currency}, at {short(plan.price)} an hour.")
    return lines


def _origin(plan: "Plan") -> list[str]:
    """Where the times come from, and how good earlier estimates were."""
    from collections import Counter

    from posttrain.reports import planned

    sources = Counter(job.time.source for job in plan.jobs if job.time.seconds is not None)
    said = ", ".join(f"{number:,} by {source}" for source, number in sources.most_common())
    hint = "; --probe measures this machine" if "formula" in sources and "probe" not in sources else ""
    lines = [f"Times: {said}{hint}."]
    if earlier := planned.summary(planned.compared()):
        lines.append(
            f"Earlier plans: {earlier['jobs']} jobs have run since; the median error of their times is "
            f"{100 * earlier['median_error']:.0f} %, {100 * earlier['within']:.0f} % are within 30 %, and their sum was "
            f"{100 * earlier['total_error']:+.0f} % of what they took."
        )
    return lines
