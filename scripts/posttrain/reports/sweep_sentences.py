"""What a person would say of a sweep: which setting to take, and why, in sentences."""

from itertools import chain

from posttrain.metrics.statistics import FEWEST, SAME, basis, size
from posttrain.reports import formatting, overruled, work
from posttrain.reports.sweeps import SAME_WORK, Sweep, by_cost, number

AMOUNTS = ("rank", "epochs", "max_steps", "max_length", "batch_size")  # keys of which one can have enough
MAX_NAMES = 3  # settings named one by one in a sentence


def answer(sweep: Sweep) -> list[str]:
    """What the sweep says as a whole: the setting to take, then what the reader must know of checks, work and seeds."""
    sentences = []
    if len(sweep.settings) > 1 and sweep.compared:
        sentences += [_choice(sweep), *overruled.sentences(chain(*sweep.overruled)), *_same_work(sweep)]
    return [*sentences, *_spread(sweep)]


def _choice(sweep: Sweep) -> str:
    names = [name for name in sweep.compared if name not in sweep.undecidable]
    if not names:
        return f"No setting is recommended: {_too_few(sweep, sweep.compared)}. Hold out more rows."
    metrics = {1: names[0], 2: " or ".join(names)}.get(len(names), f"any of {len(names)} metrics")
    if all(row["verdict"] == "no evidence" for row in sweep.rows.values()):
        index = by_cost(sweep.settings, sweep.work)[0]
        return f"No setting is shown to be better than another in {metrics}; the cheapest is {sweep.full(index)} ({_cost(sweep, index)})."
    index = sweep.unbeaten(names)
    if index is None:
        best: dict[int, list[str]] = {}
        for name in names:
            best.setdefault(sweep.unbeaten([name]), []).append(name)
        parts = [f"{sweep.full(index)} in {formatting.listed(found)}" for index, found in best.items()]
        return f"No setting will do for every metric: take {'; '.join(parts)}."
    return f"Take {sweep.full(index)} ({_cost(sweep, index)}): the cheapest of the settings that no other is shown to beat in {metrics}."


def _cost(sweep: Sweep, index: int) -> str:
    return f"{work.amount(sweep.work[index], sweep.unit)} of training, {sweep.memory[index]:.2g} GiB"


def _too_few(sweep: Sweep, names: list[str]) -> str:
    """That no difference of these metrics can be shown, by how many examples each has; of many metrics, their number."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(basis(sweep.values[name][0]), []).append(name)
    among = " in so many comparisons" if any(_clusters(sweep, name) >= FEWEST for name in names) else ""
    if len(names) > MAX_NAMES:
        found = {"the examples": [f"any of {len(names)} metrics"]}
    parts = [
        f"{what} {'is' if what.startswith('1 example') else 'are'} too few to show a difference in {formatting.listed(of)}"
        for what, of in found.items()
    ]
    return "; ".join(parts) + among


def _clusters(sweep: Sweep, name: str) -> int:
    row = sweep.values[name][0]
    return row.get("clusters", row["n"])


def _same_work(sweep: Sweep) -> list[str]:
    if max(sweep.work) > SAME_WORK * min(sweep.work) or len(sweep.undecidable) == len(sweep.compared):
        return []
    return ["Every setting takes about as much work to train, so the smaller value counts as cheaper."]


def _spread(sweep: Sweep) -> list[str]:
    """How much trainings that differ in the seed alone differ."""
    counts = [len(setting.runs) for setting in sweep.settings]
    if max(counts) == 1:
        what = "Each setting was" if len(counts) > 1 else "It was"
        return [f"{what} trained once, so the spread between trainings is unknown: add seed: [1, 2, 3] to the sweep."]
    parts = []
    for name, values in sweep.values.items():
        range_ = max(max(row["trainings"]) - min(row["trainings"]) for row in values)
        if range_:
            parts.append(f"{size(sweep.metrics[name], range_)} in {name}")
    trained = f"{_count(max(counts))} trainings" if len(counts) == 1 else "trainings of one setting"
    if not parts:
        return [f"Seed: {trained} do not differ in any metric."]
    return [f"Seed: {trained} differ by {'' if len(counts) == 1 else 'up to '}{formatting.listed(parts)}."]


def sentences(sweep: Sweep) -> list[str]:
    """What the sweep says of its metrics: a sentence for each, and one for all those without any evidence."""
    groups: dict[tuple, list[str]] = {}
    for name in sweep.compared:
        if name in sweep.undecidable:
            continue
        chosen, level, worse, cheaper = _order(sweep, name)
        same = (chosen, *level) if not worse and not cheaper else (name,)
        groups.setdefault(same, []).append(name)
    lines = [_sentence(sweep, names) for names in groups.values()]
    too_few = _too_few(sweep, sweep.undecidable) if lines and sweep.undecidable else ""
    return [*lines, *([f"{too_few[0].upper()}{too_few[1:]}."] if too_few else [])]


def _order(sweep: Sweep, name: str) -> tuple[int, list[int], list[int], list[int]]:
    """The cheapest setting that no other beats; what costs more and is not shown to be worse; what it beats; what is
    cheaper, which another one beats."""
    every = by_cost(sweep.settings, sweep.work)
    chosen = sweep.unbeaten([name])
    worse = [index for index in every if sweep.better(name, chosen, index)]
    place = every.index(chosen)
    rest = [[index for index in part if index not in worse] for part in (every[place + 1 :], every[:place])]
    return chosen, rest[0], worse, rest[1]


def _sentence(sweep: Sweep, names: list[str]) -> str:
    name, *_ = names
    chosen, level, worse, cheaper = _order(sweep, name)
    parts = []
    if level:
        enough = "is enough" if _is_amount(sweep, chosen, level) else "will do"
        others = _others(sweep, level, "or", "any other setting")
        where = formatting.listed(could_have_shown(sweep, names, chosen, level))
        parts.append(f"{sweep.full(chosen)} {enough}: no evidence that {others} is better in {where}")
    if worse:
        others, by = _others(sweep, worse, "and", "every other setting"), _by(sweep, name, chosen, worse)
        who, where = ("it", "") if level else (sweep.full(chosen), f" in {name}")
        parts.append(f"{who} is better than {others}{where} ({by})")
    for index in cheaper[:MAX_NAMES]:
        rival = next(other for other in by_cost(sweep.settings, sweep.work) if sweep.better(name, other, index))
        parts.append(f"{sweep.short(index)} is worse than {sweep.short(rival)} ({_by(sweep, name, rival, [index])})")
    if more := len(cheaper[MAX_NAMES:]):
        parts.append(
            f"so {'is' if more == 1 else 'are'} {more} more cheaper one{'' if more == 1 else 's'} than another"
        )
    return f"{'; '.join(parts)}."


def _others(sweep: Sweep, settings: list[int], last: str, all_others: str) -> str:
    """Settings by name, or in other words where they are too many to read."""
    if len(settings) <= MAX_NAMES:
        return formatting.listed(map(sweep.short, settings), last)
    if len(settings) == len(sweep.settings) - 1:
        return all_others
    return f"{'any' if last == 'or' else 'each'} of {len(settings)} others"


def _is_amount(sweep: Sweep, chosen: int, others: list[int]) -> bool:
    if len(sweep.keys) != 1 or sweep.keys[0] not in AMOUNTS:
        return False
    own, *values = (number(sweep.settings[index].overrides.get(sweep.keys[0])) for index in [chosen, *others])
    return own is not None and all(value is not None and value > own for value in values)


def _by(sweep: Sweep, name: str, ours: int, others: list[int]) -> str:
    differences = [abs(sweep.row(name, ours, other)["difference"]) for other in others]
    least, most = (size(sweep.metrics[name], limit(differences)) for limit in (min, max))
    return f"by {most}" if least == most else f"by {least.split()[0]} to {most}"


def could_have_shown(sweep: Sweep, names: list[str], ours: int, others: list[int]) -> list[str]:
    """Metrics, each with what its comparisons without evidence could have shown (the largest of their `detectable`).

    On what basis is said in full where it changes.
    """
    parts, before = [], None
    for name in names:
        differences = [sweep.row(name, ours, other)["detectable"] for other in others]
        basis = _basis(sweep, name, [ours, *others])
        if None in differences:
            parts.append(f"{name} ({basis} are too few to show any)")
            continue
        if not max(differences):
            parts.append(f"{name} ({SAME})")
            continue
        shown = size(sweep.metrics[name], max(differences))
        parts.append(f"{name} ({shown})" if basis == before else f"{name} ({basis} could have shown {shown})")
        before = basis
    return parts


def _basis(sweep: Sweep, name: str, settings: list[int]) -> str:
    counts = sorted({len(sweep.settings[index].runs) for index in settings})
    trainings = "" if counts[-1] == 1 else f" and {' or '.join(map(str, counts))} trainings of each"
    return f"{basis(sweep.values[name][settings[0]])}{trainings}"


def _count(number: int) -> str:
    words = "Zero One Two Three Four Five Six Seven Eight Nine".split()
    return words[number].lower() if number < len(words) else str(number)
