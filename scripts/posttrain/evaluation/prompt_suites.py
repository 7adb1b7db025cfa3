"""Suites whose prompts are in no dataset: cases of the user's, prompts for safety, and lm-evaluation-harness's tasks."""

from pathlib import Path

from posttrain.data import thoughts
from posttrain.data.samples import chosen
from posttrain.evaluation import cases as measured_cases
from posttrain.evaluation import safety as measured_safety
from posttrain.evaluation.candidate import Asked, Candidate, Row, ask
from posttrain.inference import scoring
from posttrain.inference.sharing import shared


def cases(candidate: Candidate, suite: dict) -> list[Row]:
    """The user's own prompts, each green where its answer has what it must and not what it must not have."""
    path = Path(suite["path"])
    asked = measured_cases.read(path)
    outputs: dict[str, str] = {}
    for most in dict.fromkeys(case.max_new_tokens or suite["max_new_tokens"] for case in asked):
        some = [case for case in asked if (case.max_new_tokens or suite["max_new_tokens"]) == most]
        prompts = [Asked(case.turns, case.tools) for case in some]
        outputs |= zip([case.id for case in some], ask(candidate, prompts, {"max_new_tokens": most}), strict=True)
    scores = measured_cases.score(asked, [outputs[case.id] for case in asked])
    return [
        {
            "dataset": path.stem,
            "id": case.id,
            "prompt": measured_cases.conversation_text(case.turns),
            "output": outputs[case.id],
        }
        | score
        for case, score in zip(asked, scores, strict=True)
    ]


def tasks(candidate: Candidate, suite: dict) -> list[Row]:
    """Tasks of lm-evaluation-harness on this project's engine; each task is a suite within the suite."""
    from posttrain.evaluation import harness

    include = Path(suite["include"]) if suite["include"] else None
    return harness.examples(
        candidate.model,
        candidate.tokenizer,
        suite["tasks"],
        include=include,
        limit=suite["limit"],
        shots=suite["shots"],
        batch_tokens=candidate.spec["batch_tokens"],
        chat=suite["chat"],
        generate=lambda *asked: [answer.text for answer in candidate.generate(*asked)],
    )


def safety(candidate: Candidate, suite: dict) -> list[Row]:
    """Refusals of harmful and of harmless requests, derogatory words, groups of people treated alike, and stereotypes."""
    examples = []
    for file in [Path(file) for file in suite["files"] or measured_safety.FILES]:
        asked = measured_safety.read(file)
        names = [row.get("pair", row["id"]) for row in asked]
        asked = [asked[i] for i in chosen(names, [row["kind"] for row in asked], suite["limit"])]
        prompts = [row for row in asked if row["kind"] != "stereotype"]
        outputs = ask(candidate, [Asked([{"role": "user", "content": row["prompt"]}]) for row in prompts], suite)
        said = list(map(thoughts.answer, outputs))
        named = [{"group": row["group"], "prompt_group": row["pair"]} if "pair" in row else {} for row in prompts]
        examples += [
            {"dataset": file.stem, "id": row["id"], "prompt": row["prompt"], "output": output} | group | score
            for row, group, output, score in zip(
                prompts, named, outputs, measured_safety.score(prompts, said), strict=True
            )
        ]
        sentences = [row for row in asked if row["kind"] == "stereotype"]
        examples += [{"dataset": file.stem} | example for example in stereotypes(candidate, sentences)]
    return examples


def stereotypes(candidate: Candidate, rows: list[Row]) -> list[Row]:
    """Two sentences of each row, scored as plain text after BOS, or EOS where the tokenizer has no BOS."""
    tokenizer = candidate.tokenizer
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    sentences = [row[side] for row in rows for side in ("more", "less")]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in sentences]
    sequences = [scoring.answer([first], own) for own in ids]
    scores = [
        total for total, _ in scoring.log_probs(candidate.model, sequences, candidate.spec["batch_tokens"], shared)
    ]
    return [
        {"id": row["id"], "prompt": row["more"], "reference": row["less"]} | measured_safety.stereotype(more, less)
        for row, more, less in zip(rows, scores[::2], scores[1::2], strict=True)
    ]


BY_KIND = {"cases": cases, "safety": safety, "tasks": tasks}
