"""Completions of several processes: drawn as one process draws them, and rollouts that another number of processes goes on with."""

import pytest
import torch

from posttrain.training import sampled
from posttrain.training.ppo.shared_draws import SharedDraws


def as_rank(monkeypatch, rank: int, count: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_draws_of_all_processes_are_those_of_one(count, temperature, monkeypatch):
    scores = [torch.randn(6, 50, generator=torch.Generator().manual_seed(step)) for step in range(4)]
    torch.manual_seed(5)
    expected = [torch.multinomial((some / temperature).softmax(-1), 1)[:, 0] for some in scores]
    state = torch.get_rng_state()
    found = []
    for rank in range(count):
        as_rank(monkeypatch, rank, count)
        torch.manual_seed(5)
        draws = SharedDraws(temperature, "cpu")
        size = 6 // count
        found.append([draws(None, some[rank * size : (rank + 1) * size]).argmax(-1) for some in scores])
        assert torch.equal(torch.get_rng_state(), state)  # ready for the next batch
    for step, drawn in enumerate(expected):
        assert torch.cat([one[step] for one in found]).tolist() == drawn.tolist()


def test_a_process_whose_completions_ended_sooner_draws_what_the_others_have_drawn(monkeypatch):
    monkeypatch.setattr("posttrain.runtime.processes.largest", lambda steps: 3)
    states = []
    for own in (3, 1):
        torch.manual_seed(0)
        draws = SharedDraws(1.0, "cpu")
        for _ in range(own):
            draws(None, torch.zeros(2, 5))
        draws.catch_up()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def part(*rows: int, width: int) -> dict:
    """A micro-batch of completions as TRL keeps it; a row's number is in each of its tensors."""
    ids = torch.tensor([[row] * width for row in rows])
    left = torch.nn.functional.pad(ids, (1, 0))
    numbers = {"num_items_in_batch": torch.tensor(9), "advantages": torch.tensor(rows), "images": None}
    return {"prompt_ids": left, "completion_ids": ids} | numbers


# Two processes sampled two steps of four rows each, in two micro-batches of one row; their completions have other widths.
KEPT = [[part(i, width=2) for i in (0, 1, 4, 5)], [part(i, width=3) for i in (2, 3, 6, 7)]]


@pytest.mark.parametrize(
    ("count", "parts", "rows"),
    [
        (1, 2, [[[0, 1, 2, 3], [4, 5, 6, 7]]]),
        (1, 4, [[[0, 1], [2, 3], [4, 5], [6, 7]]]),
        (4, 2, [[[i], [4 + i]] for i in range(4)]),
    ],
)
def test_another_number_of_processes_goes_on_with_a_rollout_and_each_step_keeps_its_completions(
    count, parts, rows, monkeypatch
):
    as_rank(monkeypatch, 0, count)
    shared = sampled.share(KEPT, 2, parts)
    assert [[one["advantages"].tolist() for one in own] for own in shared] == rows
    whole = [one for own in shared for one in own]
    for one in whole:
        for row, prompt, completion in zip(
            one["advantages"].tolist(), one["prompt_ids"], one["completion_ids"], strict=True
        ):
            width = 2 if row in (0, 1, 4, 5) else 3
            assert prompt.tolist()[-width:] == completion.tolist()[:width] == [row] * width
            assert not prompt[:-width].any()
            assert not completion[width:].any()
        assert one["num_items_in_batch"] == 9
        assert one["images"] is None


def test_the_same_number_of_processes_goes_on_with_its_own_rollouts(monkeypatch):
    as_rank(monkeypatch, 1, 2)
    assert sampled.share(KEPT, 2, 4) is KEPT
