"""Sharing a beginning changes what is computed and nothing that comes out: packed and alone agree, gradients too."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from posttrain.inference import scoring
from posttrain.models import shared_prefix
from posttrain.models.lm_head import add_compact_head

A = (5, 6, 7, 8, 9, 10)
B = (5, 6, 7, 8, 11, 12, 13)
C = (20, 21, 22)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    return LlamaForCausalLM(config).eval()


def test_rows_that_begin_alike_are_paired_and_the_others_left():
    assert sorted(shared_prefix.pair([C, B, A])) == [(0,), (2, 1)]


def test_an_odd_row_does_not_break_up_the_pair_after_it():
    rows = [(1, 9), (1, 2, 3, 4), (1, 2, 3, 5)]
    assert sorted(map(sorted, shared_prefix.pair(rows))) == [[0], [1, 2]]


def test_every_token_is_found_where_it_was_put():
    rows = [A, B, C]
    packed = shared_prefix.pack(rows, [(0, 1), (2,)], pad=0)
    flat_ids, flat_positions = packed.ids.flatten(), packed.positions.flatten()
    for row, where in zip(rows, packed.where, strict=True):
        assert tuple(flat_ids[where].tolist()) == row
        assert flat_positions[where].tolist() == list(range(len(row)))
    assert packed.ids.shape == (2, len(A) + len(B) - 4)


def test_hidden_states_are_those_of_each_row_alone(model):
    rows = [A, B, C]
    packed = shared_prefix.pack(rows, [(0, 1), (2,)], pad=0)
    hidden = shared_prefix.hidden_states(model.base_model, packed, model.device)
    for row, where in zip(rows, packed.where, strict=True):
        alone = model.base_model(input_ids=torch.tensor([row])).last_hidden_state[0]
        torch.testing.assert_close(hidden[where], alone, rtol=1e-5, atol=1e-5)


def test_a_row_that_begins_another_is_shared_whole(model):
    rows = [A, (*A, 1, 2)]
    packed = shared_prefix.pack(rows, [(0, 1)], pad=0)
    assert packed.ids.shape == (1, len(A) + 2)
    alone = model.base_model(input_ids=torch.tensor([rows[1]])).last_hidden_state[0]
    hidden = shared_prefix.hidden_states(model.base_model, packed, model.device)
    torch.testing.assert_close(hidden[packed.where[1]], alone, rtol=1e-5, atol=1e-5)


def test_a_pair_s_log_probs_and_gradients_are_trl_s(model):
    ids = torch.zeros(2, 7, dtype=torch.long)
    ids[0, :6], ids[1] = torch.tensor(A), torch.tensor(B)
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 6 + [0], [1] * 7])}
    labels = ids.clone()
    labels[:, :3], labels[0, 6] = -100, -100
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    results = []
    for _ in range(2):
        model.zero_grad()
        output = model(**inputs, labels=labels, fused_lm_head=True)
        (output.log_probs[0].sum() - 2 * output.log_probs[1].sum()).backward()
        results.append((output.log_probs.detach(), [p.grad.clone() for p in model.parameters()], output.is_top1))
        add_compact_head(model)  # the second time round
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    assert torch.equal(results[0][2] & (labels[:, 1:] != -100), results[1][2])
    for ours, theirs in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_model_with_a_window_shares_nothing(model):
    assert shared_prefix.can_share(model)
    model.config.sliding_window = 4
    assert not shared_prefix.can_share(model)


def test_scores_are_the_same_with_and_without_sharing(model, monkeypatch):
    rows = [scoring.answer([5, 6, 7], [8, 9, 10]), scoring.answer([5, 6, 7], [8, 11]), scoring.answer([20], [21, 22])]
    shared = scoring.log_probs(model, rows, 64)
    monkeypatch.setattr(shared_prefix, "can_share", lambda _: False)
    alone = scoring.log_probs(model, rows, 64)
    assert [count for _, count in shared] == [3, 2, 2]
    assert [total for total, _ in shared] == pytest.approx([total for total, _ in alone], abs=1e-4)
