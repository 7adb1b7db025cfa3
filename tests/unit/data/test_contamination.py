"""Held-out rows among the training rows: which are found, which are not, and what is said of them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data import contamination as module
from posttrain.data.contamination import overlap
from posttrain.metrics.word_hashes import Runs, word_hashes, words

DATA = Path(__file__).resolve().parents[3] / "examples/data"
FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name")
TURNS = pa.list_(pa.struct([(field, pa.string()) for field in FIELDS]))
TYPES = {"text": pa.string(), "label": pa.bool_(), "images": pa.list_(pa.string())}

QUESTION = "A baker sells twelve loaves on Monday, nine on Tuesday, and keeps 4 for her sister; how many does she bake?"
ANSWER = "She bakes twelve and nine and four loaves, which makes 25 in all."
OTHER = "Please explain to me in a few words why the leaves of most trees turn yellow or red when autumn comes."
TEMPLATE = "You are given a problem from a school book. Think about each step, check it, and write down the result as a number:"


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def chat(*contents: str) -> dict:
    """A conversation in which user and assistant take turns."""
    return {"messages": [turn("user" if i % 2 == 0 else "assistant", content) for i, content in enumerate(contents)]}


def pair(question: str, chosen: str, rejected: str) -> dict:
    answers = {"chosen": [turn("assistant", chosen)], "rejected": [turn("assistant", rejected)]}
    return {"prompt": [turn("user", question)], **answers}


def lines(name: str) -> list[dict]:
    rows = [json.loads(line) for line in (DATA / f"gsm8k_{name}.jsonl").read_text().splitlines()]
    return [chat(row["question"], row["answer"]) for row in rows]


def write(path: Path, rows: list[dict], like: dict | None = None) -> Path:
    """Rows of one shape, named by their line."""
    named = [{"id": f"{path.stem}{i}", "place": f"{path.stem}.jsonl line {i}"} | row for i, row in enumerate(rows, 1)]
    names = ["id", "place", *(like or rows[0])]
    schema = [(name, pa.string() if name in ("id", "place") else TYPES.get(name, TURNS)) for name in names]
    pq.write_table(pa.Table.from_pylist(named, schema=pa.schema(schema)), path)
    return path


@pytest.fixture
def found(tmp_path: Path):
    """What `overlap` says of these rows."""

    def look(train: list[dict], held_out: list[dict]) -> dict:
        return overlap(write(tmp_path / "train.parquet", train), write(tmp_path / "held_out.parquet", held_out))

    return look


def counts(result: dict) -> tuple[int, int, int]:
    return result["exact"], result["shared"], result["train_rows"]


SHAPES = {
    "text": {"text": f"Some pages of a book. {QUESTION} {ANSWER} And so on."},
    "messages": {"messages": [turn("system", "Be kind."), turn("user", QUESTION), turn("assistant", ANSWER)]},
    "conversation": chat(OTHER, "Because of the light.", QUESTION, ANSWER, "Thanks!", "You are welcome."),
    "preference": pair(QUESTION, ANSWER, "None at all."),
    "unpaired_preference": {
        "prompt": [turn("user", QUESTION)],
        "completion": [turn("assistant", ANSWER)],
        "label": True,
    },
    "image_messages": chat(QUESTION, ANSWER) | {"images": ["a.png"]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_found_among_others_of_its_shape(found, shape):
    row = SHAPES[shape]
    other = json.loads(json.dumps(row).replace(QUESTION, OTHER).replace(ANSWER, "The green fades."))
    assert counts(found([other, row, other], [row])) == (1, 1, 1)
    assert counts(found([other, other], [row])) == (0, 0, 0)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "image_messages"])
def test_a_question_is_found_in_a_row_of_any_shape_whatever_the_answer(found, shape):
    assert counts(found([SHAPES[shape]], [chat(QUESTION, "Twenty-five.")])) == (1, 1, 1)


def test_the_problems_of_gsm8k_are_found_edited_and_not_in_others(found):
    def edit(text: str) -> str:
        parts = text.lower().replace(".", " ;").split()
        for i in range(9, len(parts), 20):
            parts[i] = "sometimes"
        return "Here is one more: " + " ".join(parts)

    train, test = lines("train"), lines("test")
    copies = [chat(edit(row["messages"][0]["content"]), "?") for row in test]
    assert counts(found(train, test)) == (0, 0, 0)
    assert counts(found([*train, *copies], test)) == (0, 20, 20)
    assert counts(found(train + test, test)) == (20, 20, 20)


def test_half_a_question_is_not_the_question(found):
    half = " ".join(QUESTION.split()[:12])
    assert counts(found([chat(f"{half} of them, as we have heard?", ANSWER)], [chat(QUESTION, "?")])) == (0, 0, 0)


def test_boilerplate_does_not_count(found):
    tasks = [row["messages"][0]["content"] for row in lines("train")]
    template = " ".join([TEMPLATE] * 5)
    train = [chat(f"{template} {task}", ANSWER) for task in tasks[30:]]
    once = [chat(f"{template} {tasks[0]}", "6"), *lines("test")]
    assert counts(found(train, once)) == (0, 0, 0)
    assert counts(found(train[:1], once)) == (0, 1, 1)  # who could know
    copy = chat(f"{template} {tasks[0]}".replace(" a ", " one "), "6")
    assert counts(found([*train, copy], once)) == (0, 1, 1)
    eleven = [chat(f"{template} {task}", "6") for task in tasks[:11]] + lines("test")
    assert counts(found(train, eleven)) == (0, 0, 0)
    assert counts(found([*train, chat(tasks[5], "6")], eleven)) == (0, 1, 1)
    three = [chat(f"{template} {task}", "6") for task in tasks[:3]]  # more than half of a few rows
    assert counts(found(train, three)) == (0, 0, 0)
    assert counts(found([*train, chat(f"{template} {tasks[1]}", "6")], three)) == (1, 1, 1)


PRODUCTS = [
    "desk lamp",
    "espresso machine",
    "bread knife",
    "garden hose",
    "rain coat",
    "tent",
    "wall clock",
    "red kettle",
]


def faq(product: str) -> dict:
    """A question and an answer from one template, less than eight words between two gaps."""
    return chat(
        f"How can I return {product}?",
        f"You can send the {product} back within 30 days. Put the {product} into its box, print the label, and take both there.",
    )


def test_rows_of_one_template_are_told_apart_by_what_fills_it(found):
    rows = [faq(product) for product in PRODUCTS]
    assert counts(found(rows[2:], rows[:2])) == (0, 0, 0)
    assert counts(found(rows[1:], rows[:2])) == (1, 1, 1)
    edited = json.loads(json.dumps(rows[0]).replace("within 30 days", "in a month"))
    assert counts(found([*rows[2:], edited], rows[:2])) == (0, 1, 1)
    assert counts(found([edited, *rows[2:]], rows[:2])) == (0, 1, 1)


def test_a_template_with_gaps_does_not_count_where_many_held_out_rows_have_it(found):
    """Names that share a word: a training row has all of the template and two thirds of the name."""
    rows = [faq(f"{first} {second}") for first in ("blue", "old", "small", "big") for second in PRODUCTS]
    assert counts(found(rows[24:25], rows[:24])) == (0, 0, 0)
    assert counts(found([*rows[24:], rows[3]], rows[:24])) == (1, 1, 1)


def test_edited_copies_of_a_row_are_no_template(found):
    """Four copies with an edit here and there, and one copy that is asked with several answers."""
    question = " ".join([QUESTION, OTHER])
    places = [(2, 20), (7, 27), (12, 33), (17, 3)]
    copies = []
    for some in places:
        said = question.split()
        for place in some:
            said[place] = "sometimes"
        copies.append(chat(" ".join(said), "?"))
    assert counts(found(copies, [chat(question, "?")])) == (0, 1, 4)
    same = [chat(copies[0]["messages"][0]["content"], answer) for answer in ("One.", "Two.", "Three.")]
    assert counts(found(same, [chat(question, "?")])) == (0, 1, 3)


def test_a_template_of_many_rows_is_decided_in_their_order(found, monkeypatch):
    from posttrain.data import template_rows

    rows = [faq(f"{first} {second}") for first in ("blue", "old", "small", "big") for second in PRODUCTS]
    edited = json.loads(json.dumps(rows[0]).replace("within 30 days", "in a month"))
    for known in (3, 5, 32):
        monkeypatch.setattr(template_rows, "KNOWN", known)
        assert counts(found([*rows[8:], edited], rows[:8])) == (0, 1, 1), known


def test_a_question_that_many_rows_ask_is_told_by_its_answer(found):
    answers = [row["messages"][1]["content"] + " " + row["messages"][0]["content"] for row in lines("test")]
    held_out = [chat(OTHER, answer) for answer in answers]
    assert counts(found([chat(OTHER, ANSWER)], held_out)) == (0, 0, 0)
    assert counts(found([chat(OTHER, ANSWER), chat(QUESTION, answers[7])], held_out)) == (0, 1, 1)
    short = [chat("Describe the picture on the first page, please.", answer) for answer in answers]
    assert counts(found([chat("Describe the picture on the first page, please.", ANSWER)], short)) == (0, 0, 0)


def test_system_turns_are_no_part_of_a_held_out_row_but_are_read_in_training(found):
    held_out = {"messages": [turn("system", OTHER), *chat(QUESTION, "?")["messages"]]}
    assert counts(found([{"messages": [turn("system", OTHER), *chat("Who?", "I.")["messages"]]}], [held_out])) == (
        0,
        0,
        0,
    )
    shot = {"messages": [turn("system", f"For example: {QUESTION} {ANSWER}"), *chat("Who?", "I.")["messages"]]}
    assert counts(found([shot], [held_out])) == (1, 1, 1)


def test_short_rows_have_to_be_equal(found):
    row = chat("What is 2 + 2?", "It is 4.")
    system = {"messages": [turn("system", OTHER), *row["messages"]]}
    assert counts(found([chat("what is 2+2", "it is 4")], [row])) == (1, 1, 1)
    assert counts(found([system], [row])) == counts(found([row], [system])) == (1, 1, 1)
    assert counts(found([chat(OTHER, "Yes.", *(one["content"] for one in row["messages"]))], [row])) == (1, 1, 1)
    talk = chat("Hi!", "Hello.", "How are you?", "Well.")
    assert counts(found([{"messages": [turn("system", OTHER), *talk["messages"]]}], [talk])) == (1, 1, 1)
    assert counts(found([{"text": "What is 2 + 2? It is 4."}], [row])) == (1, 1, 1)
    assert counts(found([pair("What is 2 + 2?", "It is 4.", "It is 5.")], [row])) == (1, 1, 1)
    assert counts(found([chat("What is 2 + 2?", "4.")], [row])) == (0, 0, 0)
    assert counts(found([chat("What is 2 + 2?", "It is 4, as I have said.")], [row])) == (0, 0, 0)


def test_a_question_of_eight_words_is_enough_where_it_is_asked_as_it_is(found):
    eight, seven = "Who was the first woman on Mount Everest?", "Who was the first woman on Everest?"
    assert counts(found([chat(eight, "Junko Tabei did it.")], [chat(eight, "Tabei.")])) == (1, 1, 1)
    assert counts(found([chat(seven, "Junko Tabei did it.")], [chat(seven, "Tabei.")])) == (0, 0, 0)
    assert counts(found([chat(f"{eight} Tell me.", "Junko Tabei did it.")], [chat(eight, "Tabei.")])) == (0, 0, 0)


def test_a_question_about_an_image_is_told_by_its_answer(found):
    def row(answer: str) -> dict:
        return chat("<image> What can be seen in the middle of this photograph?", answer) | {"images": ["a.png"]}

    assert counts(found([row("A brown dog with a stick that it has brought from the river.")], [row(ANSWER)])) == (
        0,
        0,
        0,
    )
    assert counts(found([row(ANSWER)], [row(ANSWER)])) == (1, 1, 1)


def test_the_same_words_about_another_image_are_another_row(found):
    def row(image: str) -> dict:
        return chat(f"<image> {QUESTION}", ANSWER) | {"images": [image]}

    assert counts(found([row("a.png")], [row("b.png")])) == (0, 0, 0)
    assert counts(found([row("a.png"), row("b.png")], [row("b.png")])) == (1, 1, 1)


def test_all_questions_of_a_conversation_stand_in_one_row(found):
    questions = [row["messages"][0]["content"] for row in lines("test")[:4]]
    held_out = chat(questions[0], ANSWER, questions[1], ANSWER, "And then?", ANSWER, questions[2], ANSWER)
    alone = [chat(question, ANSWER) for question in questions[:3]]
    assert counts(found(alone, [held_out])) == (0, 0, 0)
    turned = chat(questions[2], "?", questions[1], "?", questions[0], "?")
    assert counts(found([*alone, turned], [held_out])) == (1, 1, 1)


def test_rows_are_told_apart(found):
    first, rest = " ".join(QUESTION.split()[:14]), " ".join(QUESTION.split()[14:])
    assert len(words(first)) < 0.7 * len(words(QUESTION)) < len(words(first)) + 2
    train = [
        chat("What did she say then?", first),
        chat(f"{rest} I have no idea.", "Nor have I."),
        chat("It is 4.", "Yes."),
    ]
    assert counts(found(train, [chat(QUESTION, "?")])) == (0, 0, 0)
    assert counts(found([chat("Well?", "What is 2 + 2?"), *train[::-1]], [chat("What is 2 + 2?", "It is 4.")])) == (
        0,
        0,
        0,
    )


def test_questions_are_told_apart(found):
    second = "Who of the two men came home first that night?"
    own, other = len(words(QUESTION)), len(words(second))
    assert own < 0.7 * (own + other) < own + 2
    held_out = chat(QUESTION, "She bakes 25 loaves.", second, "?")
    assert counts(found([chat(QUESTION, "She bakes 25 loaves.")], [held_out])) == (0, 0, 0)


def test_rejected_answers_are_not_compared(found):
    held_out = pair("Why?", ANSWER, f"{OTHER} {OTHER}")
    assert counts(found([chat("Hm.", OTHER)], [held_out])) == (0, 0, 0)
    assert counts(found([chat("Why?", ANSWER)], [held_out])) == (1, 1, 1)


def test_other_scripts(found):
    chinese = "面包师星期一卖了十二个面包、星期二卖了九个、她一共烤了多少个面包。"
    russian = (
        "Пекарь продал в понедельник двенадцать хлебов и во вторник ещё девять; сколько хлебов он испёк за эти дни?"
    )
    train = [chat(chinese.replace("、", " "), "21"), chat(russian.upper(), "21")]
    assert counts(found(train, [chat(chinese, "?"), chat(russian, "?"), chat("🙂", "🙂🙂")])) == (2, 2, 2)
    assert counts(found([chat("🙂🙂", "🙂")], [chat("🙂", "🙂🙂")])) == (0, 0, 0)


def test_words_are_those_of_words():
    texts = [
        "It's 3.50 €, isn_t it?\n\tYes!",
        "",
        "Straße ÉCOLE İstanbul",
        "漢字とカナ mixed7字",
        "a\u0301 ٣٤ ภาษา",
        "...",
        "ab c",
        "ac b",
    ]
    hashes, bounds = word_hashes(texts)
    runs = Runs(hashes[bounds[-3] :]).each(2, np.array([2, 2, 4, 4]))
    assert runs[0] != runs[2]
    expected = [word for text in texts for word in words(text)]
    assert np.diff(bounds).tolist() == [len(words(text)) for text in texts]
    assert len(set(zip(hashes.tolist(), expected, strict=True))) == len(set(expected)) == len(set(hashes.tolist()))


def test_the_result_does_not_depend_on_the_batches(found, monkeypatch):
    train, test = lines("train"), lines("test")
    rows = [chat(QUESTION, ANSWER), *train, *test[::-1], *test[:5], chat("Who?", "I."), *test]
    held_out = [*test, chat("Who?", "I."), chat(QUESTION, "?")]
    whole = found(rows, held_out)
    assert counts(whole) == (22, 22, 47)
    for size, most in ((1, 2**20), (7, 2**20), (500, 3000)):
        monkeypatch.setattr(module, "BATCH", size)
        monkeypatch.setattr(module, "BATCH_BYTES", most)
        assert found(rows, held_out) == whole


def test_an_empty_held_out_file(tmp_path):
    train = write(tmp_path / "train.parquet", lines("train"))
    empty = write(tmp_path / "held_out.parquet", [], like=lines("train")[0])
    nothing = {"exact": 0, "shared": 0, "train_rows": 0, "places": [], "examples": []}
    assert overlap(train, empty) == nothing | {"rows": 0}
    assert overlap(empty, train) == nothing | {"rows": 48}


def test_examples_say_where(found):
    test = lines("test")
    edited = QUESTION.replace("sells", "sold")
    train = [chat(edited, ANSWER), *test[6:], chat(QUESTION, ANSWER), chat(QUESTION, "No.")]
    result = found(
        train, [chat(OTHER, "?"), chat(QUESTION.replace("twelve loaves", "ten rolls"), "?" * 300), *test[14:19]]
    )
    assert result["rows"] == 7
    assert result["places"] == [f"held_out.jsonl line {i}" for i in range(2, 8)]
    assert counts(result) == (5, 6, 8)
    assert [example["place"] for example in result["examples"]] == [f"held_out.jsonl line {i}" for i in range(3, 8)]
    assert result["examples"][0]["id"] == "held_out3"
    result = found(train, [chat(OTHER, "?"), chat(f"{QUESTION} Well?", "?" * 300)])
    (example,) = result["examples"]
    assert (example["train_id"], example["train_place"]) == ("train16", "train.jsonl line 16")
    assert 0.9 < example["share"] < 1
    assert example["text"] == f"{QUESTION} Well?\n{'?' * 300}"[:200]
