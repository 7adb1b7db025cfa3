"""Every family of the zoo through the whole workflow, each stage beside a plain loop over transformers.

docs/support-matrix.md has what this module finds; `POSTTRAIN_WRITE_MATRIX=1 pytest tests/matrix` writes it.
"""

import json
import time
from pathlib import Path

import pytest
import torch
import yaml
import zoo
from in_process import Job, jobs, run

from posttrain import checks
from posttrain.errors import UserError

CHATS = [
    [("How many apples are in two bags of three?", "2 * 3 = 6 apples."), ("And in four bags?", "4 * 3 = 12 apples.")],
    [("What is half of 48?", "48 / 2 = 24, so half of it is 24.")],
    [("Name a fruit.", "A pear."), ("Another one.", "An apple."), ("And one more.", "A plum, or a fig.")],
    [("Say it twice.", "It, it.")],
    [("How many clips did she sell?", "She sold 48 + 24 = 72 clips.")],
    [("Is water wet?", "Yes, it is."), ("Why?", "It sticks to what it touches.")],
    [("Count to three.", "One, two, three.")],
    [("What is 7 - 5?", "7 - 5 = 2.")],
]
HELD_OUT = [
    [("How many legs have two cats?", "2 * 4 = 8 legs."), ("And three?", "3 * 4 = 12 legs.")],
    [("What is half of 10?", "10 / 2 = 5.")],
    [("Name a tree.", "An oak.")],
]
PAIRS = [(chat[0][0], chat[0][1], "I do not know.") for chat in CHATS]
STAGES = ("sft", "dpo", "reward", "ppo", "grpo", "qlora")
SHARED = {"max_length": 256, "batch_size": 4, "max_steps": 2}
ANSWERING = {"objective": "grpo", "data": "chats", "max_new_tokens": 6, "reward": {"function": "rules.py:short"}}
MODEL = {  # what each stage starts from, by name, and its keys
    "sft": ("{}", {"objective": "sft", "data": "chats", "learning_rate": 1e-2}),
    "dpo": ("sft_{}", {"objective": "dpo", "data": "pairs", "learning_rate": 1e-3}),
    "reward": ("sft_{}", {"objective": "reward", "data": "pairs", "learning_rate": 1e-3}),
    "ppo": ("sft_{}", {**ANSWERING, "objective": "ppo", "ppo_epochs": 1, "reward": {"from": "reward_{}"}}),
    "grpo": ("sft_{}", {**ANSWERING, "generations": 2}),
    "qlora": ("{}", {"objective": "sft", "method": "qlora", "data": "chats", "learning_rate": 1e-2}),
}
TARGETS = [
    "results/{}/eval.json",
    "results/sft_{}/eval.json",
    "results/dpo_{}/eval.json",
    "results/reward_{}/eval.json",
]
TARGETS += [f"results/{stage}_{{}}/merge.json" for stage in ("ppo", "grpo", "qlora")]
RULES = "def short(answer, reference):\n    return -len(answer) / 100\n"


def configuration(names: list[str]) -> dict:
    """One project with every member as a base, and a run of each stage."""
    runs = {}
    for name in names:
        for stage, (parent, keys) in MODEL.items():
            table = json.loads(json.dumps(SHARED | keys).replace("{}", name))
            if stage == "ppo" and not checks.can_score(zoo.MEMBERS[name].kind):  # there is no reward model
                table["reward"] = ANSWERING["reward"]
            runs[f"{stage}_{name}"] = table | {"from": parent.format(name)}
    return {
        "bases": {name: {"source": "path", "path": f"zoo/{name}", **zoo.MEMBERS[name].base} for name in names},
        "datasets": {
            "chats": {"path": "chats.jsonl", "validation": "held_out.jsonl", "near_duplicates": None, "licence": "mit"},
            "pairs": {
                "path": "pairs.jsonl",
                "validation": "held_out_pairs.jsonl",
                "near_duplicates": None,
                "licence": "mit",
            },
        },
        "runs": runs,
        "evaluation": {
            "max_length": 256,
            "max_new_tokens": 8,
            "data": ["chats", "pairs"],
            "suites": {"say": {"kind": "generation", "data": "chats", "metrics": ["chrf"]}},
        },
        "tracking": {"mlflow": False},
    }


def write_data(folder: Path) -> None:
    def chat(turns):
        roles = ("user", "assistant")
        said = [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]
        return {"messages": said}

    pairs = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in PAIRS]
    tables = {"chats": map(chat, CHATS), "held_out": map(chat, HELD_OUT), "pairs": pairs}
    tables |= {"held_out_pairs": [{"prompt": t[0][0], "chosen": t[0][1], "rejected": "Never mind."} for t in HELD_OUT]}
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.py").write_text(RULES)


class Workflow:
    """The jobs of all members, run when something that they make is asked for."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        write_data(folder)
        for name in names:
            zoo.build(name, folder / "zoo" / name)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(configuration(names)))
        self.jobs = jobs(folder, config, [target.format(name) for target in TARGETS for name in names])
        self.by_output = {file: job for job in self.jobs for file in job.outputs}
        self.seconds: dict[str, float] = {}

    def make(self, target: str) -> str | None:
        """Make a file and all that it needs; returns the sentence of the job that refuses, where one does.

        Raises:
            Exception: whatever a stage raises that is no refusal.
        """
        job = self.by_output.get(target)
        if job is None or job.state == "done":
            return None
        if job.state is None:
            job.state = next(filter(None, map(self.make, job.inputs)), None) or self._run(job)
        return None if job.state == "done" else job.state

    def _run(self, job: Job) -> str:
        began = time.perf_counter()
        try:
            run(job)
        except UserError as error:
            return str(error)
        finally:
            self.seconds[job.rule] = self.seconds.get(job.rule, 0) + time.perf_counter() - began
        return "done"


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """The project of all members."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Workflow(folder, list(zoo.MEMBERS))
