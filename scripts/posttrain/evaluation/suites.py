"""What a model is measured on: the standard measurements of every dataset, and the suites that a configuration adds.

Each function gives example rows: `suite`, `dataset`, `id` and the numbers that metrics are computed from, with `prompt`,
`reference` and `output` where something was generated. Answers are scored later, all in one call, as `Request`s.
"""

from pathlib import Path
from typing import NamedTuple

from posttrain.data import rows, thoughts, tokens
from posttrain.data.dataset_types import DATASET_TYPES, MEDIA
from posttrain.data.samples import ANSWERS, HeldOut, conversation, pick
from posttrain.evaluation import acting, prompt_suites
from posttrain.evaluation.candidate import Asked, Candidate, Row, ask, check_known
from posttrain.evaluation.cases import conversation_text
from posttrain.inference import media, reward_models, scoring
from posttrain.inference.sharing import shared
from posttrain.metrics import final_numbers, statistics, text_metrics, tool_calls
from posttrain.runtime import processes
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError

SIDES = ("chosen", "rejected")


class Request(NamedTuple):
    """An answer to score, and the example that gets its log-probability."""

    example: Row
    side: str
    """chosen or rejected; empty for the answer of a conversation"""
    sequence: scoring.Sequence


def standard(candidate: Candidate) -> tuple[list[Row], list[Request]]:
    """The measurements of `evaluation.data`, by the type of each dataset's rows."""
    spec = candidate.spec
    found: tuple[list[Row], list[Request]] = [], []
    for data in spec["data"]:
        examples, requests = likelihood(candidate, "", data["name"], spec["limit"])
        if examples and DATASET_TYPES[shape(candidate, data["name"])].turns:
            answer(candidate, examples, data["name"])
        found[0].extend(examples)
        found[1].extend(requests)
    return found


def likelihoods(candidate: Candidate) -> list[Row]:
    """The measurements of `evaluation.data` and of the suites that generate nothing, scored."""
    spec = candidate.spec
    asked = [("", data["name"], spec["limit"]) for data in spec["data"]]
    asked += [
        (name, suite["data"]["name"], suite["limit"]) for name, suite in spec["suites"].items() if scores_only(suite)
    ]
    found = [likelihood(candidate, *one) for one in asked]
    score(candidate, [request for _, requests in found for request in requests])
    return [example for examples, _ in found for example in examples]


def scores_only(suite: dict) -> bool:
    """Whether a suite generates nothing."""
    return suite["kind"] in ("perplexity", "preference")


def measure(candidate: Candidate, name: str, suite: dict) -> tuple[list[Row], list[Request]]:
    """The measurements of one suite of the configuration."""
    kind = suite["kind"]
    if scores_only(suite):
        return likelihood(candidate, name, suite["data"]["name"], suite["limit"])
    by_kind = {"generation": generation, "reward": reward, "judge": to_judge, "environment": acting.acting}
    by_kind |= prompt_suites.BY_KIND
    found = by_kind[kind](candidate, suite)
    return [row | {"suite": f"{name}/{row['suite']}" if "suite" in row else name} for row in found], []


# ---- likelihood


def likelihood(candidate: Candidate, suite: str, dataset: str, limit: int) -> tuple[list[Row], list[Request]]:
    """Held-out rows whose answers are to be scored; a prompt alone has none, one labelled answer nothing to compare it with."""
    encoded, examples = held_out_tokens(candidate, suite, dataset, limit)
    requests = []
    for row, example in zip(encoded, examples, strict=True):
        files = media.of(row, candidate.data[dataset])
        if "chosen_ids" not in row and "labels" not in row:
            continue
        if "chosen_ids" in row:
            requests += [
                Request(example, side, scoring.answer(row["prompt_ids"], row[f"{side}_ids"], files)) for side in SIDES
            ]
        else:
            requests.append(Request(example, "", scoring.sequence(row["input_ids"], row["labels"], files)))
            scored = [token for token in row["labels"] if token != tokens.IGNORED]
            example["bytes"] = float(len(candidate.tokenizer.decode(scored, skip_special_tokens=True).encode()))
    return examples, requests


def score(candidate: Candidate, requests: list[Request]) -> None:
    """Give every example the log-probability of its answer, or of both; equal answers are scored once."""
    check_known(candidate, (request.sequence[0] for request in requests))
    scores = scoring.log_probs(
        candidate.model, [request.sequence for request in requests], candidate.spec["batch_tokens"], shared
    )
    for (example, side, _), (total, count) in zip(requests, scores, strict=True):
        example |= {f"{side}_log_prob": total} if side else {"log_prob": total, "tokens": float(count)}
    for example, *_ in requests:
        if "chosen_log_prob" in example:
            example["prefers_chosen"] = statistics.preference(example["chosen_log_prob"], example["rejected_log_prob"])


def score_pairs(candidate: Candidate) -> list[Row]:
    """What a reward model gives both answers of every held-out pair."""
    found = []
    for data in candidate.spec["data"]:
        if shape(candidate, data["name"]) != "preference":
            continue
        pairs, examples = held_out_tokens(candidate, "", data["name"], candidate.spec["limit"])
        scores = scoring.pair_rewards(candidate.model, pairs, candidate.spec["batch_tokens"], shared)
        found += [
            example | {"chosen_score": good, "rejected_score": bad, "scores_chosen": statistics.preference(good, bad)}
            for example, (good, bad) in zip(examples, scores, strict=True)
        ]
    return found


def held_out_tokens(candidate: Candidate, suite: str, dataset: str, limit: int) -> tuple[list[Row], list[Row]]:
    """The tokens of at most `limit` held-out rows, and what an example says of each."""
    import pyarrow.parquet as pq

    file, held_out = tokens_folder(candidate, dataset) / "validation.parquet", HeldOut(candidate.data[dataset])
    names = pq.read_table(file, columns=["id"])["id"].to_pylist()
    names = [names[i] for i in held_out.sample(names, limit)]
    encoded = {row["id"]: row for row in pick(file, names)}
    found = held_out.read(names)
    where = {"suite": suite, "dataset": dataset}
    examples = [where | held_out.example(name, found[conversation(name)]) for name in names]
    return [encoded[name] for name in names], examples


def tokens_folder(candidate: Candidate, dataset: str) -> Path:
    return candidate.tokens / f"{dataset},max_length={candidate.spec['max_length']}"


def shape(candidate: Candidate, dataset: str) -> str:
    return read_json(tokens_folder(candidate, dataset) / "report.json")["shape"]


# ---- answers


def answer(candidate: Candidate, examples: list[Row], dataset: str) -> None:
    """Generate answers to the examples: to all where every reference has GSM8K's `#### number`, else to a few, to be read.

    Where all are answered, the final numbers are compared. Where a suite answers the same prompts, those are there to be read.
    """
    found = HeldOut(candidate.data[dataset]).read(example["id"] for example in examples)
    asked = [tokens.up_to(found[conversation(example["id"])], example["id"]) for example in examples]
    pairs = [(row, example) for row, example in zip(asked, examples, strict=True) if tokens.prompt_turns(row)]
    marked = all("messages" in row and final_numbers.MARKED.search(_reference(row)) for row, _ in pairs)
    pairs = pairs if marked else pairs[: 0 if _is_asked(candidate, dataset) else candidate.spec.get("answers", ANSWERS)]
    outputs = ask(candidate, [candidate.asked(row, dataset) for row, _ in pairs], candidate.spec)
    for (row, example), output in zip(pairs, outputs, strict=True):
        example |= _texts(row) | {"output": output}
        if marked:
            said, reference = thoughts.answer(output), example["reference"]
            example |= {
                "exact_match": final_numbers.strict_match(said, reference),
                "exact_match_lenient": final_numbers.final_number(said, reference),
                "format_followed": final_numbers.answer_format(said, reference),
            }


def _is_asked(candidate: Candidate, dataset: str) -> bool:
    """Whether a suite has answers to the same prompts."""
    suites = [suite for suite in candidate.spec["suites"].values() if "data" in suite and not scores_only(suite)]
    return any(suite["data"]["name"] == dataset and not suite.get("shots") for suite in suites)


def generation(candidate: Candidate, suite: dict) -> list[Row]:
    """Answers to a dataset's held-out rows, measured against their references."""
    asked, examples = _asked(candidate, suite)
    shots, dataset = _shots(candidate, suite), suite["data"]["name"]
    outputs = ask(candidate, [_after(shots, candidate.asked(row, dataset)) for row in asked], suite)
    if not processes.is_main():  # a metric may be the user's own, and runs once
        return []
    references = [_reference(row) for row in asked]
    prompts = list(map(tokens.prompt_turns, asked))
    said = list(map(thoughts.answer, outputs))
    scores = text_metrics.score(suite["metrics"], said, references, suite["pattern"], prompts)
    return [
        example | {"output": output} | score for example, output, score in zip(examples, outputs, scores, strict=True)
    ]


def reward(candidate: Candidate, suite: dict) -> list[Row]:
    """Answers to a dataset's held-out rows, scored by a reward model at the turn's end, where they have come to it.

    It reads the tokens that were written, thoughts included, as in training by PPO.

    Raises:
        UserError: the reward model reads other tokens than the candidate writes.
    """
    asked, examples = _asked(candidate, suite)
    asking = [candidate.asked(row, suite["data"]["name"]) for row in asked]
    prompts = list(map(candidate.prompt, asking))
    given = candidate.ask(asking, suite["max_new_tokens"])
    precision = candidate.spec.get("precision", "fp32")
    judge = reward_models.load_reward_model(
        candidate.reward_models[suite["by"]["name"]], candidate.tokenizer, arithmetic=precision
    )
    end = tokens.turn_end(candidate.tokenizer, candidate.stops)
    whole = [
        (*prompt, *answer.ids, *([end] if answer.ended else [])) for prompt, answer in zip(prompts, given, strict=True)
    ]
    scores = scoring.rewards(judge, whole, candidate.spec["batch_tokens"], shared)
    return [
        example | {"output": answer.text, "reward": score}
        for example, answer, score in zip(examples, given, scores, strict=True)
    ]


def to_judge(candidate: Candidate, suite: dict) -> list[Row]:
    """Answers to a dataset's held-out rows; a job of its own has them judged. The prompt is the whole conversation."""
    asked, examples = _asked(candidate, suite)
    outputs = ask(candidate, [candidate.asked(row, suite["data"]["name"]) for row in asked], suite)
    return [
        example | {"prompt": conversation_text(tokens.prompt_turns(row)), "output": output}
        for row, example, output in zip(asked, examples, outputs, strict=True)
    ]


def _asked(candidate: Candidate, suite: dict) -> tuple[list[Row], list[Row]]:
    """The held-out rows that a suite asks, and what an example says of each."""
    dataset = suite["data"]["name"]
    held_out = HeldOut(candidate.data[dataset])
    names = [held_out.ids[i] for i in held_out.sample(held_out.ids)]
    found = held_out.read(names[: suite["limit"]])
    if not all(map(tokens.prompt_turns, found.values())):  # some open with the assistant, and ask nothing
        found = {name: row for name, row in held_out.read(names).items() if tokens.prompt_turns(row)}
    asked = [found[name] for name in names if name in found][: suite["limit"]]
    return asked, [{"dataset": dataset} | held_out.example(row["id"], row) | _texts(row) for row in asked]


def _texts(row: Row) -> Row:
    """What an example shows of a row: the last turn that asks, the answer that there is, and the names of its files."""
    files = {name: row[name] for name in MEDIA if row.get(name)}
    return {"prompt": tokens.prompt_turns(row)[-1]["content"], "reference": _reference(row)} | files


def _shots(candidate: Candidate, suite: dict) -> Asked:
    """The first training rows as turns, each a question and its answer, with the files of all.

    Raises:
        UserError: there are fewer.
    """
    dataset, wanted = suite["data"]["name"], suite["shots"]
    found = (
        [row for row in rows.read(candidate.data[dataset] / "train.parquet") if len(_turns(row)) == 2][:wanted]
        if wanted
        else []
    )
    if len(found) < wanted:
        problem = f"num_fewshot is {wanted}, but {dataset} has {len(found)} single-turn training rows"
        raise UserError("invalid-value", "evaluation.suites", problem, "write a smaller number")
    files = [file for row in found for file in media.of(row, candidate.data[dataset])]
    return Asked([turn for row in found for turn in _turns(row)], files=tuple(files))


def _turns(row: Row) -> list[Row]:
    """What user and assistant say in a row."""
    turns = row["messages"] if "messages" in row else [*row["prompt"], *row["chosen"]]
    return [turn for turn in turns if turn["role"] != "system"]


def _after(shots: Asked, asked: Asked) -> Asked:
    """What is asked, with worked examples before it; a system prompt stays the first."""
    turns = asked.turns
    system = turns[:1] if turns[0]["role"] == "system" else []
    return Asked([*system, *shots.turns, *turns[len(system) :]], asked.tools, shots.files + asked.files)


def _reference(row: Row) -> str | None:
    """The wanted answer of a row, with its tool calls; None where it has none."""
    turns = row.get("messages") or row.get("chosen") or (row.get("completion") if row.get("label") else None)
    return thoughts.answer(tool_calls.message_text(turns[-1])) if turns else None
