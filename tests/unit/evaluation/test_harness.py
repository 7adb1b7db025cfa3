"""lm-eval's tasks on our engine give what they give on lm-eval's own Hugging Face back-end."""

import contextlib
import json
import math
from functools import partial

import pytest
import torch
from conftest import refused

from posttrain.inference import scoring
from posttrain.models import loading

TEXTS = [
    "She sold 48 + 24 = 72 clips.",
    "An apple is a fruit; häufig rot. 😀",
    "A pear.",
    "48 / 2 = 24, so half of it is 24. And another one? She sold 48 clips, please name half of the fruit.",
    "Name a fruit, please.",
]
QUESTIONS = [
    ("How many clips did Natalia sell?", ["72", "24 clips in May", "48", "no"], 0),
    ("What is half of 48?", ["24", "half", "a pear"], 0),
    ("Name a fruit, please.", ["An apple is a fruit.", "An apple", "A pear is a fruit; rot."], 1),
    ("And another one?", ["A pear.", "x"], 1),
    ("", ["A pear.", "An apple."], 0),
]
TASKS = {
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "answer": """
output_type: generate_until
doc_to_text: "{{question}}\\n"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["e", "zz"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, ignore_case: true}, {metric: bleu}]
filter_list:
  - {name: first-word, filter: [{function: regex, regex_pattern: "([A-Za-z0-9]+)"}, {function: take_first}]}
  - {name: whole, filter: [{function: take_first}]}
""",
    "last_word": """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[0]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
}


@pytest.fixture(scope="module", autouse=True)
def float32():
    """Both sides compute in float32 on every processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "precision", lambda wanted: "fp32")
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory, random_tiny_folder):
    """A folder with the task files, their data and a model whose next tokens differ in likelihood."""
    folder = tmp_path_factory.mktemp("project")
    torch.manual_seed(0)
    model = loading.load(random_tiny_folder)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    model.save_pretrained(folder / "model")
    loading.tokenizer(random_tiny_folder).save_pretrained(folder / "model")
    (folder / "tasks").mkdir()
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    rows = [dict(zip(("question", "choices", "answer"), row, strict=True)) for row in QUESTIONS]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        data = "texts" if name == "rolling" else "questions"
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}.jsonl}}}}\ntest_split: test"
        (folder / f"tasks/{name}.yaml").write_text(f"{head}{text}")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        yield folder


@pytest.fixture(scope="module")
def results(project):
    """What both engines give, by lm-eval's own evaluator."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from posttrain.evaluation import harness

    model, tokenizer = loading.load(project / "model").eval(), loading.tokenizer(project / "model")
    engine = harness.Engine(model, tokenizer, 200, partial(scoring.generate, model, tokenizer))
    loaded = harness.load(list(TASKS), project / "tasks")
    manager = lm_eval.tasks.TaskManager(include_path=project / "tasks", include_defaults=False)
    theirs = HFLM(pretrained=str(project / "model"), device="cpu", dtype="float32", batch_size=4)
    return (
        harness.evaluate(engine, loaded, limit=100, shots=None, chat=False),
        lm_eval.simple_evaluate(theirs, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, limit=100),
    )


@pytest.fixture(scope="module")
def rows(project):
    """The example rows of all tasks."""
    from posttrain.evaluation import harness

    model, tokenizer = loading.load(project / "model").eval(), loading.tokenizer(project / "model")
    return harness.examples(model, tokenizer, list(TASKS), project / "tasks", 100, None, 200, chat=False)


def of(rows: list, task: str) -> list:
    return [row for row in rows if row["suite"] == task]


def numbers(found: dict) -> dict:
    """Every metric of every task."""
    pairs = [(task, key, value) for task, metrics in found["results"].items() for key, value in metrics.items()]
    return {(task, key): value for task, key, value in pairs if "," in key and isinstance(value, float)}


def test_every_metric_of_every_task_is_lm_eval_s(results):
    ours, theirs = map(numbers, results)
    assert len(theirs) == 11
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert 0 < theirs["choice", "acc,none"] < 1


@pytest.mark.parametrize("task", TASKS)
def test_every_sample_is_lm_eval_s(results, task):
    ours, theirs = ([sample["filtered_resps"] for sample in found["samples"][task]] for found in results)
    assert len(theirs) >= 5
    for mine, other in zip(ours, theirs, strict=True):
        if task == "answer":
            assert mine == other
        else:
            pairs = [pair if isinstance(pair, tuple) else (pair, None) for pair in mine]
            expected = [pair if isinstance(pair, tuple) else (pair, None) for pair in other]
            assert [p for p, _ in pairs] == pytest.approx([p for p, _ in expected], rel=1e-6, abs=1e-6)
            assert [greedy for _, greedy in pairs] == [greedy for _, greedy in expected]


def test_our_own_perplexity_is_lm_eval_s_on_the_same_texts(project, results):
    model, tokenizer = loading.load(project / "model").eval(), loading.tokenizer(project / "model")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    found = scoring.log_probs(model, [scoring.answer([start], tokenizer.encode(text)) for text in TEXTS], 4096)
    total, words = sum(total for total, _ in found), sum(len(text.split()) for text in TEXTS)
    theirs = results[1]["results"]["rolling"]
    assert math.exp(-total / words) == pytest.approx(theirs["word_perplexity,none"], rel=1e-6)
    size = sum(len(text.encode()) for text in TEXTS)
    assert math.exp(-total / size) == pytest.approx(theirs["byte_perplexity,none"], rel=1e-6)


def test_the_metrics_are_computed_from_the_rows(rows, results):
    theirs = results[1]["results"]

    def total(task: str, column: str) -> float:
        return sum(row[column] for row in of(rows, task))

    def average(task: str, column: str) -> float:
        return total(task, column) / len(of(rows, task))

    per_byte = -total("rolling", "log_prob") / total("rolling", "bytes")
    assert per_byte / math.log(2) == pytest.approx(theirs["rolling"]["bits_per_byte,none"], rel=1e-6)
    per_word = -total("rolling", "log_prob") / total("rolling", "words")
    assert math.exp(per_word) == pytest.approx(theirs["rolling"]["word_perplexity,none"], rel=1e-6)
    per_row = -total("last_word", "log_prob") / total("last_word", "tokens")
    assert math.exp(per_row) == pytest.approx(theirs["last_word"]["perplexity,none"], rel=1e-6)
    for task, column, key in (
        ("choice", "acc", "acc,none"),
        ("choice", "acc_norm", "acc_norm,none"),
        ("answer", "exact_match_first_word", "exact_match,first-word"),
        ("answer", "exact_match_whole", "exact_match,whole"),
        ("last_word", "acc", "acc,none"),
    ):
        assert average(task, column) == theirs[task][key]


def test_a_row_says_what_was_asked_and_answered(rows):
    assert [len(of(rows, task)) for task in TASKS] == [5, 5, 5, 5]
    assert of(rows, "rolling")[2] == {
        "suite": "rolling", "dataset": "rolling", "id": "2", "prompt": "", "reference": "A pear.", "output": None,
        "log_prob": pytest.approx(of(rows, "rolling")[2]["log_prob"]), "words": 2.0, "bytes": 7.0,
    }  # fmt: skip
    asked = of(rows, "choice")[2]
    assert (asked["prompt"], asked["reference"], asked["output"]) == ("Name a fruit, please.", "An apple", None)
    answered = of(rows, "answer")[1]
    assert (answered["prompt"], answered["reference"]) == ("What is half of 48?\n", "24")
    assert isinstance(answered["output"], str)
    assert not any("bleu" in column for column in answered)  # no average of documents gives it
    assert not any("e" in row["output"] for row in of(rows, "answer"))


def test_answers_are_asked_from_whoever_gives_them_and_prompts_may_be_chats(project):
    from posttrain.evaluation import harness

    model, tokenizer = loading.load(project / "model").eval(), loading.tokenizer(project / "model")
    asked = []

    def remembered(prompts, max_new_tokens, stop):
        asked.append((tokenizer.batch_decode(prompts), max_new_tokens, stop))
        return ["24"] * len(prompts)

    found = harness.examples(model, tokenizer, ["answer"], project / "tasks", 2, None, 200, True, generate=remembered)
    [(prompts, longest, stop)] = asked
    assert (longest, stop) == (12, ("e", "zz", tokenizer.eos_token))
    assert prompts[0] == found[0]["prompt"]
    assert "<|im_start|>user\nHow many clips" in prompts[0]
    assert [row["exact_match_whole"] for row in found] == [0.0, 1.0]


def test_a_task_s_answers_are_compared_without_their_thoughts_and_kept_with_them(project):
    from posttrain.evaluation import harness

    model, tokenizer = loading.load(project / "model").eval(), loading.tokenizer(project / "model")
    text = "<think>\n5, I think.\n</think>\n\n24"
    found = harness.examples(
        model,
        tokenizer,
        ["answer"],
        project / "tasks",
        2,
        None,
        200,
        False,
        generate=lambda asked, *_: [text] * len(asked),
    )
    assert [row["exact_match_first_word"] for row in found] == [0.0, 1.0]
    assert [row["output"] for row in found] == [text, text]


def test_prompts_are_chats_where_there_is_a_template(project, monkeypatch):
    from posttrain.evaluation import harness

    model, tokenizer = loading.load(project / "model").eval(), loading.tokenizer(project / "model")
    asked = []
    arguments = [model, tokenizer, ["answer"], project / "tasks", 1, None, 200]
    options = {"generate": lambda prompts, *_: asked.extend(tokenizer.batch_decode(prompts)) or ["24"]}
    harness.examples(*arguments, None, **options)
    tokenizer.chat_template = None
    said = []
    monkeypatch.setattr(harness, "say", said.append)
    harness.examples(*arguments, None, **options)
    question = "How many clips did Natalia sell?"
    assert asked == [f"<|im_start|>user\n{question}\n<|im_end|>\n<|im_start|>assistant\n", f"{question}\n"]
    assert said[0] == "the base has no chat template: the tasks' prompts are used as plain text"
    with refused("unusable-chat-template", "evaluation.suites"):
        harness.examples(*arguments, True, **options)


@pytest.mark.parametrize("chat", [False, True])
def test_a_bos_that_the_tokenizer_adds_is_there_once(project, monkeypatch, chat):
    from tokenizers.processors import TemplateProcessing

    from posttrain.evaluation import harness

    model, tokenizer = loading.load(project / "model").eval(), loading.tokenizer(project / "model")
    tokenizer.bos_token = "<|endoftext|>"
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    if chat:  # Llama's and Gemma's templates print it
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    assert tokenizer("a")["input_ids"][0] == bos
    seen, scores = [], scoring.scores
    monkeypatch.setattr(scoring, "scores", lambda model, rows, *more: seen.extend(rows) or scores(model, rows, *more))

    def asked(prompts, *_):
        seen.extend((tuple(ids), ()) for ids in prompts)
        return [""] * len(prompts)

    tasks = ["rolling", "choice", "answer"]
    harness.examples(model, tokenizer, tasks, project / "tasks", 3, None, 200, chat, generate=asked)
    assert len(seen) == 3 + (4 + 3 + 3) + 3
    assert all((ids[0], ids.count(bos)) == (bos, 1) for ids, _ in seen)


@pytest.fixture
def load(project):
    """Load tasks of the project."""
    from posttrain.evaluation import harness

    return lambda *names: harness.load(list(names), project / "tasks")


def test_an_unknown_task_is_told_with_the_nearest_name(load, monkeypatch):
    from posttrain.evaluation import harness

    own = partial(harness.TaskManager, include_defaults=False)  # reading lm-eval's 10 000 task files takes 15 s
    monkeypatch.setattr(
        harness, "TaskManager", lambda include_path, include_defaults=True: own(include_path=include_path)
    )
    with refused("unknown-name", "evaluation.suites") as caught:
        load("rollling")
    assert caught.value.hint == "did you mean 'rolling'?"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("task: broken\n  output_type: [", "broken.yaml"),
        (
            "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: gone.jsonl}\n",
            "evaluation.suites",
        ),
        ("task: broken\nclass: 3\n", "evaluation.suites"),
    ],
)
def test_a_task_file_that_cannot_be_read_is_a_sentence(load, project, text, place):
    file = project / "tasks/broken.yaml"
    file.write_text(text)
    try:
        with refused("unreadable-file") as caught:
            load("broken")
    finally:
        file.unlink()
    assert caught.value.place.endswith(place) and "\n" not in str(caught.value)


def test_a_task_that_samples_is_refused(project):
    from posttrain.evaluation import harness

    text = (project / "tasks/answer.yaml").read_text()
    file = project / "tasks/sampled.yaml"
    file.write_text(text.replace("task: answer", "task: sampled").replace("do_sample: false", "do_sample: true"))
    try:
        with refused("unsupported-task", "evaluation.suites"):
            harness.examples(loading.load(project / "model"), None, ["sampled"], project / "tasks", 2, None, 200, False)
    finally:
        file.unlink()
