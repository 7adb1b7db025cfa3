"""How long a job takes: by the nearest records, else by the probe, else by the table."""

import pytest

from posttrain.planning.records import Measured
from posttrain.planning.timing import FACTORS, GUESSED, START, Known, Machine, estimate, typical
from posttrain.planning.work import COPY, SCORE, TRAIN, Work

MACHINE = Machine(None, 2, True)
WORK = Work(TRAIN, 1e12)


def measured(
    job: str, seconds: float, amount: float, base: str = "base", method: str = "lora", kind: str = TRAIN
) -> Measured:
    return Measured(job, job.partition("/")[0], seconds, 1000.0, Work(kind, amount), base, method)


def known(*records: Measured, probe: dict | None = None) -> Known:
    return Known(list(records), MACHINE, probe)


def of(work: Work, *records: Measured, rule: str = "sft", run: str = "sft_lora", probe: dict | None = None):
    return estimate(rule, run, work, "base", "lora", known(*records, probe=probe))


def test_the_same_work_takes_what_it_took():
    found = of(WORK, measured("sft/sft_lora,seed=1", 60.0, 1e12))
    assert (round(found.seconds), found.source, found.basis) == (60, "record", "sft of sft_lora, 1 job")


def test_twice_the_work_takes_twice_what_is_not_its_start():
    found = of(Work(TRAIN, 2e12), measured("sft/sft_lora,seed=1", 60.0, 1e12))
    assert found.seconds == pytest.approx(START["sft"] + 2 * (60 - START["sft"]))


def test_records_that_differ_in_work_tell_the_start_as_well():
    records = [
        measured(f"sft/sft_lora,seed={i}", 40 + 1e-11 * amount, amount)
        for i, amount in enumerate((1e11, 5e11, 4e12) * 9)
    ]
    assert of(Work(TRAIN, 1e12), *records).seconds == pytest.approx(50, rel=0.02)


def test_less_time_for_more_work_is_noise_and_makes_no_time_below_zero():
    records = measured("sft/sft_lora,seed=1", 60.0, 1e12), measured("sft/sft_lora,seed=2", 10.0, 4e12)
    assert 10 < of(Work(TRAIN, 1e13), *records).seconds < 60


def test_the_nearest_records_are_taken():
    records = [
        measured("sft/sft_lora,seed=1", 60.0, 1e12),
        measured("sft/other", 90.0, 1e12),
        measured("sft/small", 20.0, 1e12, base="small"),
        measured("dpo/dpo_lora", 120.0, 1e12),
        measured("eval/sft_lora", 3.0, 1e12, kind=SCORE),
    ]
    sources = []
    for start in range(len(records) + 1):
        found = of(WORK, *records[start:])
        sources.append((found.source, round(found.seconds) if found.source != "formula" else None))
    assert sources == [
        ("record", 60), ("similar run", 90), ("similar run", 20), ("other job", 120), ("formula", None), ("formula", None),
    ]  # fmt: skip


def test_a_full_training_is_not_like_an_adapter_s():
    found = estimate("merge", "full", Work(COPY, 1e8), "base", "full", known(
        measured("merge/a", 2.0, 1e8, method="full", kind=COPY), measured("merge/b", 40.0, 1e8, kind=COPY)
    ))  # fmt: skip
    assert found.seconds == pytest.approx(2.0, abs=0.5)


def test_a_probe_comes_before_the_table():
    found = of(WORK, probe={TRAIN: 1e11, SCORE: 1e11})
    assert (found.seconds, found.source, found.basis) == (START["sft"] + 10, "probe", "100 GFLOP/s measured here")
    assert of(WORK).seconds == START["sft"] + 1e12 / typical(MACHINE, TRAIN)


def test_what_rests_on_less_has_a_wider_range():
    found = of(WORK, measured("sft/sft_lora,seed=1", 60.0, 1e12))
    assert found.high / found.seconds == found.seconds / found.low == pytest.approx(FACTORS["record"])
    guessed = of(WORK._replace(known=False), measured("sft/sft_lora,seed=1", 60.0, 1e12))
    assert guessed.high / guessed.seconds == pytest.approx(FACTORS["record"] * GUESSED)


def test_a_model_of_unknown_size_has_no_time():
    assert of(Work(TRAIN, None), measured("sft/sft_lora,seed=1", 60.0, 1e12)).seconds is None


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
    ],
)
def test_a_gpu_is_known_by_its_name(gpu, peak):
    assert typical(Machine(gpu, 8, True), TRAIN) == 0.35 * peak
