"""Cases: what makes an answer green or red, the forms of a file, and a sentence for each mistake in one."""

import unicodedata
from pathlib import Path

import pytest
import yaml

from posttrain.evaluation import cases
from posttrain.evaluation.cases import read
from posttrain.runtime.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write cases.yaml in the working folder; gives its path, which is relative as a configuration's are."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> Path:
        Path("cases.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return Path("cases.yaml")

    return write


def one(file, text: str) -> cases.Case:
    (case,) = read(file(text))
    return case


def test_a_file_in_all_its_forms(file):
    first, second, third = read(
        file("""
- prompt: What is the capital of France?
  must: Paris
- id: refund
  note: the shop's own rule
  system: You work for a shop.
  prompt:
    - {role: user, content: Hello}
    - {role: assistant, content: Hello!}
    - {role: user, content: "How long may I return things?"}
  must: [14 days, {regex: '\\bday(s)?\\b'}, 42, yes]
  must_not: [30 days]
  ignore_case: true
  max_new_tokens: 40
  required: true
- id: 날씨
  prompt: 서울 날씨 알려 줘
  tools: [{type: function, function: {name: get_weather, parameters: {type: object}}}]
  must_not: {regex: 모르}
""")
    )
    assert (first.id, first.turns) == ("1", [{"role": "user", "content": "What is the capital of France?"}])
    assert (first.must, first.must_not) == ([cases.Condition("Paris")], [])
    assert (first.ignore_case, first.max_new_tokens, first.required, first.tools) == (False, None, False, None)
    assert [turn["role"] for turn in second.turns] == ["system", "user", "assistant", "user"]
    assert [condition.text for condition in second.must] == ["14 days", r"\bday(s)?\b", "42", "yes"]
    assert [condition.is_pattern for condition in second.must] == [False, True, False, False]
    assert (second.ignore_case, second.max_new_tokens, second.required) == (True, 40, True)
    assert '"get_weather"' in third.tools and third.must_not == [cases.Condition("모르", is_pattern=True)]


GREEN = [
    ("must: [Paris]", "It is Paris."),
    ("must: [two words]", "The two\n  words."),
    ("must: ['is  Paris']", "It is Paris."),
    ("{must: [paris], ignore_case: true}", "PARIS"),
    ("{must: ['İSTANBUL', straße], ignore_case: true}", "İstanbul, STRASSE"),
    ("must_not: [paris]", "Paris"),
    (r"must: [{regex: '^\d+ days?$'}]", "14 days"),
    ("{must: [{regex: '^PAR'}], ignore_case: true}", "Paris"),
    ("must: [서울]", unicodedata.normalize("NFD", "답은 서울입니다.")),
    ("must: [{regex: '서울(은|는|이)?'}]", unicodedata.normalize("NFD", "서울은 맑음")),
    ("must_not: [secret]", "<think>The secret is 5.</think>\n\nI do not know."),
    ("must: [42]", "42"),
]
RED = [
    ("must: [paris]", "It is Paris.", "'paris' is missing"),
    ("must: [Paris, France]", "Paris", "'France' is missing"),
    ("must_not: [Paris]", "Paris", "'Paris' appears"),
    (r"must: [{regex: '^\d+$'}]", "It is 4", r"nothing matches /^\d+$/"),
    (r"must_not: [{regex: '[가-힣]'}]", "안녕", "something matches /[가-힣]/"),
    ("{must: [a], must_not: [b, c]}", "b c", "'a' is missing; 'b' appears; 'c' appears"),
    ("must: [Paris]", "<think>Paris</think> I do not know.", "'Paris' is missing"),
    ("must_not: [Paris]", "  \n", cases.EMPTY),
    ("must_not: [Paris]", "<think>It never ends", cases.EMPTY),
]


@pytest.mark.parametrize(("conditions", "answer"), GREEN)
def test_green(file, conditions, answer):
    case = one(file, yaml.safe_dump([{"prompt": "?"} | yaml.safe_load(conditions)], allow_unicode=True))
    assert cases.why(case, answer) == []
    assert cases.score([case], [answer]) == [{"passed": 1.0}]


@pytest.mark.parametrize(("conditions", "answer", "said"), RED)
def test_red_says_which_condition_failed(file, conditions, answer, said):
    case = one(file, yaml.safe_dump([{"prompt": "?"} | yaml.safe_load(conditions)], allow_unicode=True))
    assert cases.score([case], [answer]) == [{"passed": 0.0, "failed": said}]


WRONG = [
    ("", "cases.yaml: it is empty; write `- prompt: ...` with `must: [...]` below it"),
    ("prompt: hello", "cases.yaml: it is not a list of cases"),
    ("- hello", "cases.yaml line 1: the case is not a table"),
    ("- must: [a]", "cases.yaml line 1: the case has no prompt; write `prompt: ...`"),
    ("\n- prompt: a", "cases.yaml line 2: the case has no condition; write `must:` or `must_not:` with a list of texts"),
    ("- prompt: a\n  must: []", "cases.yaml line 1: the case has no condition"),
    ("- prompt: a\n  musst: [a]", "cases.yaml line 2: a case has no key 'musst'; did you mean 'must'?"),
    ("- prompt: a\n  must: a\n  must: b", "cases.yaml line 3: the key 'must' is written twice; remove one of the two"),
    ("- prompt:\n  must: a", "cases.yaml line 1: prompt: it is empty; write a text, or remove the key"),
    ("- prompt: a\n  must: ['']", "cases.yaml line 2: must: it is empty"),
    ("- prompt: a\n  must: [~]", "cases.yaml line 2: must: it is empty"),
    ("- prompt: a\n  must: [{regexp: a}]", "cases.yaml line 2: must: a condition is neither a text nor a table with the one"),
    ("- prompt: a\n  must: [[a]]", "cases.yaml line 2: must: a condition is neither a text nor a table with the one"),
    ("- prompt: a\n  must: [{regex: '('}]", "cases.yaml line 2: must: '(' is not a regular expression: missing )"),
    ("- {id: x, prompt: a, must: a}\n- {id: x, prompt: b, must: b}", "cases.yaml line 2: the id 'x' is already used in line 1"),
    ("- {id: [x], prompt: a, must: a}", "cases.yaml line 1: id: it is not a text"),
    ("- {prompt: {a: b}, must: a}", "cases.yaml line 1: prompt: the prompt is an object; write a string"),
    ("- {prompt: [{role: user}], must: a}", "message 1 of 'prompt' needs the fields role and content"),
    ("- {prompt: [{role: assistant, content: a}], must: a}", "cases.yaml line 1: prompt: 'prompt' ends with the assistant"),
    ("- {prompt: [{role: human, content: a}, {role: user, content: b}], must: a}", "messages 1 and 2 are both the user's"),
    ("- {system: a, prompt: [{role: system, content: b}, {role: user, content: c}], must: a}", "has a system message"),
    ("- {prompt: a, must: a, tools: [1]}", "cases.yaml line 1: tools: the value is a list; write a list of objects"),
    ("- {prompt: a, must: a, tools: [!!python/name:os.system ]}", "tools: it is not a plain value"),
    ("- {prompt: a, must: a, ignore_case: maybe}", "cases.yaml line 1: ignore_case: it is neither true nor false"),
    ("- {prompt: a, must: a, max_new_tokens: 0}", "cases.yaml line 1: max_new_tokens: it is not a number of tokens"),
    ("- prompt: [a", "cases.yaml line 1: it is not YAML: expected ',' or ']'"),
    (b"- prompt: \xff", "cases.yaml: not UTF-8 at byte 11; save the file as UTF-8"),
    ("- &a [*a]", "cases.yaml line 1: the case is not a table"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_a_bad_file_is_one_sentence(file, text, sentence):
    with pytest.raises(UserError) as error:
        read(file(text))
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert error.value.code in ("invalid-case", "invalid-yaml", "not-utf8")


def test_a_file_that_is_too_large_is_not_read(file):
    with pytest.raises(UserError, match=r"larger than 1,048,576 bytes; write fewer cases, or several files"):
        read(file("#" * (cases.MAX_BYTES + 1)))


def test_results_are_those_of_the_suites_of_cases(file):
    path = file("- {id: a, prompt: a, must: x, required: true}\n- {id: b, prompt: b, must: y, note: why}")
    suites = {"mine": {"kind": "cases", "path": str(path)}, "safe": {"kind": "safety"}}
    rows = [
        {"suite": "mine", "id": "b", "output": "<think>y</think>no", "passed": 0.0, "failed": "'y' is missing"},
        {"suite": "mine", "id": "a", "output": "x", "passed": 1.0},
    ]
    assert cases.results(suites, rows) == {
        "mine": [
            {"id": "a", "prompt": "a", "answer": "x", "passed": True, "failed": None, "required": True},
            {"id": "b", "prompt": "b", "answer": "no", "passed": False, "failed": "'y' is missing", "required": False, "note": "why"},
        ]
    }  # fmt: skip
    assert cases.results(suites, []) == {}


# ---- calls

TOOLS = "[{type: function, function: {name: GetWeather}}, {type: function, function: {name: PlayMusic}}]"
OSLO = '<tool_call>{"name": "GetWeather", "arguments": {"days": 3.0, "city": "Oslo"}}</tool_call>'
IN_XML = "<function=GetWeather><parameter=city>Oslo</parameter><parameter=days>3</parameter></function>"
MUSIC = '<tool_call>{"name": "PlayMusic", "arguments": {}}</tool_call>'
CALLS = [
    ("{name: GetWeather, arguments: {city: Oslo, days: 3}}", OSLO, ""),
    ("{name: GetWeather, arguments: {city: Oslo, days: 3}}", IN_XML, ""),
    ("{name: GetWeather}", OSLO, ""),
    ("{name: GetWeather, arguments: {city: Rome}}", OSLO, 'the arguments are {"days": 3.0, "city": "Oslo"}'),
    ("{name: PlayMusic}", OSLO, "it calls GetWeather, not PlayMusic"),
    ("{name: GetWeather}", "Which city?", "it calls nothing, not GetWeather"),
    ("{name: GetWeather}", OSLO[:-5], "it tries to call a function, in no form that is read"),
    ("[{name: PlayMusic}, {name: GetWeather, arguments: {city: Oslo, days: 3}}]", f"{OSLO}{MUSIC}", ""),
    ("[{name: PlayMusic}, {name: GetWeather}]", OSLO, "it calls GetWeather, not PlayMusic and GetWeather"),
    ("none", "Which city?", ""),
    ("none", OSLO, "it calls GetWeather, not nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "answer", "said"), CALLS)
def test_an_expected_call(file, call, answer, said):
    case = one(file, f"- {{prompt: Weather, tools: {TOOLS}, call: {call}}}")
    assert cases.why(case, answer) == ([said] if said else [])
    assert cases.why(case, f"<think>Hm. {MUSIC}</think>{answer}") == ([said] if said else [])


WRONG_CALLS = [
    ("{name: GetWether}", "'GetWether' is not among the case's tools; did you mean 'GetWeather'?"),
    ("{arguments: {}}", "it is no call; write {name: ..., arguments: {...}}, a list of those, or none"),
    ("{name: GetWeather, arguments: 3}", "the arguments of GetWeather are not a table"),
    ("[]", "it is empty; write"),
    ("~", "the value is null|write"),
    ("GetWeather", "write {name"),
]


@pytest.mark.parametrize(("call", "sentence"), WRONG_CALLS)
def test_a_wrong_call_is_one_sentence(file, call, sentence):
    with pytest.raises(UserError, match=sentence.replace("{", "[{]").replace("?", "[?]")):
        read(file(f"- {{prompt: Weather, tools: {TOOLS}, call: {call}}}"))
