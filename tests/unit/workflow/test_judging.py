"""Suites with a judge in a configuration: who is compared with whom, what is refused, what their specs depend on."""

import json

import pytest
from conftest import refused

from posttrain.workflow import judging
from posttrain.workflow.project import Project

ENDPOINT = {"base_url": "https://host/v1", "model": "large"}
BETTER = {"kind": "judge", "data": "chats", "by": "other"}
REWARD = {"from": "base", "objective": "reward", "data": "pairs"}


@pytest.fixture
def project(configuration):
    """The small configuration with a second base and a suite; changes of the suite first."""

    def made(suite: dict | None = None, **changes) -> Project:
        values = {k: v for k, v in (BETTER | (suite or {})).items() if v is not ...}
        changes = {
            "bases.other": {"source": "path", "path": "other"},
            "runs.follow": ...,
            "evaluation.suites.better": values,
        } | changes
        return Project(configuration(changes))

    return made


def compared(project: Project) -> dict[str, tuple]:
    found = {}
    for name in [*project.config.bases, *project.config.runs]:
        for pair in judging.pairs(project.graph, name):
            found[name] = (pair.other, pair.judge, tuple(pair.related))
    return found


# ---- who is compared with whom


def test_a_run_is_compared_with_its_parent_and_a_base_with_nothing(project):
    assert compared(project()) == {
        "sft": ("base", "other", ()), "dpo": ("sft", "other", ()), "full": ("base", "other", ()),
    }  # fmt: skip


def test_against_names_the_other_of_every_model_but_itself(project):
    found = compared(project({"against": "sft", "by": ..., "endpoint": ENDPOINT}))
    assert found == dict.fromkeys(("base", "other", "dpo", "full"), ("sft", None, ()))


def test_a_judge_of_the_same_base_is_related_and_does_not_judge_itself(project):
    found = compared(project({"by": "full"}))
    assert found == {name: (other, "full", (name, other)) for name, other in (("sft", "base"), ("dpo", "sft"))}
    assert compared(project({"by": "full", "allow_self": True}))["full"] == ("base", "full", ("full", "base"))


def test_a_reward_model_is_not_judged_and_judges_nothing(project):
    assert "reward" not in compared(project(**{"runs.reward": REWARD}))
    for key in ("by", "against"):
        with refused("wrong-judge", f"evaluation.suites.better.{key}"):
            project({key: "reward"}, **{"runs.reward": REWARD})


# ---- what is refused


@pytest.mark.parametrize("by", ["base", "sft"])
def test_a_judge_of_its_own_answers_is_refused_unless_it_is_allowed(project, by):
    with refused("wrong-judge", "evaluation.suites.better.by"):
        project({"by": by})
    assert compared(project({"by": by, "allow_self": True}))


@pytest.mark.parametrize(
    ("suite", "code", "place"),
    [
        ({"by": ...}, "missing-key", "by"),
        ({"by": "othr"}, "unknown-name", "by"),
        ({"against": "nobody"}, "unknown-name", "against"),
        ({"endpoint": ENDPOINT}, "conflicting-keys", "endpoint"),
        ({"by": ..., "endpoint": ENDPOINT, "allow_self": True}, "key-without-effect", "allow_self"),
        ({"instruction": "none.txt"}, "missing-file", "instruction"),
        ({"data": "nothing"}, "unknown-name", "data"),
        ({"by": ..., "endpoint": ENDPOINT | {"base_url": "host/v1"}}, "invalid-value", "endpoint.base_url"),
        ({"by": ..., "endpoint": ENDPOINT | {"base_url": "file:///etc"}}, "invalid-value", "endpoint.base_url"),
        ({"by": ..., "endpoint": ENDPOINT | {"base_url": "https://h/v1?key=x"}}, "invalid-value", "endpoint.base_url"),
        (
            {"by": ..., "endpoint": ENDPOINT | {"base_url": "https://u:p@h/v1"}},
            "secret-in-configuration",
            "endpoint.base_url",
        ),
        ({"by": ..., "endpoint": ENDPOINT | {"key": "x"}}, "unknown-key", "endpoint.key"),
        ({"by": ..., "endpoint": ENDPOINT | {"key_env": "sk-x"}}, "invalid-value", "endpoint.key_env"),
        ({"by": ..., "endpoint": ENDPOINT | {"max_cost": 1}}, "missing-key", "endpoint.max_cost"),
        ({"by": ..., "endpoint": ENDPOINT | {"concurrency": 0}}, "invalid-value", "endpoint.concurrency"),
    ],
)
def test_a_suite_that_cannot_work_is_refused(project, suite, code, place):
    with refused(code, f"evaluation.suites.better.{place}"):
        project(suite)


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "invalid-value"), (b" \n", "invalid-value"), (b"\xff", "not-utf8"), (b"x" * 30_000, "invalid-value")],
)
def test_an_instruction_is_a_short_text(project, in_folder, content, code):
    (in_folder / "told.txt").write_bytes(content)
    with refused(code, "evaluation.suites.better.instruction"):
        project({"instruction": "told.txt"})


# ---- specs


def specs(project: Project, name: str = "dpo") -> tuple[str, str]:
    return project.spec(f"{name}/eval"), project.spec(f"{name}/judge")


def test_who_judges_and_how_is_in_the_judge_s_spec_only(project, in_folder):
    (in_folder / "told.txt").write_text("Prefer brevity.")
    evaluation, judge = specs(project())
    for change in ({"against": "base"}, {"by": "full"}, {"by": ..., "endpoint": ENDPOINT}, {"instruction": "told.txt"}):
        again = specs(project(change))
        assert again[0] == evaluation and again[1] != judge
    told = specs(project({"instruction": "told.txt"}))
    (in_folder / "told.txt").write_text("Prefer depth.")
    assert specs(project({"instruction": "told.txt"}))[1] != told[1]
    for change in ({"limit": 7}, {"max_new_tokens": 9}):
        again = specs(project(change))
        assert again[0] != evaluation and again[1] != judge


def test_prices_limits_and_the_key_s_name_are_in_no_spec(project):
    by = {"by": ..., "endpoint": ENDPOINT}
    more = ENDPOINT | {
        "key_env": "JUDGE_KEY", "price_per_million_input": 1, "price_per_million_output": 2, "max_cost": 3, "concurrency": 9, "timeout": 5,
    }  # fmt: skip
    assert specs(project(by)) == specs(project(by | {"endpoint": more}))
    assert specs(project(by)) != specs(project(by | {"endpoint": ENDPOINT | {"max_tokens": 5}}))
    assert json.loads(specs(project(by))[1])["suites"]["better"]["endpoint"] == ENDPOINT | {"max_tokens": 256}


def test_the_other_s_training_is_part_of_it(project):
    assert specs(project()) != specs(project(**{"runs.sft.rank": 4}))
    before, after = (
        specs(project({"against": "full"}))[1],
        specs(project({"against": "full"}, **{"runs.full.epochs": 7}))[1],
    )
    assert before != after


def test_a_judged_file_is_a_target_only_where_something_is_judged(project, configuration, in_folder):
    for name in ("base", "other", "chats.jsonl", "pairs.jsonl", "held_out.jsonl"):
        (in_folder / name).touch() if "." in name else (in_folder / name).mkdir()
    target = ["results/sft/judge/verdicts.jsonl"]
    assert project().check_targets(target) == []
    with refused("unknown-target"):
        Project(configuration()).check_targets(target)
