"""Checks of a run that acts in an environment: its class, the chat template, and a few of the tasks."""

from typing import TYPE_CHECKING

from posttrain.inference import environments, episodes
from posttrain.preflight.findings import Finding
from posttrain.runtime.errors import UserError

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext

TRIED = 20  # tasks that are begun and rewarded, with an empty answer


def environment(run: "RunContext") -> Finding | None:
    """The environment can be loaded, the template shows its tools and their results, and the first tasks can be begun and rewarded."""
    if "environment" not in run.spec:
        return Finding("skipped", "the run acts in no environment")
    try:
        found = environments.Environment(run.spec["environment"])
        if why := _hidden(run, found):
            return Finding("error", why)
        limits = environments.limits(run.spec)
        player = episodes.Player(found, run.tokenizer, run.stops, limits, run.spec["seed"])
        for row in run.sample[:TRIED]:
            room = run.spec["max_length"] - run.spec["max_new_tokens"]
            player.play([{"id": row["id"], "turns": row["prompt"], "task": row["task"]}], [0], _silent, 1, room)
    except UserError as error:
        return Finding("error", str(error))
    return None


def _silent(texts: list[list[int]], room: int) -> list[list[int]]:
    return [[] for _ in texts]


def _hidden(run: "RunContext", found: environments.Environment) -> str | None:
    """Why a model would not see the tools or their results with this chat template."""
    asked = [{"role": "user", "content": "Question"}]
    text = episodes.render(run.tokenizer, asked, found.schemas, generate=True)
    unseen = next((tool for tool in found.tools if tool not in text), None)
    if unseen:
        return (
            f"the base's chat template does not show the tool '{unseen}' of {found.name}; give the base one with `chat_template:`, such "
            "as `qwen3` or `hermes`"
        )
    episodes.result_tokens(run.tokenizer, [(next(iter(found.tools)), "A result")], found.schemas, run.stops)
    return None
