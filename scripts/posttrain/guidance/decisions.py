"""The decisions of a recommendation, each with the rows of the guide that it rests on, what would fit as well, and what was overruled.

Precedence: what fits into memory, then the rows that there are, then the purpose, then the table by data, then the table by memory,
then what is common.
"""

from typing import Any

from posttrain.guidance import tables
from posttrain.guidance.facts import Rows
from posttrain.guidance.fitting import needed
from posttrain.guidance.stages import (
    Decision,
    Question,
    Stage,
    data_row,
    evaluated_in,
    rows_of,
    stages,
    wanted_length,
)
from posttrain.guidance.tables import DATA, HARDWARE, ROWS, Hardware
from posttrain.methods import METHODS
from posttrain.models.memory_estimate import GIB, trained_parameters
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError

ENOUGH = 100  # pairs; so many moved the demo's held-out pairs from 72 % to 88 % right
SAVING = 0.1  # share of memory that 4 bits have to save at least to be worth their error and time
WORDS = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
TRIED = ("full", "lora", "qlora")


def hardware_rows(question: Question) -> list[Hardware]:
    """The rows of the table by memory that speak of this GPU and not only of smaller models."""
    place, size = question.place, question.source.billions
    if place.device == "cpu":
        return []
    return [
        row
        for row in HARDWARE  # 15 GiB are sold as 16 GB, and 7.6e9 parameters as 7B
        if 0.93 * row.memory[0] <= place.memory <= 1.01 * row.memory[1] and size <= row.model[1] * 1.2
    ]


# ---- the objectives


def objectives(question: Question) -> tuple[list[str], Decision]:
    """Which objectives, in their order."""
    purpose, data, pairs = question.purpose, data_row(question), question.preferences
    asking = [row for row in (purpose, data) if "dpo" in row.objectives]
    second = "dpo" if pairs is None or "dpo" in _fit_for(pairs) else "kto"
    enough = pairs is not None and pairs.count >= ENOUGH
    after = bool(asking) and enough and purpose.id != "purpose-prototype"
    chosen = (["sft"] if question.examples else []) + ([second] if after or not question.examples else [])
    rows = (
        [row.id for row in (purpose, data) if row in asking]
        if after
        else [row.id for row in (purpose, data) if row.objectives[-1] == chosen[-1]]
    )
    rows += ["objective-sft", "phase-1"] * ("sft" in chosen) + ["phase-2", "objective-dpo"] * (len(chosen) > 1)
    why, overruled, others = [], [], []
    if second == "kto" and second in chosen:
        why.append("the preferences are single completions with labels, which KTO learns from and DPO cannot")
    if asking and not enough:
        have = f"{pairs.count:,} pairs" if pairs else "no preferences"
        overruled.append(
            f"{_ids(asking)}: DPO; there are {have}, and {ENOUGH} are wanted, so the data wins; docs/rating.md has pages on "
            "which people make them"
        )
    elif asking and not after:
        overruled.append(f"{_ids(asking)}: SFT, then DPO; {purpose.id} wants the least resources, and the purpose wins")
    silent = [row for row in (purpose, data) if row not in asking and row.objectives[-1] != chosen[-1]]
    overruled += [
        f"{row.id}: SFT alone; {_ids(asking)} adds DPO, and there are {pairs.count:,} pairs" for row in silent if after
    ]
    if not question.examples:
        rows = [purpose.id] if "dpo" in purpose.objectives else ["objective-dpo"]
        why.append("there are preferences and no examples, so the base has to be a chat model already")
        first = [row for row in (purpose, data) if row.objectives[0] != chosen[0]]
        overruled += [f"{_ids(first)}: SFT; there are no examples, so the data wins"] if first else []
    if purpose.id == "purpose-production" and len(chosen) > 1:
        why.append(
            "DPO starts from the SFT model (phase-2), as a base that has not learnt the task has nothing to prefer"
        )
    if pairs and len(chosen) == 1 and question.examples and not asking:
        others.append(f"SFT, then DPO: no row asks for it; the {pairs.count:,} pairs are not used")
    if len(chosen) > 1:
        others.append("RLHF with PPO: objective-rlhf, trend-dpo: more complex, more costly and less stable")
    text = ", then ".join(WORDS[name] for name in chosen)
    return chosen, Decision("objective", text, list(dict.fromkeys(rows)), why, overruled, others)


def _fit_for(rows: Rows) -> list[str]:
    return [name for name, row in OBJECTIVES.items() if rows.type in row.data]


def _ids(rows: list[Any]) -> str:
    return " and ".join(row.id for row in rows)


# ---- the method


def method(question: Question, road: list[str]) -> tuple[list[Stage], Decision]:
    """By which method: the first that a row asks for and that fits.

    Raises:
        UserError: none fits.
    """
    tried = {name: stages(question, road, name) for name in TRIED}
    model, place = question.source.model, question.place
    gib = {name: max(stage.fit.gib for stage in made) for name, made in tried.items()}
    fits = {name: all(stage.fit.fits for stage in made) for name, made in tried.items()}
    tables_rows = [question.purpose, data_row(question)]
    wishes = [(row.method, row.id) for row in tables_rows if row.method]
    wishes += [(name, row.id) for row in hardware_rows(question) for name in row.methods if name != "full"]
    wishes += [("lora", "trend-lora"), ("qlora", "trend-lora")]
    # At the same settings: a method that takes less memory is given larger micro-batches otherwise.
    first = tried["lora"][0]
    four_bit = needed(
        tried["qlora"][0].keys | {"objective": first.objective, "method": "qlora"}, first.fit, model, place
    )
    small = fits["lora"] and four_bit > (1 - SAVING) * first.fit.gib
    alike = {"qlora": four_bit, "lora": first.fit.gib}
    chosen = next((name for name, _ in wishes if fits[name] and not (name == "qlora" and small)), None)
    if chosen is None:
        raise _nothing_fits(question, road, gib)
    rows = [row for name, row in wishes if name == chosen]
    why = [f"{WORDS[chosen]} takes {gib[chosen]:.1f} of {question.place.budget / GIB:.1f} GiB in the largest stage"]
    overruled = [
        f"{row}: {WORDS[name]}; {_lost(name, chosen, gib, fits, alike)}" for name, row in wishes
        if name != chosen and row not in rows
    ]  # fmt: skip
    overruled += _about_memory(question, gib, fits)
    others = [_other(name, chosen, gib, fits, small) for name in TRIED if name != chosen]
    decision = Decision(
        "method", WORDS[chosen], list(dict.fromkeys(rows))[:4], why, list(dict.fromkeys(overruled)), others
    )
    return tried[chosen], decision


def _lost(name: str, chosen: str, gib: dict[str, float], fits: dict[str, bool], alike: dict[str, float]) -> str:
    """Why a row's method was not taken."""
    if not fits[name]:
        return f"it takes {gib[name]:.1f} GiB and does not fit, so the memory estimate wins"
    if METHODS[name].four_bit and alike[name] > (1 - SAVING) * alike["lora"]:
        saved = f"{alike[name]:.1f} GiB where LoRA takes {alike['lora']:.1f}"
        return f"it takes {saved} with the same settings, so the estimate wins: 4 bits save too little of a model this small"
    return f"both fit, and the row before it in the order purpose, data, memory wins ({WORDS[chosen]})"


def _other(name: str, chosen: str, gib: dict[str, float], fits: dict[str, bool], small: bool) -> str:
    if not fits[name]:
        return f"{WORDS[name]}: does not fit, it takes {gib[name]:.1f} GiB at least"
    takes = f"{WORDS[name]}: fits with {gib[name]:.1f} GiB"
    if METHODS[name].full:
        return f"{takes}; trend-full: only in special cases, and a model of its own for each run"
    if METHODS[name].four_bit:
        return f"{takes}; {'it saves too little' if small else 'LoRA fits'}, and 4 bits cost accuracy and time"
    return f"{takes}; more exact and faster, more memory than the row that was followed wants"


def _about_memory(question: Question, gib: dict[str, float], fits: dict[str, bool]) -> list[str]:
    """Where the table by memory contradicts itself or what was computed."""
    if question.place.device == "cpu":
        return ["the table by memory has no row for a machine without a GPU; the memory estimate decides alone"]
    rows, size = hardware_rows(question), question.source.billions
    said = []
    if not rows:
        said.append(
            f"the table by memory has no row for {question.place.memory:.3g} GB and {size:.3g}e9 parameters; the memory estimate "
            "decides alone"
        )
    if {"hardware-16-24", "hardware-24"} <= {row.id for row in rows}:
        said.append("hardware-16-24 and hardware-24 both speak of 24 GB; the memory estimate decides between them")
    for row in rows:
        if "full" in row.methods and not fits["full"]:
            said.append(
                f"{row.id}: full fine-tuning; it takes {gib['full']:,.0f} GiB and does not fit, so the memory estimate wins"
            )
        if "lora" in row.methods and "qlora" in row.methods and not fits["lora"]:
            said.append(
                f"{row.id}: LoRA; its weights in bf16 alone take {question.source.model.parameters * 2 / GIB:.0f} GiB"
            )
    return said


def _nothing_fits(question: Question, road: list[str], gib: dict[str, float]) -> UserError:
    least = min(TRIED, key=gib.get)
    have = f"{question.place.budget / GIB:.1f} GiB of {question.place.memory:.3g} GB"
    hint = f"take a smaller model, or a GPU of {gib[least] / 0.95:.0f} GB or more"
    more = {"ddp": "", "fsdp": ""} if question.place.gpus > 1 else {}
    if not more and METHODS["lora"].unsharded is None:
        hint += ", or several GPUs (--gpus)"
    problem = f"{WORDS[least]}, which takes the least, needs {gib[least]:.1f} GiB and there are {have}"
    return UserError("does-not-fit", f"{question.source.name} by {' and '.join(road)}", problem, hint)


# ---- everything else


def settings(question: Question, made: list[Stage]) -> list[Decision]:
    """What the rows, the adapter, batch and length are, and how the result is measured."""
    decided = [_of_data(question), *_of_adapter(made), _of_batch(question, made), _of_evaluation(question, made)]
    return decided


def _of_data(question: Question) -> Decision:
    data, overruled = data_row(question), []
    count = (question.examples or question.preferences).count
    if question.quality and question.quality != data.quality:
        named = next(row for row in DATA if row.quality == question.quality)
        overruled.append(f"{named.id} speaks of {question.quality} quality; the number of rows wins ({data.id})")
        if data.few_shot:
            overruled.append(
                f"{data.id} wants high quality: read results/data/examples/report.html and clean the rows first"
            )
    return Decision("data", f"{count:,} rows", [data.id], [], overruled, [])


def _of_adapter(made: list[Stage]) -> list[Decision]:
    first = made[0]
    if "rank" not in first.keys:
        return []
    rates = ", ".join(f"learning rate {stage.keys['learning_rate']:g} for {WORDS[stage.objective]}" for stage in made)
    choice = f"rank {first.keys['rank']}, alpha {first.keys['alpha']}, {rates}"
    why = ["set together: alpha / rank is 2 for every rank, so the rate falls with the root of the rank"]
    others = ["rank 64 for many rows, with half of the rate of rank 16; users report that 2e-4 diverges at rank 256"]
    rows = ["lora-rank", "lora-alpha", *(["lora-dropout"] if "dropout" in first.keys else []), "training-rate"]
    return [Decision("rank and rate", choice, rows, why, _slow(made), others)]


def _of_batch(question: Question, made: list[Stage]) -> Decision:
    why = []
    for stage in made:
        keys = stage.fit.keys
        each = max(1, stage.keys["batch_size"] // max(keys["gradient_accumulation_steps"], question.place.gpus))
        again = ", activations recomputed" if keys["gradient_checkpointing"] else ""
        shared = f", {stage.fit.strategy} on {question.place.gpus} GPUs" if stage.fit.strategy else ""
        why.append(
            f"{stage.name}: {each} at once, of at most {keys['max_length']} tokens{again}{shared}: {stage.fit.gib:.1f} GiB"
        )
        wanted = wanted_length(question, rows_of(question, stage.objective))
        if keys["max_length"] < wanted:
            why.append(f"{stage.name}: {wanted} tokens would suit the rows, and do not fit")
    epochs = made[0].keys["epochs"]
    choice = f"{made[0].keys['batch_size']} rows a step, {epochs} epoch{'s' * (epochs > 1)}"
    return Decision("batch and length", choice, ["training-batch", "training-epochs"], why, [], [])


def _of_evaluation(question: Question, made: list[Stage]) -> Decision:
    precision, gib = evaluated_in(question, made)
    if precision is None:
        why = [f"the whole model does not fit; in bf16 it takes {gib:.1f} GiB of the machine's memory"]
        return Decision("evaluation", "on the CPU", [], why, [], [])
    why = [f"its weights take {gib:.1f} GiB"] + (["in float32 they do not fit"] if precision == "bf16" else [])
    return Decision("evaluation", precision, [], why, [], [])


def _slow(made: list[Stage]) -> list[str]:
    low = tables.TRAINING_VALUES[0].low
    below = [stage.name for stage in made if stage.keys["learning_rate"] < low]
    return (
        [f"training-rate: {low:g} and more; {', '.join(below)} moves away from its parent, which takes a lower rate"]
        if below
        else []
    )


def claims(question: Question, made: list[Stage]) -> list[tuple[tables.Claim, str]]:
    """The guide's numbers about the chosen method, each with the same of this model by the estimate, at the recommended settings."""
    first, model, place = made[0], question.source.model, question.place
    row = METHODS[first.method]
    if not row.low_rank:
        return []
    spec = {"method": first.method, "target_modules": row.target_modules} | first.keys
    trained = trained_parameters(spec, model)
    run = {"objective": first.objective, "batch_size": first.keys["batch_size"]}
    full, plain = (
        needed(run | keys, first.fit, model, place)
        for keys in ({"method": "full"}, {"method": "lora", "rank": spec["rank"]})
    )
    here = {
        "claim-lora-share": f"{100 * trained / model.parameters:.2g} % at rank {spec['rank']}",
        "claim-adapter-size": f"{4e-6 * trained:,.0f} MB in float32",
        "claim-lora-memory": _less(plain, full),
    }
    if row.four_bit:
        here["claim-qlora-memory"] = _less(first.fit.gib, plain)
        here["claim-qlora-time"] = ""
    return [(claim, here[claim.id]) for claim in tables.CLAIMS if claim.id in here]


def _less(one: float, other: float) -> str:
    """
    >>> _less(1.0, 4.0), _less(5.0, 4.0)
    ('75 % less (1.0 and 4.0 GiB)', '25 % more (5.0 and 4.0 GiB)')
    """
    share = one / other - 1
    return f"{abs(share):.0%} {'more' if share > 0 else 'less'} ({one:.1f} and {other:.1f} GiB)".replace("%", " %", 1)


def says(ids: list[str]) -> dict[str, str]:
    """The guide's rows by their ids."""
    return {id: ROWS[id] for id in ids}
