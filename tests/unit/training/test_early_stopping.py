"""When a training ends and which step it keeps, and which plans are refused before anything is trained."""

import json

import pytest
from conftest import refused

from posttrain.config import measuring
from posttrain.runtime.errors import UserError
from posttrain.training import early_stopping
from posttrain.training.early_stopping import Decision, decide, faults, plan
from posttrain.workflow.project import Project


def planned(**keys):
    table = {"metric": "loss", "patience": 2, "min_change": 0.0}
    return plan({"objective": "sft", "keep": "best", "early_stopping": table | keys})


def after(values: list[float], **keys) -> Decision | None:
    """What follows from values that were measured at steps 10, 20, ..."""
    return decide(planned(**keys), [(10 * i, value) for i, value in enumerate(values, 1)])


DECISIONS = [  # loss: lower is better
    ([3.0], {}, Decision(10, 3.0, False)),
    ([3.0, 2.0, 1.0], {}, Decision(30, 1.0, False)),
    ([3.0, 2.0, 2.5], {}, Decision(20, 2.0, False)),
    ([3.0, 2.0, 2.5, 2.2], {}, Decision(20, 2.0, True)),
    ([3.0, 2.0, 2.5, 1.9, 2.0], {}, Decision(40, 1.9, False)),
    ([2.0, 2.0, 2.0], {}, Decision(10, 2.0, True)),  # the first of equal ones
    ([3.0, 2.9, 2.8], {"min_change": 0.15}, Decision(30, 2.8, False)),  # two small ones make an improvement
    ([3.0, 2.95, 2.9], {"min_change": 0.15}, Decision(30, 2.9, True)),  # too small to go on for, and kept all the same
    ([3.0, 4.0, 5.0, 6.0], {"patience": None}, Decision(10, 3.0, False)),
    ([0.5, 0.7, 0.6], {"metric": "token_accuracy"}, Decision(20, 0.7, False)),
    ([0.5, 0.7, 0.6, 0.1], {"metric": "token_accuracy"}, Decision(20, 0.7, True)),
]


@pytest.mark.parametrize(("values", "keys", "decision"), DECISIONS)
def test_what_follows_from_the_measurements(values, keys, decision):
    assert after(values, **keys) == decision


def test_before_the_first_measurement_nothing_follows():
    assert after([]) is None


def test_the_measurements_are_found_in_the_log_of_the_trainer():
    log = [
        {"step": 1, "loss": 2.0},
        {"step": 1, "eval_loss": 1.9},
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval_loss": 1.5},
    ]
    assert early_stopping.measured(planned(), log) == [(1, 1.9), (2, 1.5)]


@pytest.mark.parametrize(
    ("steps", "every", "between", "count"),
    [(100, None, 10, 10), (95, None, 10, 10), (7, None, 1, 7), (1, None, 1, 1), (100, 30, 30, 4), (90, 30, 30, 3)],
)
def test_there_are_ten_measurements_or_one_after_every_so_many_steps_and_the_last(steps, every, between, count):
    found = planned()._replace(every=every)
    assert (found.steps_between(steps), found.measurements(steps)) == (between, count)


# ---- the keys


@pytest.fixture
def spec(configuration):
    """The part of a run's spec that is about measuring."""

    def made(**keys) -> dict:
        table = {"from": "base", "objective": "sft", "data": "chats"} | keys
        data = {
            "lines": {"path": "a.txt", "format": "text"},
            "labels": {"path": "a.csv", "format": "unpaired_preference"},
        }
        changes = {f"datasets.{name}": table for name, table in data.items()}
        found = Project(configuration({"runs": {"run": table}, "sweeps": {}} | changes))
        return {key: value for key, value in json.loads(found.spec("run")).items() if key in set(measuring.KEYS)}

    return made


def test_a_spec_has_the_keys_that_act_and_no_others(spec):
    assert spec() == spec(keep="last") == {}
    assert spec(keep="best") == {"keep": "best"}
    assert spec(measure_every=5) == {"measure_every": 5}
    table = {"metric": "loss", "patience": 3, "min_change": 0.0}
    assert (
        spec(early_stopping={}) == spec(early_stopping={"metric": "loss"}) == {"early_stopping": table, "keep": "best"}
    )
    assert spec(early_stopping={}, keep="last", measure_rows=7) == {"early_stopping": table, "measure_rows": 7}
    rouge = {"metric": "rougeL", "patience": 3, "min_change": 0.0, "max_new_tokens": 128}
    assert spec(early_stopping={"metric": "rougeL"}) == {"early_stopping": rouge, "keep": "best"}


RULE = {"function": "final_number"}
METRIC = "early_stopping.metric"
REFUSED = [  # keys, code, place in the run
    ({"measure_rows": 5}, "key-without-effect", "measure_rows"),
    ({"keep": "bst"}, "invalid-value", "keep"),
    ({"early_stopping": {"patienc": 2}}, "unknown-key", "early_stopping.patienc"),
    ({"early_stopping": {"metric": "los"}}, "unknown-name", METRIC),
    ({"early_stopping": {"metric": "bleu"}}, "unknown-name", METRIC),
    ({"early_stopping": {"metric": "loss"}, "objective": "grpo", "reward": RULE}, "unknown-name", METRIC),
    ({"early_stopping": {"metric": "a.py:f"}, "objective": "reward", "data": "pairs"}, "unknown-name", METRIC),
    ({"early_stopping": {"max_new_tokens": 5}}, "key-without-effect", "early_stopping.max_new_tokens"),
    (
        {"early_stopping": {"max_new_tokens": 5}, "objective": "grpo", "reward": RULE},
        "key-without-effect",
        "early_stopping.max_new_tokens",
    ),
    ({"early_stopping": {"metric": "rougeL"}, "max_length": 128}, "conflicting-keys", "max_length"),
    ({"keep": "best", "method": "adalora"}, "unsupported-combination", "keep"),
    ({"measure_every": 50, "max_steps": 20}, "conflicting-keys", "measure_every"),
    ({"early_stopping": {}, "max_steps": 4}, "conflicting-keys", "early_stopping"),
    ({"early_stopping": {"metric": "rougeL"}, "data": "lines"}, "wrong-dataset-type", METRIC),
    ({"early_stopping": {"metric": "rougeL"}, "data": "labels", "objective": "kto"}, "wrong-dataset-type", METRIC),
]


@pytest.mark.parametrize(("keys", "code", "place"), REFUSED)
def test_what_cannot_be_measured_is_refused_when_the_configuration_is_read(spec, keys, code, place):
    with refused(code, f"runs.run.{place}"):
        spec(**keys)


@pytest.mark.parametrize("key", [{"keep": "best"}, {"early_stopping": {}}, {"measure_every": 5}])
def test_without_held_out_rows_nothing_can_be_measured(configuration, key):
    table = {"from": "base", "objective": "sft", "data": "chats"} | key
    changes = {"runs": {"run": table}, "sweeps": {}, "datasets.chats.validation": 0}
    with pytest.raises(
        UserError, match=rf"runs.run.{next(iter(key))}: chats holds no rows out to measure; write validation: 0.1"
    ):
        Project(configuration(changes))
    parts = {"mixed": {"mix": {"chats": {}}}, "chats": changes["datasets.chats.validation"]}
    changes = {"runs": {"run": table | {"data": "mixed"}}, "sweeps": {}, "datasets.mixed": parts["mixed"]}
    with pytest.raises(UserError, match="chats holds no rows out"):
        Project(configuration(changes | {"datasets.chats.validation": 0}))
    assert Project(configuration(changes)).run("run").run.data == "mixed"


def test_a_metric_of_the_users_own_is_in_the_spec_with_the_file_it_imports(configuration, in_folder):
    (in_folder / "mine.py").write_text("import words\n\ndef kind(answer, reference):\n    return words.worth(answer)\n")
    (in_folder / "words.py").write_text("def worth(answer):\n    return 1\n")
    table = {"from": "base", "objective": "sft", "data": "chats", "early_stopping": {"metric": "mine.py:kind"}}

    def project() -> Project:
        return Project(configuration({"runs": {"run": table}, "sweeps": {}}))

    found = project()
    assert found.inputs.metric("run") == ["mine.py", "words.py"]
    assert found.held_out_file("run") == ["results/data/chats/validation.parquet"]
    (in_folder / "words.py").write_text("def worth(answer):\n    return 2\n")
    assert project().spec("run") != found.spec("run")
    table["early_stopping"] = {"metric": "mine.py:kin"}
    (in_folder / "base").mkdir()
    with pytest.raises(
        UserError, match=r"runs.run.early_stopping.metric: mine.py has no function 'kin'; did you mean 'kind'"
    ):
        project().check_targets(["results/run/spec.json"])


def test_a_metric_that_is_called_as_one_of_the_trainers_numbers_has_a_name_of_its_own():
    table = {"metric": "mine.py:reward", "patience": 3}
    assert plan({"objective": "grpo", "early_stopping": table}).logged == "eval_own_reward"
    assert plan({"objective": "grpo", "early_stopping": {"metric": "mine.py:kind"}}).logged == "eval_kind"
    assert plan({"objective": "grpo", "keep": "best"}).logged == "eval_reward"


# ---- before training

STEPS = [  # keys, rows, whether pairs -> steps, ppo: rollouts
    ({"objective": "sft"}, 100, False, 13),
    ({"objective": "sft", "epochs": 2.0}, 100, False, 25),
    ({"objective": "sft", "max_steps": 7}, 100, False, 7),
    ({"objective": "kto"}, 100, True, 25),
    ({"objective": "kto"}, 100, False, 13),
    ({"objective": "grpo", "generations": 4}, 100, False, 50),
    ({"objective": "grpo", "generations": 4, "minibatches": 2}, 100, False, 100),
    ({"objective": "ppo", "minibatches": 2}, 100, False, 12),
    ({"objective": "ppo"}, 100, False, 12),
]


@pytest.mark.parametrize(("keys", "rows", "are_pairs", "steps"), STEPS)
def test_how_long_a_training_is_is_known_before_it(keys, rows, are_pairs, steps):
    assert early_stopping.steps({"epochs": 1.0, "max_steps": None, "batch_size": 8} | keys, rows, are_pairs) == steps


def found(held_out: int, evaluated: int, steps: int = 100, **keys) -> list[tuple[str, str]]:
    spec = {
        "objective": "sft",
        "data": {"name": "chats"},
        "early_stopping": {"metric": "loss", "patience": 3},
        "keep": "best",
    }
    return list(faults(spec | keys, steps, held_out, evaluated))


def test_a_plan_is_held_against_the_rows():
    assert found(200, 100) == found(1000, 100) == found(100, 0) == []
    ((severity, text),) = found(0, 100)
    assert severity == "error" and text.startswith("chats holds no row out to measure")
    ((severity, text),) = found(200, 100, steps=4)
    assert severity == "error" and "patience 3 can never end a training of 4 steps" in text
    ((severity, text),) = found(29, 0)
    assert severity == "warning" and "measured on 29 held-out rows, so that chance may choose" in text
    ((severity, text),) = found(150, 100)
    assert severity == "warning" and text.startswith(
        "50 of the 100 held-out rows by which the step is chosen are evaluated as well"
    )
    assert found(150, 100, measure_rows=50) == []
    assert found(20, 100, early_stopping={"patience": None}, keep="last") == []  # nothing is chosen by it


def test_what_came_of_it_is_told_in_words():
    table = {"metric": "loss", "rows": 30, "measurements": 7, "best": {"step": 40, "value": 1.25}, "kept_step": 40}
    assert early_stopping.in_words(table | {"stopped_at": 70, "planned_steps": 1000}) == (
        "Of 7 measurements, loss of 30 held-out rows was best at step 40 (1.25). Training stopped early, after step 70 of 1,000. "
        "The model is that of step 40."
    )
    assert early_stopping.in_words(None) == ""
