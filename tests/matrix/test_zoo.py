"""Every family of the zoo through the whole workflow, each stage beside a plain loop over transformers.

docs/support-matrix.md has what this module finds; `POSTTRAIN_WRITE_MATRIX=1 pytest tests/matrix` writes it.
"""

import json
import os
import re
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
import zoo
from conftest import REPOSITORY
from in_process import Job, jobs, run

from posttrain.compat import transformers_source
from posttrain.runtime.errors import UserError

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
SHARED = {"max_length": 400, "batch_size": 4, "max_steps": 2}
ANSWERING = {"objective": "grpo", "data": "chats", "max_new_tokens": 6, "reward": {"function": "rules.py:short"}}
MODEL = {  # what each stage starts from, by name, and its keys
    "sft": ("{}", {"objective": "sft", "data": "chats", "learning_rate": 1e-2}),
    "dpo": ("sft_{}", {"objective": "dpo", "data": "pairs", "learning_rate": 1e-3, "precision": "fp32"}),
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
            if stage == "ppo" and not transformers_source.has_classifier(
                zoo.MEMBERS[name].kind
            ):  # there is no reward model
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
            "max_length": 400,
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
            Exception: whatever a stage raises that is no refusal, each time that its result is asked for.
        """
        job = self.by_output.get(target)
        if job is None or job.state == "done":
            return None
        if isinstance(job.state, Exception):
            raise job.state
        if job.state is None:
            job.state = next(filter(None, map(self.make, job.inputs)), None) or self._run(job)
        return None if job.state == "done" else job.state

    def _run(self, job: Job) -> str:
        began = time.perf_counter()
        try:
            run(job)
        except UserError as error:
            return str(error)
        except Exception as error:
            job.state = error
            raise
        finally:
            self.seconds[job.rule] = self.seconds.get(job.rule, 0) + time.perf_counter() - began
        return "done"

    def option(self, output: str, name: str) -> Path:
        """What the command that makes a file is given as `--name`."""
        return Path(re.search(rf"--{name} (\S+)", self.by_output[output].command)[1].strip("'"))

    def tokens(self, run: str) -> Path:
        """The folder of tokens that a run trains on."""
        return self.option(f"results/{run}/train.json", "tokens")


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """The project of all members."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Workflow(folder, list(zoo.MEMBERS))


# ---- plain loops over transformers


def load(folder: Path, kind: str = "CausalLM"):
    """The model in `folder`, in float32."""
    import transformers

    auto = getattr(transformers, f"AutoModelFor{kind}")
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model, ids: list[int]) -> torch.Tensor:
    """(length, vocabulary), of one row alone."""
    return model(input_ids=torch.tensor([ids])).logits[0].float()


def log_prob(model, ids: list[int], labels: list[int]) -> float:
    """The summed log-probability (nats) of one row's labels."""
    rows = logits(model, ids).log_softmax(-1)
    return sum(rows[i - 1, label].item() for i, label in enumerate(labels) if i and label != -100)


def stops(folder: Path, tokenizer) -> list[int]:
    """All tokens that end an answer."""
    file = folder / "generation_config.json"
    ends = json.loads(file.read_text()).get("eos_token_id") if file.exists() else []
    return sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})


@torch.no_grad()
def greedy(model, ids: list[int], ends: list[int], most: int) -> list[int]:
    """The likeliest token, one after the other, without a cache."""
    said: list[int] = []
    while len(said) < most:
        said.append(int(logits(model, ids + said)[-1].argmax()))
        if said[-1] in ends:
            return said[:-1]
    return said


def rows(file: Path) -> list[dict]:
    return pq.read_table(file).to_pylist()


def made(workflow: Workflow, target: str) -> None:
    """Make a file, or skip: what is refused is a cell of the table."""
    refusal = workflow.make(target)
    if refusal:
        pytest.skip(refusal.splitlines()[-1][:80])


MEMBERS = pytest.mark.parametrize("name", zoo.MEMBERS)


# ---- the stages


@MEMBERS
def test_what_is_trained_is_what_the_assistant_says_and_the_token_that_ends_it(name, workflow):
    from transformers import AutoTokenizer

    member = zoo.MEMBERS[name]
    made(workflow, f"results/sft_{name}/train.json")
    tokenizer = AutoTokenizer.from_pretrained(f"results/bases/{name}/model")
    said = []
    for row in rows(workflow.tokens(f"sft_{name}") / "train.parquet"):
        spans = re.findall("x+", "".join("-" if label == -100 else "x" for label in row["labels"]))
        trained = [label for label in row["labels"] if label != -100]
        for span in spans:
            said.append(tokenizer.decode(trained[: len(span)]))
            trained = trained[len(span) :]
    expected = [answer + member.turn_end for chat in CHATS for _, answer in chat]
    assert sorted(text.removeprefix(member.opens) for text in said) == sorted(expected)


@MEMBERS
def test_an_answer_begins_where_a_chat_leaves_the_word_to_the_assistant(name, workflow):
    """The first tokens of a row are what transformers renders of the conversation; a base without a template gets its BOS."""
    from transformers import AutoTokenizer

    member = zoo.MEMBERS[name]
    made(workflow, f"results/sft_{name}/train.json")
    tokenizer = AutoTokenizer.from_pretrained(f"results/bases/{name}/model")
    for row in rows(workflow.tokens(f"sft_{name}") / "train.parquet"):
        begins = (
            [tokenizer.bos_token_id]
            if member.adds_bos or (member.bos and "bos_token" in (zoo.template(member.template) or ""))
            else []
        )
        assert row["input_ids"][: len(begins)] == begins
        assert row["input_ids"][1:].count(tokenizer.bos_token_id) == 0 or member.bos == member.eos


@MEMBERS
def test_scores_are_those_of_one_row_alone(name, workflow):
    made(workflow, f"results/sft_{name}/eval.json")
    target = f"results/sft_{name}/eval.json"
    model, tokens = load(workflow.option(target, "model")), workflow.option(target, "tokens")
    encoded = {row["id"]: row for row in rows(next(tokens.glob("chats,*")) / "validation.parquet")}
    examples = [
        row for row in rows(Path(f"results/sft_{name}/eval/examples.parquet")) if row.get("log_prob") is not None
    ]
    assert len(examples) >= len(HELD_OUT)
    for row in examples:
        expected = log_prob(model, encoded[row["id"]]["input_ids"], encoded[row["id"]]["labels"])
        assert row["log_prob"] == pytest.approx(expected, abs=2e-3, rel=1e-4)


@MEMBERS
def test_answers_are_those_of_a_plain_loop(name, workflow):
    from transformers import AutoTokenizer

    from posttrain.data.rows import read
    from posttrain.data.tokens import prompt_tokens

    made(workflow, f"results/sft_{name}/eval.json")
    folder = workflow.option(f"results/sft_{name}/eval.json", "model")
    model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
    asked = {row["id"]: row["messages"][:-1] for row in read(Path("results/data/chats/validation.parquet"))}
    answers = [row for row in rows(Path(f"results/sft_{name}/eval/examples.parquet")) if row["suite"] == "say"]
    assert len(answers) == len(HELD_OUT)
    for row in answers:
        ids = prompt_tokens(tokenizer, asked[row["id"]])
        said = tokenizer.decode(greedy(model, ids, stops(folder, tokenizer), 8), skip_special_tokens=True)
        marks = zoo.MEMBERS[name].special  # those by which thoughts are told from answers are kept
        assert re.sub("|".join(map(re.escape, marks)), "", row["output"]) == said


@MEMBERS
def test_the_merged_model_is_the_trained_one(name, workflow):
    from peft import PeftModel

    made(workflow, f"results/sft_{name}/merge.json")
    trained = Path(f"results/sft_{name}")
    merged = trained / "merged" if (trained / "merged").exists() else trained / "model"
    proof = json.loads((trained / "merge.json").read_text())
    ids = rows(workflow.tokens(f"sft_{name}") / "validation.parquet")[0]["input_ids"]
    parent = load(Path(f"results/bases/{name}/model"))
    before = logits(parent, ids)
    after = logits(PeftModel.from_pretrained(parent, trained / "trained").eval(), ids)
    effect = (after - before).abs().mean()
    assert effect > 1e-4
    assert (logits(load(merged), ids) - after).abs().mean() < 0.02 * effect
    assert proof["greedy_agreement"] > 0.95


@MEMBERS
def test_the_reference_of_dpo_is_the_parent(name, workflow):
    made(workflow, f"results/dpo_{name}/train.json")
    target = f"results/dpo_{name}/train.json"
    model = load(workflow.option(target, "parent"))
    pairs = zip(
        rows(workflow.tokens(f"dpo_{name}") / "train.parquet"), rows(workflow.option(target, "logprobs")), strict=True
    )
    for row, reference in list(pairs)[:2]:
        for side in ("chosen", "rejected"):
            ids = row["prompt_ids"] + row[f"{side}_ids"]
            labels = [-100] * len(row["prompt_ids"]) + row[f"{side}_ids"]
            expected = log_prob(model, ids, labels)
            assert reference[f"ref_{side}_logps"] == pytest.approx(expected, abs=2e-3, rel=1e-4)


@MEMBERS
def test_a_reward_is_the_score_of_one_answer_alone_with_the_token_that_ends_it(name, workflow):
    target = f"results/reward_{name}/eval.json"
    made(workflow, target)
    folder = workflow.option(target, "model")
    model, tokens = load(folder, "SequenceClassification"), workflow.option(target, "tokens")
    encoded = {row["id"]: row for row in rows(next(tokens.glob("pairs,*")) / "validation.parquet")}
    end = zoo.build_tokenizer(zoo.MEMBERS[name]).convert_tokens_to_ids(zoo.MEMBERS[name].turn_end)
    examples = rows(Path(f"results/reward_{name}/eval/examples.parquet"))
    assert len(examples) == len(HELD_OUT)
    for row in examples:
        pair = encoded[row["id"]]
        for side in ("chosen", "rejected"):
            ids = pair["prompt_ids"] + pair[f"{side}_ids"]
            assert ids[-1] == end
            assert row[f"{side}_score"] == pytest.approx(logits(model, ids).item(), abs=1e-3, rel=1e-3)


@MEMBERS
def test_a_model_that_was_trained_in_4_bits_is_merged_into_what_it_was_trained_on(name, workflow):
    made(workflow, f"results/qlora_{name}/merge.json")
    proof = json.loads(Path(f"results/qlora_{name}/merge.json").read_text())
    assert proof["merged_into"] == "dequantised"
    assert proof["drift"]["dequantised"] < max(0.05, proof["drift"]["original"])
    assert proof["greedy_agreement"] > 0.95


# ---- the table

PAGE = REPOSITORY / "docs/support-matrix.md"
BEGIN, NEXT = "\n## Families by stages", "\n## Models with images and audio by stages"
CELLS = {
    "sft, multi-turn": "results/sft_{}/train.json",
    "dpo": "results/dpo_{}/merge.json",
    "reward": "results/reward_{}/merge.json",
    "ppo": "results/ppo_{}/merge.json",
    "grpo": "results/grpo_{}/merge.json",
    "qlora": "results/qlora_{}/merge.json",
    "merge": "results/sft_{}/merge.json",
    "eval": "results/sft_{}/eval.json",
}
ALONE = "rows with a common prefix are computed separately, as tokens do not attend to all earlier ones or positions are learned"
SCALES = "logits are scaled, capped or have a bias, so that TRL's own head computes all of them"
NO_SCORE = "transformers has no model of the type MODEL_TYPE that gives a sequence one score"
# The cells that are refused, and how the sentence begins.
REFUSED: dict[str, dict[str, str]] = {
    **{name: {"reward": NO_SCORE} for name in ("granite", "cohere", "falcon_h1", "lfm2")},
    "llama3_beyond": dict.fromkeys(CELLS, "embeddings for 386 tokens"),
}
found: dict[tuple[str, str], str | None] = {}


@MEMBERS
def test_every_cell_works_or_is_refused_in_one_sentence_before_it_is_paid_for(name, workflow):
    for stage, target in CELLS.items():
        found[name, stage] = sentence(name, workflow.make(target.format(name)))
    kernels(name)
    refused = {stage: why for (member, stage), why in found.items() if member == name and why and stage in CELLS}
    assert refused.keys() == REFUSED.get(name, {}).keys()
    for stage, why in refused.items():
        assert re.search(REFUSED[name][stage], why), why


def kernels(name: str) -> None:
    from posttrain.models import lm_head, shared_prefix

    folder = Path(f"results/bases/{name}/model")
    if not folder.exists():
        return
    model = load(folder)
    found[name, "shared prefix"] = None if shared_prefix.can_share(model) else ALONE
    found[name, "fast kernels"] = None if lm_head.plain(model) else SCALES


def sentence(name: str, refusal: str | None) -> str | None:
    """A refusal without what is only this run's: its name, the model's type, and how to overrule it."""
    if refusal is None:
        return None
    lines = refusal.splitlines()
    told = [line for line in lines[1:-1] if not line.startswith(" ")]  # without the rows that show it
    line = told[-1] if lines[0].endswith("is not trained:") else lines[0]
    line = re.sub(rf"^(sft|dpo|reward|ppo|grpo|qlora)_{name}: ", "", line)
    return line.replace(f"type {zoo.MEMBERS[name].kind} ", "type MODEL_TYPE ").replace(
        f"results/bases/{name}/model", "FOLDER"
    )


def page() -> str:
    """The table of all members, and the sentences of what is refused."""
    columns = [*CELLS, "shared prefix", "fast kernels"]
    reasons = list(dict.fromkeys(why for why in found.values() if why))
    lines = [
        BEGIN,
        "",
        "Generated by `tests/matrix/test_zoo.py`, which runs the real scripts on a tiny random model of each family, with the",
        "family's special tokens, stop tokens and chat template, and compares loss masks, scores, completions and merges with a",
        "plain implementation in transformers. **yes**: they agree. A number: see the message below; unsupported stages are",
        "refused before training. Without a shared prefix or fast kernels, results are the same but computed more slowly.",
        "",
        "| family | weights | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, member in zoo.MEMBERS.items():
        cells = [found.get((name, column), "-") for column in columns]
        marks = ["yes" if why is None else "" if why == "-" else str(reasons.index(why) + 1) for why in cells]
        weights = "4 bits" if member.bits else {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[member.dtype]
        weights += ", tied" * member.tied + ", several files" * bool(member.shard)
        lines.append(f"| {member.title or name} | {weights} | " + " | ".join(marks) + " |")
    return "\n".join([*lines, "", *(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))]) + "\n"


def test_the_page_says_what_was_found():
    if len({name for name, _ in found}) < len(zoo.MEMBERS):
        pytest.skip("not every member was run")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = "".join(rest.partition(NEXT)[1:])  # tests/unit/training/test_media_table.py's
    if "POSTTRAIN_WRITE_MATRIX" in os.environ:
        PAGE.write_text(before + page() + after)
    assert PAGE.read_text() == before + page() + after
