"""What jobs ask a scheduler for."""

import pytest

from posttrain.objectives import OBJECTIVES
from posttrain.workflow import resources


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Records of earlier jobs, as a stage writes them."""
    monkeypatch.chdir(tmp_path)

    def write(rule, name, seconds, mb):
        file = tmp_path / f"results/logs/{rule}/{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\tmax_rss\tcpu_time\n{seconds}\t{mb}\t1.0\n")

    return write


def test_the_most_that_a_run_and_its_overrides_took_counts(logs):
    logs("sft", "sft_lora", 600, 5000)
    logs("sft", "sft_lora,rank=8", 1200, 4000)
    logs("sft", "sft_lora_large", 9000, 90000)
    record = resources.records("sft", "sft_lora,rank=64")
    assert record == resources.Record(mb=5000, seconds=1200)
    assert resources.memory("sft", record, 0, attempt=1) == 7500
    assert resources.minutes("sft", record, attempt=1) == 40


def test_tokens_are_recorded_by_base_and_dataset(logs):
    logs("tokens", "tiny/gsm8k,max_length=1024", 60, 3000)
    assert resources.records("tokens", "tiny/gsm8k") == resources.Record(3000, 60)
    assert resources.records("tokens", "other/gsm8k") is None


def test_without_a_record_the_base_counts():
    assert resources.memory("merge", None, int(1e9), attempt=1) == 6000 + 3 * 4000
    assert resources.memory("tokens", None, int(1e9), attempt=1) == 8000
    assert resources.minutes("sft", None, attempt=1) == 24 * 60


def test_another_attempt_gets_as_much_again_and_each_process_its_own():
    assert resources.memory("sft", None, 0, attempt=3, processes=2) == 6 * resources.memory("sft", None, 0, attempt=1)
    assert resources.minutes("eval", None, attempt=2) == 2 * resources.minutes("eval", None, attempt=1)


def test_no_job_asks_for_more_time_than_its_partition_has():
    assert resources.minutes("sft", None, attempt=1, longest=120) == 120


def test_a_small_job_asks_for_the_least():
    assert resources.memory("overlap", resources.Record(100, 2), 0, attempt=1) == resources.LEAST_MB
    assert resources.minutes("overlap", resources.Record(100, 2), attempt=1) == resources.LEAST_MINUTES


def test_a_base_that_is_not_built_yet_counts_nothing(tmp_path):
    assert resources.parameters(tmp_path) == resources.on_cpu({}, tmp_path) == 0


def test_each_objective_has_a_need():
    assert OBJECTIVES.keys() <= resources.NEEDS.keys()
