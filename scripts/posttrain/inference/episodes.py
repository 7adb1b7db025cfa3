"""Episodes: a model acts in an environment until it gives an answer without a call.

    prompt -> answer with calls -> their results -> ... -> answer without a call -> reward

The completion of an episode is all of it after the prompt. Only the tokens that the model wrote are its own, see `Episode.mask`: the
results of tools are never trained.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from posttrain.data import thoughts
from posttrain.data.conversations import Turns, render
from posttrain.data.encoding import prompt_tokens
from posttrain.inference.environments import Environment, Limits
from posttrain.metrics.tool_calls import named_arguments
from posttrain.runtime.errors import UserError

CUT = " ..."  # at the end of a result that was cut
BROKEN = "error: this is no call; write its name and its arguments as the prompt says"

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""continues each of n texts (token ids) by at most so many tokens, with the stop token where it comes to one"""


@dataclass
class Episode:
    """What happened in one episode."""

    world: Any
    prompt: list[int]
    """token ids"""
    ids: list[int] = field(default_factory=list)
    """the completion, with the results of tools"""
    mask: list[int] = field(default_factory=list)
    """of each token of the completion, 1 where the model wrote it, 0 in results"""
    turns: int = 0
    """answers of the model"""
    calls: int = 0
    errors: int = 0
    """calls that could not be read or run"""
    recovered: bool = False
    """whether a call succeeded after the last error"""
    lines: list[str] = field(default_factory=list)
    """what was said, for people"""
    answer: str = ""
    """the text of the last answer"""
    reward: float = 0.0


class Player:
    """Plays episodes of an environment with a tokenizer's chat template."""

    def __init__(self, environment: Environment, tokenizer: Any, stops: list[int], limits: Limits, seed: int) -> None:
        """A player.

        Args:
            stops: tokens that end an answer.
            seed: of the run or the evaluation; with a row's id and the number of the completion it gives an episode's own.
        """
        self.environment, self.tokenizer, self.stops, self.limits, self.seed = (
            environment,
            tokenizer,
            stops,
            limits,
            seed,
        )

    def play(self, rows: list[dict], numbers: list[int], generate: Generate, room: int, longest: int) -> list[Episode]:
        """One episode for each row, all side by side.

        Args:
            rows: with `id`, `turns` (the prompt) and `task`.
            numbers: of each row, which of its completions this is.
            room: tokens that a completion may have, results of tools included.
            longest: tokens that a prompt may have.

        Raises:
            UserError: the environment fails, or a prompt with what `reset` adds is too long.
        """
        episodes = [self._begin(row, number, longest) for row, number in zip(rows, numbers, strict=True)]
        live = episodes
        while live:
            left = max(room - len(episode.ids) for episode in live)
            given = generate([episode.prompt + episode.ids for episode in live], left)
            live = [one for one, ids in zip(live, given, strict=True) if self._turn(one, ids, room)]
        for episode in episodes:
            episode.reward = self.environment.reward(episode.world, episode.answer)
        return episodes

    def _begin(self, row: dict, number: int, longest: int) -> Episode:
        digest = hashlib.sha256(f"{self.seed}/{row['id']}/{number}".encode()).digest()
        world, seen = self.environment.begin(row["task"], int.from_bytes(digest[:4], "big"))
        *before, last = row["turns"]
        prompt = prompt_tokens(
            self.tokenizer, [*before, last | {"content": last["content"] + seen}], self.environment.schemas
        )
        if len(prompt) > longest:
            problem = f"a prompt has {len(prompt)} tokens with what `reset` adds, and there is room for {longest}"
            raise UserError("too-long", self.environment.place, problem, "write a larger max_length")
        return Episode(world, prompt)

    def _turn(self, episode: Episode, ids: list[int], room: int) -> bool:
        """Add an answer, run its calls and add their results; whether the episode goes on."""
        ids = ids[: room - len(episode.ids)]
        episode.ids += ids
        episode.mask += [1] * len(ids)
        episode.turns += 1
        text = thoughts.decode(self.tokenizer, ids).strip()
        episode.lines.append(text)
        episode.answer = thoughts.answer(text)
        if not ids or ids[-1] not in self.stops:  # cut: a call in it may be half of one
            return False
        calls = named_arguments(episode.answer)
        if calls == []:
            return False
        results = [("error", self._told(episode, BROKEN, True))] if calls is None else []
        for name, arguments in calls or []:
            results.append((name, self._told(episode, *self._call(episode, name, arguments))))
        more = result_tokens(self.tokenizer, results, self.environment.schemas, self.stops)
        if episode.turns == self.limits.turns or len(episode.ids) + len(more) >= room:
            return False
        episode.ids += more
        episode.mask += [0] * len(more)
        return True

    def _call(self, episode: Episode, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        return self.environment.call(episode.world, name, arguments, self.limits.seconds)

    def _told(self, episode: Episode, result: str, error: bool) -> str:
        """A result as the model sees it, noted in the episode."""
        ids = self.tokenizer(result, add_special_tokens=False)["input_ids"]
        if len(ids) > self.limits.tool_tokens:
            result = self.tokenizer.decode(ids[: self.limits.tool_tokens]) + CUT
        episode.calls += 1
        episode.errors += error
        episode.recovered = episode.errors > 0 and not error
        episode.lines.append(f"[{'error' if error else 'result'}] {result}")
        return result


def result_tokens(tokenizer: Any, results: list[tuple[str, str]], tools: str, stops: list[int]) -> list[int]:
    """The tokens from the end of an answer with calls to where the next answer begins.

    A short conversation is rendered with and without the results, so that the model's own tokens are never tokenised again.

    Args:
        results: name of the tool and its result.
        tools: the descriptions of the tools, as JSON.

    Raises:
        UserError: the chat template does not show results, or not behind what stands before them.
    """
    call = json.dumps([{"id": "call12345", "name": results[0][0], "arguments": {}}])
    asked: Turns = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "", "tool_calls": call}]
    said = [{"role": "tool", "name": tool, "tool_call_id": "call12345", "content": text} for tool, text in results]
    before = render(tokenizer, asked, tools)
    after = render(tokenizer, [*asked, *said], tools, generate=True)
    if not after.startswith(before.rstrip()) or results[0][1].strip() not in after[len(before.rstrip()) :]:
        raise UserError(
            "unusable-chat-template",
            "",
            "the base's chat template does not add the results of tools behind the calls",
            "give the base one with `chat_template:`, such as `qwen3` or `hermes`",
        )
    ends = [tokenizer.convert_ids_to_tokens(stop) for stop in stops]
    closed = max(before.rfind(end) + len(end) if end in before else 0 for end in ends)
    asks = render(tokenizer, asked[:1], tools, generate=True)
    closed = closed if closed > len(asks) else len(before.rstrip())
    return tokenizer(after[closed:], add_special_tokens=False)["input_ids"]
