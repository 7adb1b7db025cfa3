"""What a run's evaluation will need, as far as it can be known before the run is trained.

The questions are about the model, its tokenizer and its template. Nothing here imports torch.
"""

import importlib.util
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.preflight.token_scan import Subject

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")  # names of the context in configurations
LEARNT = re.compile(r"(^|\.)(wpe|embed_positions|positions_embed|position_embeddings?)\.weight$")
SCALED = ("dynamic", "longrope")  # rotary positions that depend on the longest row of a batch


def context(config: dict[str, Any]) -> int | None:
    """The most tokens that a model reads and writes, by its configuration; None where that names none."""
    return next((config[name] for name in POSITIONS if config.get(name)), None)


def learns_positions(parameters: Iterable[str]) -> bool:
    """Whether a model of parameters with these names has an embedding for each position, beyond which it cannot go."""
    return any(LEARNT.search(name) for name in parameters)


def errors(run: "Subject") -> list[str]:
    """What would end the evaluation in an error, once the training is paid for."""
    spec, found = run.evaluation, []
    positions = context(run.model.config)
    if positions and learns_positions(run.model.shapes) and spec["max_length"] > positions:
        found.append(
            f"evaluation.max_length is {spec['max_length']}, and the model has learnt {positions} positions; "
            f"write evaluation.max_length: {positions}"
        )
    for name, suite in spec["suites"].items():
        if suite["kind"] == "tasks" and importlib.util.find_spec("lm_eval") is None:
            found.append(f"evaluation.suites.{name} needs lm-evaluation-harness; `pip install lm-eval`")
        if suite["kind"] == "tasks" and suite["chat"] and not run.tokenizer.chat_template:
            found.append(
                f"evaluation.suites.{name}: `chat: true` needs a chat template, and the base has none; write "
                "`chat: false`, or give the base one"
            )
        judge = run.judges.get(name)
        if judge is not None and judge.get_vocab() != run.tokenizer.get_vocab():
            found.append(
                f"evaluation.suites.{name}: {suite['by']['name']} has another tokenizer than this run, so it would read "
                "other words; name a reward run whose base has the same tokenizer"
            )
    return found


def warnings(run: "Subject") -> list[str]:
    """What would make its numbers mean less."""
    spec, found = run.evaluation, []
    positions = context(run.model.config)
    longest = max(spec["max_length"], run.longest)
    kind, original = _rope(run.model.config)
    if kind in SCALED and original and longest > original:
        found.append(
            f"the model's positions are {kind}: past {original} tokens a row's score depends on the others in its batch; "
            f"write evaluation.max_length: {original}"
        )
    answering = [suite["max_new_tokens"] for suite in spec["suites"].values() if "max_new_tokens" in suite]
    if positions and answering and run.longest + max(answering) > positions:
        lengths = [len(ids) for ids in run.prompts]
        full = sum(length >= positions for length in lengths)
        cut = sum(length + max(answering) > positions for length in lengths)
        if cut:
            none = f", and {full} leave none" if full else ""
            found.append(
                f"{cut} of the {len(lengths)} sampled prompts leave less than {max(answering)} tokens for an answer in the "
                f"model's context of {positions}{none}; answers end at the context"
            )
    return found


def _rope(config: dict[str, Any]) -> tuple[str | None, int | None]:
    """How a configuration scales rotary positions, and the context before it does; transformers 4 and 5 name it otherwise."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    original = scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return kind, original or config.get("max_position_embeddings")
