"""Scores and greedy answers of every family in batches, against each sequence alone, without a cache."""

import pytest
import torch
from families import FAMILIES, Numbers, alone, build

from posttrain.inference import scoring

pytestmark = pytest.mark.usefixtures("fp32")


def sequences() -> list[scoring.Sequence]:
    """Answers of many lengths after prompts of many lengths, some of which begin alike."""
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return torch.randint(3, 290, (n,), generator=generator).tolist()

    alone = [scoring.answer(ids(a), ids(b)) for a, b in ((3, 9), (12, 1), (1, 1), (5, 30), (2, 9))]
    tails = ([50, 51], [60] * 9)
    return alone + [scoring.answer([*range(10, 30), *tail], end) for tail in tails for end in ([80], [82, 83, 84])]


def step_by_step(model, prompt: list[int], longest: int, ends: list[int]) -> scoring.Answer:
    ids: list[int] = []
    with torch.no_grad():
        while len(ids) < longest:
            logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, -1]
            if logits.argmax().item() in ends:
                break
            ids.append(logits.argmax().item())
    return scoring.Answer(" ".join(map(str, ids)), ids, len(ids) < longest)


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_give_what_each_sequence_alone_gives(family):
    model = build(family)
    found = [score for score, _ in scoring.log_probs(model, sequences(), 200)]
    assert found == pytest.approx([alone(model, sequence) for sequence in sequences()], abs=1e-3)

    prompts = [list(ids) for ids, _ in sequences()]
    free = [step_by_step(model, prompt, 12, []) for prompt in prompts]
    ends = sorted({free[0].ids[3], free[5].ids[5], 2})
    model.generation_config.eos_token_id = ends
    answers = scoring.generate_batch(model, Numbers(), prompts, 12)
    assert answers == [step_by_step(model, prompt, 12, ends) for prompt in prompts]
    assert {answer.ended for answer in answers} == {True, False}
