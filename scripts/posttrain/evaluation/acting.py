"""Suites in which the model acts in an environment: held-out tasks, greedy answers, the environment's rewards."""

from posttrain.data.conversations import turn_end
from posttrain.data.samples import HeldOut
from posttrain.evaluation.candidate import Candidate, Row
from posttrain.inference import episodes
from posttrain.inference.environments import Environment, limits

SUCCESS = 1.0  # the reward from which on a task counts as done


def acting(candidate: Candidate, suite: dict) -> list[Row]:
    """Episodes of a dataset's held-out tasks, with their reward, the model's turns, and what became of its errors.

    `environment_recovered` is 1 where a call succeeded after the last one that failed, 0 where none did; an episode without a failed
    call has no value. `output` is the whole episode.
    """
    held_out = HeldOut(candidate.data[suite["data"]["name"]])
    names = [held_out.ids[i] for i in held_out.sample(held_out.ids, suite["limit"])]
    found = held_out.read(names)
    rows = [{"id": name, "turns": found[name]["prompt"], "task": found[name]["task"]} for name in names]
    environment = Environment(suite["environment"], "evaluation.suites")
    player = episodes.Player(environment, candidate.tokenizer, candidate.stops, limits(suite), seed=0)
    end = turn_end(candidate.tokenizer, candidate.stops)

    def generate(texts: list[list[int]], room: int) -> list[list[int]]:
        given = candidate.generate(texts, room)
        return [[*answer.ids, *([end] if answer.ended else [])] for answer in given]

    room, longest = suite["max_new_tokens"], candidate.spec["max_length"]
    done = player.play(rows, [0] * len(rows), generate, room, longest)
    return [
        {"dataset": suite["data"]["name"]} | held_out.example(row["id"], found[row["id"]]) | _example(row, episode)
        for row, episode in zip(rows, done, strict=True)
    ]


def _example(row: Row, episode: episodes.Episode) -> Row:
    example = {
        "prompt": row["turns"][-1]["content"],
        "output": "\n".join(episode.lines),
        "environment_success": float(episode.reward >= SUCCESS),
        "environment_reward": episode.reward,
        "environment_turns": float(episode.turns),
        "environment_errors": float(episode.errors),
    }
    return example | ({"environment_recovered": float(episode.recovered)} if episode.errors else {})
