"""One model evaluated by one process and by two: the same bytes, and the user's own code runs once."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import command, environment

from posttrain.data.samples import HeldOut
from posttrain.evaluation import generation_cache
from posttrain.inference import scoring

pytestmark = pytest.mark.processes

CONFIG = """
bases:
  tiny: {source: random, text: gsm8k, hidden_size: 32, layers: 2, heads: 2, vocab_size: 512}
datasets:
  gsm8k:
    path: examples/data/gsm8k_train.jsonl
    validation: 0.75
    format: prompt_completion
    columns: {prompt: question, completion: answer}
    licence: mit
    limit: 48
  pairs:
    path: examples/data/gsm8k_pairs.jsonl
    validation: examples/data/gsm8k_pairs_test.jsonl
    format: preference
    columns: {prompt: question}
    licence: mit
    limit: 48
  easy: {from: pairs, select: {by: judge, part: easy, margin: 0}}
runs:
  judge: {from: tiny, objective: reward, method: full, data: pairs, max_steps: 1}
  dpo: {from: tiny, objective: dpo, method: lora, data: pairs, rank: 4, max_steps: 1}
evaluation:
  data: [gsm8k, pairs]
  limit: 40
  max_new_tokens: 8
  batch_tokens: 1024
  suites:
    said: {kind: generation, data: gsm8k, num_fewshot: 1, metrics: ['mine.py:longer', chrf], limit: 40}
    safe: {kind: safety, limit: 2}
SUITES
tracking: {mlflow: false}
"""
MINE = """
import os

def longer(output, reference):
    if os.path.exists('die'):
        os.kill(os.getpid(), 9)
    if os.path.exists('fail'):
        raise ValueError('nothing is longer')
    with open('calls', 'a') as file:
        file.write(os.environ.get('WORLD_SIZE', '1'))
    return float(len(output) > len(reference))
"""
SLOW = """
    liked: {kind: reward, data: gsm8k, by: judge, limit: 40}
    ours: {kind: tasks, tasks: [ends, asked], include_path: tasks, limit: 40}
"""
TASKS = {
    "ends": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: ["yes", "no", "{{answer}}"]
doc_to_target: 2
metric_list: [{metric: acc}]
""",
    "asked": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: examples/data/gsm8k_test.jsonl}}\ntest_split: test\n"
LOGPROBS = "results/tiny/logprobs/pairs,max_length=1024,fp32.parquet"


def project(folder: Path, suites: str = "") -> None:
    """Write a configuration with a metric and tasks of its own."""
    (folder / "mine.py").write_text(MINE)
    (folder / "config.yaml").write_text(CONFIG.replace("SUITES\n", suites))
    (folder / "tasks").mkdir()
    for name, text in TASKS.items():
        (folder / f"tasks/{name}.yaml").write_text(f"task: {name}\n{DATA}{text}")


def build(folder: Path, processes: int, *targets: str, fails: bool = False) -> str:
    """Run a command with so many processes a job; both have the same number of threads, and so the same sums."""
    options = ["--config", f"hardware={{processes: {processes}}}", "--"]
    run = subprocess.run(
        command(folder, *options, *targets, config=folder / "config.yaml"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | {"OMP_NUM_THREADS": "1"},
    )
    assert (run.returncode != 0) == fails, run.stdout
    return run.stdout


def rebuild(folder: Path, *targets: str) -> dict[str, list[bytes]]:
    """Make the targets with one process, and once more with two; each file's content after both."""
    found = {}
    for processes in (1, 2):
        for target in targets:
            (folder / target).unlink(missing_ok=True)
        for left in folder.glob("results/*/eval/answers*"):
            left.unlink()
        (folder / "calls").unlink(missing_ok=True)
        build(folder, processes, *targets)
        files = [*targets, *(str(file.relative_to(folder)) for file in folder.glob("results/*/eval/*.parquet"))]
        for file in files:
            found.setdefault(file, []).append(content(folder / file))
        answered = len(HeldOut(folder / "results/data/gsm8k").ids[:40])
        assert (folder / "calls").read_text() == str(processes) * answered  # by one process, once for each answer
    return found


def content(file: Path) -> bytes:
    """The bytes of a file, without the time that an evaluation took."""
    if file.name != "eval.json":
        return file.read_bytes()
    result = json.loads(file.read_text())
    return json.dumps({key: value for key, value in result.items() if key != "seconds"}).encode()


def differing(found: dict[str, list[bytes]]) -> list[str]:
    return [file for file, (one, two) in found.items() if one != two]


def test_two_processes_give_the_bytes_of_one(folder):
    project(folder)
    found = rebuild(folder, "results/tiny/eval.json", LOGPROBS)
    assert differing(found) == []
    assert len(found) == 3
    (file,) = folder.glob("results/tiny/eval/answers*")
    assert len(generation_cache.read(file)) > scoring.PROMPTS * 2  # several batches


@pytest.mark.slow
def test_so_do_reward_models_tasks_and_selections(folder):
    pytest.importorskip("lm_eval")
    project(folder, SLOW.lstrip("\n"))
    targets = ["results/tiny/eval.json", "results/judge/eval.json", "results/data/easy/train.parquet"]
    assert differing(rebuild(folder, *targets)) == []


@pytest.mark.slow
def test_the_death_or_the_mistake_of_one_process_ends_all_and_its_answers_stay(folder):
    project(folder)
    result, answers = "results/tiny/eval.json", folder / "results/tiny/eval/answers.jsonl"
    build(folder, 1, result)
    expected, given = content(folder / result), generation_cache.read(answers)
    (folder / result).unlink()
    answers.unlink()
    (folder / "die").touch()
    build(folder, 2, result, fails=True)
    left = generation_cache.read(answers)
    assert len(left) > scoring.PROMPTS and left.items() <= given.items()
    (folder / "die").rename(folder / "fail")
    said = build(folder, 2, result, fails=True)
    assert said.count("nothing is longer") == 1 and "Traceback" not in said
    (folder / "fail").unlink()
    build(folder, 2, result)
    assert content(folder / result) == expected
    assert generation_cache.read(answers) == given
