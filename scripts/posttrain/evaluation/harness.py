"""Tasks of lm-evaluation-harness (Gao et al. 2024) with this project's scoring and generation.

Its Hugging Face back-end makes the prompts, tokens and windows, so that results are comparable with published ones; only the
forward passes and the generation are ours. A task's dataset comes from the hub or, with HF_HUB_OFFLINE=1, from its cache. The
data files of a task file (`dataset_path: json`, `dataset_kwargs: {data_files: ...}`) are relative, as every path, to the
project's folder, wherever the task file lies.
"""

import re
from collections.abc import Callable
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from posttrain.data import thoughts, tokens
from posttrain.inference import scoring
from posttrain.inference.sharing import shared
from posttrain.runtime import processes
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError, nearest

try:
    import lm_eval
    from lm_eval.api.metrics import mean, nanmean
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
    from lm_eval.tasks import TaskManager

    from posttrain.compat.lm_eval_internals import Kind, load_yaml
except ImportError:
    raise UserError(
        "missing-package", "evaluation.suites", "`kind: tasks` needs lm-evaluation-harness", "run `pip install lm-eval`"
    ) from None

Generate = Callable[[list[list[int]], int, tuple[str, ...]], list[str]]
"""Greedy answers to prompts (token ids), of so many tokens, cut before the first of these texts."""

ALL = 2**31  # requests in one call: the engine makes the batches
# Metrics of a sum of log-probabilities: the column of what it is divided by.
PER = {"word_perplexity": "words", "byte_perplexity": "bytes", "bits_per_byte": "bytes"}


class Engine(HFLM):
    """lm-eval's Hugging Face back-end, with the model's work done by `scoring`."""

    def __init__(self, model: Any, tokenizer: Any, batch_tokens: int, generate: Generate, chat: bool = False) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=ALL)
        self.batch_tokens, self.generate, self.chat = batch_tokens, generate, chat
        self.outputs: dict[tuple[str, str], str] = {}  # whole answers, thoughts included, by what was asked

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation as in training; without a generation prompt, its last turn is left open to be continued."""
        try:
            text = tokens.render(self.tokenizer, chat_history, generate=add_generation_prompt)
        except UserError:  # as lm-eval does where a template knows no system
            others = [turn for turn in chat_history if turn["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            return self.apply_chat_template(others, add_generation_prompt)
        if add_generation_prompt:
            return text
        said = chat_history[-1]["content"].strip()
        return text[: text.rindex(said) + len(said)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Token ids; a chat template writes the special tokens itself, and a plain text gets those of the tokenizer."""
        if add_special_tokens is None and self.chat:
            add_special_tokens = False
        return super().tok_encode(string, add_special_tokens=add_special_tokens, **options)

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, override_bs: Any = None) -> list:
        """Log-probability of each continuation after its context, and whether greedy decoding gives it.

        Before a whole text lm-eval puts a BOS of its own, beside the one of a tokenizer that adds it: here there is one.
        """
        pairs = [
            (
                context,
                continuation[1:] if context == continuation[:1] == [self.tokenizer.bos_token_id] else continuation,
            )
            for _, context, continuation in requests
        ]
        sequences = [
            scoring.answer(context[-(self.max_length + 1 - len(continuation)) :], continuation)
            for context, continuation in pairs
        ]
        found = scoring.scores(self.model, sequences, self.batch_tokens, shared)
        return [(score.log_prob, score.greedy) for score in found]

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each prompt without its thoughts, those of equal settings in one call."""
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        alike: dict[tuple, list[int]] = {}
        for i, request in enumerate(requests):
            settings = normalize_gen_kwargs(request.args[1], self.max_gen_toks)
            until = handle_stop_sequences(settings["until"], eos=eos)
            alike.setdefault((settings["max_gen_toks"], *until), []).append(i)
        outputs = [""] * len(requests)
        for (longest, *until), rows in alike.items():
            room = self.max_length - longest if longest < self.max_length else self.max_length // 2
            prompts = [self.tok_encode(requests[i].args[0])[-room:] for i in rows]
            for i, output in zip(rows, self.generate(prompts, longest, tuple(until)), strict=True):
                self.outputs[_asked(requests[i].args)] = output
                outputs[i] = thoughts.answer(output)
        return outputs


def examples(
    model: Any,
    tokenizer: Any,
    tasks: list[str],
    include: Path | None,
    limit: int,
    shots: int | None,
    batch_tokens: int,
    chat: bool | None,
    generate: Generate | None = None,
) -> list[dict[str, Any]]:
    """One row for each document of each task: texts, and a column for each metric that is computed from documents.

    Args:
        tasks: names of tasks, groups or tags.
        include: a folder with task files of the user's own.
        limit: documents of each task.
        shots: worked examples before each document; None for the task's own number.
        chat: put the prompts into the tokenizer's chat template; None where it has one.
        generate: gives the answers, by default `scoring.generate`.

    Raises:
        UserError: a task is unknown, cannot be read or cannot be run here, or there is no chat template.
    """
    if chat and not tokenizer.chat_template:
        raise UserError(
            "unusable-chat-template",
            "evaluation.suites",
            "`chat: true` needs a chat template, and the base has none",
            "write `apply_chat_template: false`, or set the base's `chat_template`",
        )
    if chat is None and not tokenizer.chat_template:
        say("the base has no chat template: the tasks' prompts are used as plain text")
    chat = bool(tokenizer.chat_template) if chat is None else chat
    loaded = load(tasks, include)
    for task in loaded:
        _check(task, model.config)
    engine = Engine(model, tokenizer, batch_tokens, generate or partial(scoring.generate, model, tokenizer), chat)
    results = evaluate(engine, loaded, limit, shots, chat)
    if not processes.is_main():  # lm-eval too gives the results to the first process of a machine only
        return []
    return [row for task in loaded for row in _rows(task, results["samples"][task.task_name], engine.outputs)]


def evaluate(engine: HFLM, tasks: list[Task], limit: int, shots: int | None, chat: bool) -> dict[str, Any] | None:
    """What lm-eval's own evaluator gives for a model behind any of its back-ends, with every sample; None where LOCAL_RANK is not 0."""
    return lm_eval.simple_evaluate(
        model=engine,
        tasks=tasks,
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=shots,
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=chat,
        log_samples=True,
    )


def load(names: list[str], include: Path | None) -> list[Task]:
    """The tasks of these names; groups and tags are all of their tasks.

    Raises:
        UserError: a name is unknown, or a task cannot be read.
    """
    manager = TaskManager(include_path=include, include_defaults=False)
    own = manager.task_index
    if not all(name in own and own[name].kind in (Kind.TASK, Kind.PY_TASK) for name in names):
        _check_files(include)
        manager = TaskManager(include_path=include)  # reading lm-eval's own 10 000 task files takes a while
    found: dict[str, Task] = {}
    for name in names:
        if name not in manager.task_index:
            hint = nearest(name, manager.all_tasks)
            raise UserError("unknown-name", "evaluation.suites", f"lm-eval has no task '{name}'", hint)
        try:
            found |= manager.load([name])["tasks"]
        except Exception as error:  # a task file may run any code
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(
                "unreadable-file", "evaluation.suites", f"cannot read the task '{name}': {reason}"
            ) from None
    return list(found.values())


def _check_files(include: Path | None) -> None:
    """Say which file cannot be read: lm-eval passes over it, and its task is then unknown."""
    for file in sorted(include.rglob("*.yaml")) if include else []:
        try:
            load_yaml(file, resolve_func=False)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError("unreadable-file", str(file), f"lm-eval cannot read this task file: {reason}") from None


def _check(task: Task, config: Any) -> None:
    """Refuse tasks that this engine does not support.

    Raises:
        UserError: the task runs generated code, has images or audio, or samples.
    """
    settings = task.get_config("generation_kwargs") or {}
    problem, hint = None, "remove the task"
    if getattr(task, "UNSAFE_CODE", False):
        problem = "executes code that the model generates"
    elif getattr(task, "MULTIMODAL", False):
        problem = "has images or audio as input"
    elif settings.get("do_sample"):
        problem, hint = (
            "samples its completions; only greedy decoding is supported",
            "write a task file with `do_sample: false`",
        )
    if problem:
        raise UserError("unsupported-task", "evaluation.suites", f"the task '{task.task_name}' {problem}", hint)


def _asked(arguments: tuple) -> tuple[str, str]:
    return arguments[0], str(arguments[1])


def _rows(task: Task, samples: list[dict[str, Any]], outputs: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
    """The example rows of a task; a document has a sample for each filter of its answers."""
    rows: dict[int, dict[str, Any]] = {}
    left_out = set()
    for sample in samples:
        row = rows.setdefault(sample["doc_id"], _texts(task, sample, outputs))
        for metric in sample["metrics"]:
            columns = _columns(task, metric, sample["filter"], sample[metric])
            row |= columns
            left_out |= set() if columns else {metric}
    if left_out:
        say(f"{task.task_name}: {', '.join(sorted(left_out))} left out: not a mean over documents")
    return list(rows.values())


def _texts(task: Task, sample: dict[str, Any], outputs: dict[tuple[str, str], str]) -> dict[str, Any]:
    *context, _ = sample["arguments"][0]  # a text that is scored whole has none
    target = sample["target"]
    if task.OUTPUT_TYPE == "multiple_choice" and isinstance(target, int):
        target = sample["arguments"][target][1].strip()
    return {
        "suite": task.task_name,
        "dataset": task.task_name,
        "id": str(sample["doc_id"]),
        "prompt": "".join(context),
        "reference": str(target),
        "output": outputs[_asked(sample["arguments"][0])] if task.OUTPUT_TYPE == "generate_until" else None,
    }


def _columns(task: Task, metric: str, filter_name: str, value: Any) -> dict[str, float]:
    """The numbers of one document that a metric is computed from; none where it is not computed from such."""
    aggregation = task.aggregation().get(metric, mean)
    if metric in PER and isinstance(value, tuple):
        return {"log_prob": float(value[0]), PER[metric]: float(value[1])}
    if metric == "perplexity" and aggregation is not mean:  # per document: a document counts as one token
        return {"log_prob": float(value), "tokens": 1.0}
    if aggregation not in (mean, nanmean) or not isinstance(value, Real) or value != value:
        return {}
    name = metric if filter_name == "none" else f"{metric}_{filter_name}"
    return {re.sub("[^a-z0-9]+", "_", name.lower()).strip("_"): float(value)}
