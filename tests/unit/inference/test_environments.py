"""Environments: what a class must have, what its tools give, and how far the built-in ones go."""

import json
from pathlib import Path

import pytest
from conftest import refused

from posttrain.inference.environments import Environment

OWN = '''
class World:
    def reset(self, goal, seed):
        self.goal, self.seed = goal, seed
        {reset}

    def look(self, place: str) -> str:
        """Look somewhere.

        Args:
            place: where
        """
        {look}

    def get_reward(self, answer):
        {reward}
'''


@pytest.fixture
def own(in_folder):
    """An environment of the user's with these bodies of its methods."""

    def make(reset="pass", look="return place", reward="return 1", text=OWN) -> Environment:
        file = Path(f"world_{abs(hash((reset, look, reward, text)))}.py")
        file.write_text(text.replace("{reset}", reset).replace("{look}", look).replace("{reward}", reward))
        return Environment(f"{file}:World")

    return make


def called(environment: Environment, task: dict, tool: str, seconds: float = 5, **arguments) -> tuple[str, bool]:
    return environment.call(environment.begin(json.dumps(task), 1)[0], tool, arguments, seconds)


# ---- classes


def test_tools_are_described_by_their_type_hints_and_docstrings(own):
    (tool,) = json.loads(own().schemas)
    assert tool["function"]["name"] == "look" and tool["function"]["description"] == "Look somewhere."
    assert tool["function"]["parameters"]["properties"] == {"place": {"type": "string", "description": "where"}}


def test_an_object_gets_its_task_and_its_seed_and_may_add_to_the_prompt(own):
    environment = own(reset="return f'{goal} {seed}'")
    assert environment.begin('{"goal": "a"}', 7)[1] == "a 7"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("def reset", "def begin"), "has no method `reset`; "),
        (("def get_reward", "def reward"), "has no method `get_reward`; "),
        (("def look", "def _look"), "has no tool; "),
        (("def look", "async def look"), "has the coroutine `look`; "),
        (("place: str", "place"), "has the tool `look` that cannot be described"),
        (("place: where", ""), "has the tool `look` that cannot be described"),
    ],
)
def test_a_class_that_lacks_something_is_one_sentence(own, change, words):
    with refused("invalid-environment", "environment") as error:
        own(text=OWN.replace(*change))
    assert words in str(error.value)


def test_a_file_or_class_that_is_not_there_is_one_sentence(in_folder):
    with refused("invalid-function", "environment"):
        Environment("none.py:World")
    Path("worlds.py").write_text("class World: pass\n")
    with refused("invalid-function", "environment") as error:
        Environment("worlds.py:Wrld")
    assert "did you mean 'World'?" in str(error.value)


@pytest.mark.parametrize(
    ("bodies", "words"),
    [
        ({"reset": "raise KeyError('goal')"}, "failed in `reset` for the task '{\"goal\": 1}': KeyError: 'goal'"),
        ({"reset": "return 3"}, "returned '3' from `reset`; return a text, or None"),
        (
            {"reward": "return 1 / 0"},
            "failed in `get_reward` for the answer 'Yes': ZeroDivisionError: division by zero",
        ),
        ({"reward": "return 'much'"}, "returned ''much'' from `get_reward`; return a finite number"),
        ({"reward": "return float('nan')"}, "returned 'nan' from `get_reward`; return a finite number"),
    ],
)
def test_what_reset_and_the_reward_do_wrong_stops_the_run(own, bodies, words):
    environment = own(**bodies)
    with refused("invalid-environment", "environment") as error:
        environment.reward(environment.begin('{"goal": 1}', 1)[0], "Yes")
    assert words in str(error.value)


def test_what_a_tool_does_wrong_is_told_to_the_model(own):
    task = {"goal": 1}
    assert called(own(look="return {'a': 1}"), task, "look", place="here") == ('{"a": 1}', False)
    assert called(own(look="raise ValueError('closed')"), task, "look", place="here") == ("error: closed", True)
    assert called(own(), task, "lok", place="here") == ("error: there is no tool 'lok'; there are look", True)
    assert called(own(), task, "look", where="here")[0].startswith("error: look: missing a required argument: 'place'")
    assert called(own(), task, "get_reward", answer="1")[1] and called(own(), task, "reset", goal=2)[1]


def test_a_call_that_runs_too_long_is_ended_whatever_it_catches(own):
    endless = own(look="while True:\n            try: sum(range(10))\n            except Exception: pass")
    assert called(endless, {"goal": 1}, "look", seconds=0.2, place="a") == (
        "error: look took longer than 0.2 seconds",
        True,
    )


# ---- built in


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("47 * 35", "1645"),
        ("(1 + 2) / 4", "0.75"),
        ("6 / 3", "2"),
        ("-2 ** 2", "-4"),
        ("7 // 2 + 7 % 2", "4"),
        ("1 / 0", "error: division by zero"),
        ("9 ** 9 ** 9", "error: the power is too large"),
        ("(-1) ** 0.5", "error: the number is not real"),
        ("2 +", "error: this is no arithmetic expression"),
        ("().__class__", "error: only numbers, + - * / // % ** and parentheses are computed"),
        ("open('a')", "error: only numbers, + - * / // % ** and parentheses are computed"),
        ("'a' * 9", "error: only numbers, + - * / // % ** and parentheses are computed"),
        ("1+" * 150 + "1", "error: the expression has more than 200 characters"),
    ],
)
def test_the_calculator_computes_arithmetic_and_nothing_else(expression, result):
    assert called(Environment("calculator"), {"answer": 1}, "calculate", expression=expression)[0] == result


TABLES = {"people": [{"name": "Ada", "age": 36}, {"name": "Alan", "age": 41}], "left": [{"left": "x"}]}
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("SELECT age FROM people WHERE name = 'Ada'", "36"),
        ("SELECT name, age FROM people", '["Ada", 36]\n["Alan", 41]'),
        ("SELECT name FROM people WHERE age = 36", "Ada"),
        ("SELECT left FROM left", "x"),
        ("SELECT name FROM people WHERE age = 1", "(no rows)"),
        ("DELETE FROM people", "error: not authorized"),
        ("ATTACH 'people.db' AS other", "error: not authorized"),
        ("PRAGMA table_info(people)", "error: not authorized"),
        ("SELECT 1; SELECT 2", "error: You can only execute one statement at a time."),
        ("SELEC 1", 'error: near "SELEC": syntax error'),
        (ENDLESS, "error: the query takes too long"),
    ],
)
def test_the_database_answers_one_short_query_and_cannot_be_changed(sql, result):
    assert called(Environment("sqlite"), {"tables": TABLES, "answer": 36}, "query", sql=sql)[0] == result


def test_the_databases_tables_stand_in_the_prompt_and_its_rows_have_an_end():
    environment = Environment("sqlite")
    rows = {"numbers": [{"n": n} for n in range(60)]}
    world, seen = environment.begin(json.dumps({"tables": rows, "answer": 3}), 1)
    assert seen == "\nTables: numbers(n)"
    lines = environment.call(world, "query", {"sql": "SELECT n FROM numbers"}, 5)[0].splitlines()
    assert (len(lines), lines[-1]) == (51, "(more rows)")
    assert [environment.reward(world, text) for text in ("It is 3.", "13", "")] == [1, 0, 0]
