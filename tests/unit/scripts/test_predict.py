"""A dataset is completed row by row, no answer is generated twice, and a row that cannot be answered says why."""

import json
import sqlite3
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import refused

import predict as script
import prepare_data
from posttrain.data.conversations import render
from posttrain.evaluation import generation_cache
from posttrain.inference import completion, decoding, scoring
from posttrain.models import loading
from posttrain.runtime import atomic
from posttrain.runtime.hashes import sha256

DATA = dict.fromkeys("hub revision subset split format limit near_duplicates image_folder".split())
DATA |= {"columns": {}, "validation": None, "max_dropped": 1}
SETTINGS = {"limit": None, "max_new_tokens": 6, "precision": "fp32", "repetition_penalty": 1.0}
ASKED = ["What is half of 48?", "Name a fruit, please.", "And another one?", "Name a fruit, please.", "How many clips?"]


def write(rows: list[dict], name: str = "asked", **spec) -> None:
    """Make a dataset of a file with these rows."""
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = Path(f"results/data/{name}")
    atomic.write_json(folder / "spec.json", DATA | {"path": f"{name}.jsonl"} | spec)
    prepare_data.main(Namespace(spec=folder / "spec.json", cores=1, output=folder))


def prompts(*texts: str) -> list[dict]:
    return [{"prompt": text} for text in texts]


@pytest.fixture
def predict(in_folder, random_tiny_folder, monkeypatch):
    """Complete a dataset by the random tiny model; gives the lines and the number of answers that were generated."""
    generate = scoring.generate_batch

    def predicted(name: str = "asked", model: Path = random_tiny_folder, run: str = "base", **settings):
        asked = []

        def counted(model, tokenizer, prompts, *rest, **options):
            asked.extend(prompts)
            return generate(model, tokenizer, prompts, *rest, **options)

        monkeypatch.setattr(scoring, "generate_batch", counted)
        output = Path(f"results/{run}/predictions/{name}.jsonl")
        spec = output.with_suffix("") / "spec.json"
        atomic.write_json(spec, SETTINGS | settings)
        options = {
            "spec": spec,
            "model": model,
            "manifest": model / "config.json",
            "data": Path(f"results/data/{name}"),
        }
        script.main(Namespace(**options, output=output))
        return list(map(json.loads, output.read_text().splitlines())), len(asked)

    return predicted


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What is said at the terminal."""
    lines: list[str] = []
    monkeypatch.setattr(script, "say", lambda text, *_: lines.append(text))
    return lines


def test_each_row_has_its_line_in_the_order_of_the_file(predict, random_tiny_folder, said):
    write(prompts(*ASKED), system="Be brief.")
    lines, generated = predict()
    assert [line["place"] for line in lines] == [f"asked.jsonl line {i}" for i in range(1, 6)]
    assert [line["prompt"] for line in lines] == ASKED
    assert (generated, lines[1]["id"], lines[1]["completion"]) == (4, lines[3]["id"], lines[3]["completion"])
    model, tokenizer = loading.for_inference(random_tiny_folder, "fp32"), loading.tokenizer(random_tiny_folder)
    system = {"role": "system", "content": "Be brief."}
    texts = [render(tokenizer, [system, {"role": "user", "content": text}], generate=True) for text in ASKED]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    answers = scoring.generate_batch(model, tokenizer, ids, 6)
    assert [line["completion"] for line in lines] == [answer.text for answer in answers]
    assert [line["finish"] for line in lines] == ["stop" if answer.ended else "length" for answer in answers]
    assert said[0].startswith("base on asked: 5 rows: 4 answers generated, 1 known or asked twice")


def test_of_a_conversation_the_last_answer_is_written(predict):
    turns = [("user", "Hello?"), ("assistant", "Yes."), ("user", "And?"), ("assistant", "No.")]
    write([{"messages": [{"role": role, "content": text} for role, text in turns]}] * 2)
    write(prompts("And?"), "alone")
    ((line, again), generated), ((alone,), _) = predict(), predict("alone")
    assert (line["prompt"], generated) == ("And?", 1) and line["completion"] == again["completion"] != alone[
        "completion"
    ]


def test_an_unchanged_row_is_never_generated_again(predict):
    write(prompts(*ASKED))
    first, generated = predict()
    assert generated == 4
    write(prompts("A new one?", *reversed(ASKED)), "renamed")
    second, generated = predict("renamed")
    assert generated == 1 and second[0]["prompt"] == "A new one?"
    assert [line["completion"] for line in second[1:]] == [line["completion"] for line in reversed(first)]
    assert predict("renamed")[1] == 0


def test_another_model_or_setting_answers_anew(predict, in_folder, random_tiny_folder):
    write(prompts(*ASKED))
    other = in_folder / "other"
    other.mkdir()
    for file in random_tiny_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    generated = [
        predict()[1],
        predict(max_new_tokens=3)[1],
        predict(repetition_penalty=1.2)[1],
        predict(model=other)[1],
    ]
    assert generated == [4, 4, 4, 4]


def test_what_an_evaluation_has_answered_is_taken_over(predict, random_tiny_folder):
    write(prompts(*ASKED))
    model, tokenizer = loading.for_inference(random_tiny_folder, "fp32"), loading.tokenizer(random_tiny_folder)
    key = generation_cache.model_key(
        sha256(random_tiny_folder / "config.json"),
        "fp32",
        scoring.stop_tokens(model, tokenizer),
        decoding.context(model),
    )
    text = render(tokenizer, [{"role": "user", "content": ASKED[0]}], generate=True)
    file = Path("results/base/eval/answers.jsonl")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    generation_cache.answers(model, tokenizer, [ids], 6, (), file, key)
    with file.open("a") as torn:
        torn.write('{"prompt": "')
    lines, generated = predict()
    assert (generated, lines[0]["completion"]) == (3, next(iter(generation_cache.read(file).values())).text)
    assert file.read_text().endswith('{"prompt": "')  # an evaluation may be writing it


def test_a_row_that_cannot_be_answered_says_why(predict, in_folder, random_tiny_folder, said):
    short = in_folder / "short"
    short.mkdir()
    for file in random_tiny_folder.iterdir():
        text = file.read_bytes()
        if file.name == "config.json":
            text = json.dumps(json.loads(text) | {"max_position_embeddings": 64}).encode()
        (short / file.name).write_bytes(text)
    rows = [{"prompt": "Half?"}, {"prompt": "Half? " * 40}, {"prompt": ""}, {"prompt": "Another?"}]
    rows += [{"prompt": [{"role": "assistant", "content": "I am first."}]}]
    write(rows)
    lines, generated = predict(model=short)
    assert ["error" in line for line in lines] == [False, True, True, False, True] and generated == 2
    assert "the model's context of 64 leaves no room" in lines[1]["error"]
    assert "completion" not in lines[2] and lines[2]["place"] == "asked.jsonl line 3"
    assert said[1].startswith("base on asked: 3 rows have an error instead")


def test_a_token_that_the_model_does_not_know_is_one_rows_error(predict, in_folder, random_tiny_folder):
    other = in_folder / "other"
    loading.load(random_tiny_folder).save_pretrained(other)
    tokenizer = loading.tokenizer(random_tiny_folder)
    tokenizer.add_tokens([f"<more{i}>" for i in range(400)])
    tokenizer.save_pretrained(other)
    write(prompts("Half?", "What is <more399>?"))
    (good, bad), _ = predict(model=other)
    assert good["finish"] and "the token <more399> has id" in bad["error"]


def test_a_conversation_that_opens_with_the_assistant_has_no_prompt(predict):
    first = {"role": "assistant", "content": "Welcome!"}
    talk = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
    write([{"messages": [first]}, {"messages": talk}])
    (bad, good), _ = predict()
    assert "opens with the assistant" in bad["error"] and "completion" in good


def test_what_takes_too_much_memory_is_halved_and_then_one_rows_error(predict, monkeypatch):
    write(prompts(*ASKED, "Name a fruit, please. " * 20))
    whole, _ = predict()
    tried = []

    def small(self, asked, generate=completion.Asking._generate):
        tried.append(len(asked))
        if len(asked) > 2 or any(len(prompt.ids) > 100 for prompt in asked):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        return generate(self, asked)

    monkeypatch.setattr(completion.Asking, "_generate", small)
    lines, _ = predict(run="other")
    assert lines[:5] == whole[:5] and "more memory than there is" in lines[5]["error"]
    assert tried == [5, 2, 1, 1, 3, 1, 2]


def test_windows_change_nothing(predict, monkeypatch):
    write(prompts(*ASKED))
    whole, _ = predict()
    monkeypatch.setattr(completion, "WINDOW", 2)
    assert predict(run="other") == (whole, 4)


def test_a_limit_takes_the_first_rows(predict):
    write(prompts(*ASKED))
    lines, generated = predict(limit=2)
    assert ([line["prompt"] for line in lines], generated) == (ASKED[:2], 2)


@pytest.mark.parametrize(
    "rows", [[{"text": "A book."}, {"text": "Another one."}], prompts("Half? " * 2000, "Why? " * 2000)]
)
def test_a_dataset_without_prompts_is_refused(predict, rows):
    write(rows)
    with refused("no-prompts", "dataset asked"):
        predict()
    assert not list(Path("results/base/predictions").glob("*.jsonl"))


def test_after_a_kill_the_rest_is_generated(predict, monkeypatch):
    write(prompts(*ASKED))
    whole, _ = predict(run="whole")
    monkeypatch.setattr(scoring, "PROMPTS", 1)
    add = completion.AnswerStore.add

    def dies(store, answers):
        add(store, answers)
        if answers and count() == 2:
            raise KeyboardInterrupt

    def count() -> int:
        with sqlite3.connect("results/base/predictions/answers.sqlite") as connection:
            return connection.execute("SELECT count(*) FROM answers").fetchone()[0]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(completion.AnswerStore, "add", dies)
        predict()
    assert not Path("results/base/predictions/asked.jsonl").exists()
    assert predict() == (whole, 2)
