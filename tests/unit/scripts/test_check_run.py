"""The preflight as a user meets it: what is written, said and refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, environment, refused, write_rows

import check_run
from posttrain.data import conversations
from posttrain.data.tokens import tokenise
from posttrain.preflight.checks import NAMES
from posttrain.runtime import atomic
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project
from tokenize_data import schema, summary

CONTEXT = {"allow": [], "use": "research", "licences": {"bases.base": "apache-2.0", "datasets.chats": None}}
CONTEXT["chains"] = {"bases.base": ["sft"], "datasets.chats": ["sft"]}


@pytest.fixture
def prepared(in_folder, configuration, chats, random_tiny_folder, random_tiny_tokenizer):
    """A project in which a run can be checked; returns the command's options."""
    rows = [row | {"place": f"chats.jsonl line {i + 1}"} for i, row in enumerate(chats)]
    write_rows(Path("results/data/chats/train.parquet"), rows)
    data = {"shape": "messages", "rows": 4, "train": 4, "dropped": {}, "licence": "mit"}
    atomic.write_json(Path("results/data/chats/data.json"), data)
    atomic.write_json(Path("results/data/chats/overlap.json"), {})
    encoded, counts = tokenise(random_tiny_tokenizer, rows, "messages", 256)
    folder = Path("results/tokens/base/chats,max_length=256")
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(encoded, schema=schema("messages")), folder / "train.parquet")
    atomic.write_json(folder / "report.json", {"train": summary(counts)})
    options = {
        "--spec": "results/sft/spec.json",
        "--parent": random_tiny_folder,
        "--data": "results/data/chats",
        "--tokens": folder,
        "--context": "results/sft/context.json",
        "--output": "results/sft",
    }

    def run(**keys):
        table = {"from": "base", "objective": "sft", "data": "chats"} | keys
        atomic.write_json(Path("results/sft/context.json"), CONTEXT)
        Path("results/sft/spec.json").write_text(
            Project(configuration({"runs": {"sft": table}, "sweeps": {}})).spec("sft")
        )
        return dict(options)

    return run


@pytest.fixture
def said(monkeypatch):
    """What the person at the terminal is told, line by line."""
    lines = []
    monkeypatch.setattr(check_run, "say", lines.append)
    return lines


def check(options: dict, **context) -> None:
    atomic.write_json(Path(options["--context"]), CONTEXT | context)
    parser = check_run.parser()
    check_run.main(parser.parse_args([str(part) for pair in options.items() for part in pair]))


def test_an_evaluation_that_cannot_be_is_refused_before_training(prepared):
    options = prepared()
    suites = {"quiz": {"kind": "tasks", "chat": None}, "liked": {"kind": "reward", "by": {"name": "judge"}}}
    atomic.write_json(Path("evaluation.json"), {"max_length": 64, "limit": 100, "data": [], "suites": suites})
    check(options | {"--evaluation": "evaluation.json"})
    Path("results/bases/other").mkdir(parents=True)
    shutil.copytree(options["--parent"], "results/bases/other/model")
    file = Path("results/bases/other/model/tokenizer.json")
    file.write_text(file.read_text().replace("<|im_start|>", "<|begin|>"))
    with refused("preflight-failed", "sft"):
        check(options | {"--evaluation": "evaluation.json"}, judges={"liked": "results/bases/other/model"})


def test_a_run_that_passes_leaves_a_report_and_a_page(prepared, said):
    check(prepared())
    report = atomic.read_json(Path("results/sft/preflight.json"))
    assert (report["run"], report["passed"]) == ("sft", True)
    assert [result["name"] for result in report["checks"]] == list(NAMES)
    assert {result["result"] for result in report["checks"]} == {"passed", "skipped"}
    assert report["licences"] == CONTEXT["licences"]
    # GiB: a process and hardly a model; where matrices are multiplied in bfloat16, their compiled products as well.
    assert 0.75 <= report["memory"]["total"] < 1.5
    page = Path("results/sft/preflight.txt").read_text()
    assert page.startswith("Preflight of sft: passed\n")
    assert "--- first and longest row, 61 tokens\nchats.jsonl line 1:\n<|im_start|>user\nHow many" in page
    assert "⟦A pear.<|im_end|>⟧" in page
    assert said == []


def test_a_warning_is_said_and_kept(prepared, said):
    check(prepared(learning_rate=0.5))
    assert "sft: learning_rate: WARNING: learning_rate 0.5 is so high" in said[-1]
    (found,) = [
        r for r in atomic.read_json(Path("results/sft/preflight.json"))["checks"] if r["name"] == "learning_rate"
    ]
    assert (found["severity"], found["result"]) == ("warning", "warning")


def shared() -> None:
    example = {"place": "test.jsonl line 3", "train_place": "chats.jsonl line 1", "text": "How many clips"}
    found = {"rows": 10, "exact": 1, "shared": 1, "examples": [example]}
    atomic.write_json(Path("results/data/chats/overlap.json"), {"chats/validation": found})


def test_what_training_would_refuse_as_well_is_not_offered_to_be_overruled(prepared):
    with pytest.raises(UserError, match="patterns: freeze: 'layrs' matches no parameter") as error:
        check(prepared(freeze="layrs"))
    assert str(error.value).splitlines()[-1] == "all that was checked is in results/logs/preflight/sft.txt"


def test_an_error_is_refused_and_what_was_checked_is_kept_where_snakemake_leaves_it(prepared):
    options = prepared(target_modules=["q_porj"])
    shared()
    with pytest.raises(UserError) as error:
        check(options)
    text = str(error.value)
    assert text.startswith("sft: it is not trained:\noverlap: the training rows contain 1 (10 %) of the held-out rows")
    assert "\n    test.jsonl line 3 stands in chats.jsonl line 1:\n    How many clips\n" in text
    assert "\ntarget_modules: 'q_porj' matches no module of the model; did you mean 'q_proj'?\n" in text
    assert "\nwrite `allow: [overlap]` to train it all the same, once target_modules is mended; all that was" in text
    assert not Path("results/sft/preflight.json").exists()
    assert not atomic.read_json(Path("results/logs/preflight/sft.json"))["passed"]
    assert "Preflight of sft: stopped" in Path("results/logs/preflight/sft.txt").read_text()


def test_an_error_that_is_allowed_is_said_and_nothing_of_the_refusal_stays(prepared, said):
    options = prepared()
    shared()
    with pytest.raises(UserError):
        check(options)
    check(options, allow=["overlap"])
    assert "sft: overlap: error, allowed: the training rows contain" in said[-1]
    report = atomic.read_json(Path("results/sft/preflight.json"))
    (found,) = [result for result in report["checks"] if result["name"] == "overlap"]
    assert (report["passed"], found["result"], found["severity"]) == (True, "allowed", "error")
    assert list(Path("results/logs/preflight").iterdir()) == []


def test_the_licence_of_a_dataset_is_its_cards_where_the_configuration_says_none(prepared):
    options = prepared()
    data = atomic.read_json(Path("results/data/chats/data.json"))
    atomic.write_json(Path("results/data/chats/data.json"), data | {"licence": "cc-by-nc-4.0"})
    with refused("preflight-failed", "sft"):
        check(options, use="commercial")


def test_a_run_that_answers_itself_shows_its_prompts(prepared):
    options = prepared(objective="grpo", reward={"function": "final_number"})
    check(options | {"--tokens": ""})
    page = Path("results/sft/preflight.txt").read_text()
    assert "--- first and longest prompt of the sample, 43 tokens\nchats.jsonl line 1:\n" in page
    assert page.count("the run trains on its own answers") == 8


def test_a_template_that_refuses_a_conversation_is_one_sentence(prepared, random_tiny_tokenizer, tmp_path):
    options = prepared(objective="grpo", reward={"function": "final_number"})
    random_tiny_tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    parent = tmp_path / "parent"
    parent.mkdir()
    for file in Path(options["--parent"]).iterdir():
        (parent / file.name).symlink_to(file)
    (parent / "chat_template.jinja").unlink()
    (parent / "chat_template.jinja").write_text(random_tiny_tokenizer.chat_template)
    with pytest.raises(
        UserError, match="dataset chats: the base's chat template refuses a conversation: no users here"
    ):
        check(options | {"--tokens": "", "--parent": parent})


def test_the_stop_tokens_are_the_tokenizers_and_the_models(tmp_path, random_tiny_tokenizer):
    eos = random_tiny_tokenizer.eos_token_id
    assert conversations.stops(tmp_path, random_tiny_tokenizer) == [eos]
    for ends in (7, [7, eos]):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        assert conversations.stops(tmp_path, random_tiny_tokenizer) == sorted([7, eos])


def test_the_command_needs_no_torch(prepared):
    options = prepared()
    code = (
        "import runpy, sys; sys.argv[0] = 'check_run.py'; runpy.run_path(sys.argv.pop(1), run_name='__main__'); "
        "print([name for name in ('torch', 'trl', 'peft') if name in sys.modules])"
    )
    arguments = [str(part) for pair in options.items() for part in pair]
    script = REPOSITORY / "scripts/check_run.py"
    path = {"PYTHONPATH": str(REPOSITORY / "scripts"), "POSTTRAIN_FORK_SERVER": "off"}  # which would run it elsewhere
    done = subprocess.run(
        [sys.executable, "-c", code, script, *arguments], env=environment() | path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_names_of_checks_cost_no_import():
    code = "import posttrain.preflight.checks, sys; print([name for name in ('numpy', 'pydantic', 'pyarrow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY / "scripts", capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("shape", "objective"), [("preference", "sft"), ("text", "grpo"), ("audio_messages", "grpo")])
def test_rows_of_a_shape_that_the_objective_cannot_use_are_one_sentence(prepared, shape, objective):
    rewarded = {"reward": {"function": "answer_format"}} if objective == "grpo" else {}
    options = prepared(objective=objective, **rewarded)
    atomic.write_json(Path("results/data/chats/data.json"), {"shape": shape})
    with refused("wrong-dataset-type"):
        check(options)
    assert not Path("results/sft/preflight.json").exists()


def test_prompts_alone_for_sft_are_refused_with_the_column_that_may_be_their_answer(prepared):
    options = prepared(objective="sft")
    atomic.write_json(Path("results/data/chats/data.json"), {"shape": "prompts", "unknown": {"expected": 3}})
    with pytest.raises(UserError) as error:
        check(options)
    assert str(error.value) == (
        "sft needs rows of type text or messages or image_messages or audio_messages, and chats is prompts, which fits grpo or rloo "
        "or ppo; the rows are prompts alone, and not read is expected (3); if that is their answer, write `columns: {completion: NAME}`"
    )
