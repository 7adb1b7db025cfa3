"""Sharing a beginning, beyond Llama: what each token may see, and that every architecture that shares is right to."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, set_seed
from trl.trainer.utils import add_fused_lm_head

from posttrain.inference import scoring
from posttrain.models import shared_prefix
from posttrain.models.lm_head import add_compact_head, find
from posttrain.models.shared_prefix import common, pack, pair, saving

ROWS = [
    (5, 6, 7, 20, 21, 22),  # 0 and 3: a prompt of three, as a chosen and a rejected answer
    (9, 9),
    (1, 2, 3, 4),  # 2 and 5: one is the other's beginning
    (5, 6, 7, 30),
    (8,),
    (1, 2, 3, 4, 5, 6),
]


@pytest.mark.parametrize(
    ("a", "b", "n"), [((), (1,), 0), ((1, 2), (1, 3), 1), ((1, 2), (1, 2), 2), ((1, 2), (1, 2, 3), 2)]
)
def test_the_shared_beginning_is_counted(a, b, n):
    assert common(a, b) == common(b, a) == n


def test_the_saving_is_the_share_of_tokens_left_out():
    assert saving(ROWS, pair(ROWS)) == pytest.approx((3 + 4) / 23)
    assert saving(ROWS, [(i,) for i in range(6)]) == 0


GROUPS = {"paired": pair(ROWS), "alone": [(i,) for i in range(6)], "the other way round": [(3, 0), (5, 2), (4,), (1,)]}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_every_token_is_found_again_at_its_own_position(groups):
    packed = pack(ROWS, groups, pad=0)
    for row, where in zip(ROWS, packed.where, strict=True):
        assert tuple(packed.ids.flatten()[where].tolist()) == row
        assert packed.positions.flatten()[where].tolist() == list(range(len(row)))


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_a_token_sees_its_own_row_up_to_itself_and_nothing_else(groups):
    packed = pack(ROWS, groups, pad=0)
    width = packed.ids.shape[1]
    for where in packed.where:
        for i, place in enumerate(where):
            group, query = divmod(place, width)
            seen = packed.mask[group, 0, query].nonzero().flatten() + group * width
            assert seen.tolist() == where[: i + 1]


def test_every_query_sees_something_so_that_no_softmax_is_of_nothing():
    assert pack(ROWS, pair(ROWS), pad=0).mask.any(-1).all()


def test_a_label_is_predicted_from_the_token_before_it():
    labels = torch.tensor([[-100, 11, -100], [12, -100, 13]])
    assert shared_prefix.predicting([[0, 1, 2], [7, 8, 9]], labels) == [
        0,
        8,
    ]  # the first token of a row is never predicted


# ---- on models

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "vocab_size": 384, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 384, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES = {
    "llama": ("llama", SIZES),
    "qwen2": ("qwen2", SIZES),
    "a sliding window": ("mistral", SIZES | {"sliding_window": 4}),
    "learnt positions": ("gpt2", GPT2),
}
WRONG = {
    "eager attention, which adds the mask": ("llama", SIZES | {"attn_implementation": "eager"}),
    "convolutions over neighbours": (
        "lfm2",
        SIZES | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    ),
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
EXPERTS |= {"shared_expert_intermediate_size": 32}
OWN = {
    name: {"head_dim": 16}
    for name in ("qwen3", "gemma", "glm", "glm4", "helium", "seed_oss", "hunyuan_v1_dense", "ernie4_5")
}
OWN |= dict.fromkeys(
    ("mixtral", "qwen2_moe", "olmoe", "granitemoe", "granitemoeshared", "phimoe", "flex_olmo"), EXPERTS
)
OWN |= {
    "qwen3_moe": EXPERTS | {"head_dim": 16},
    **{name: {"sliding_window": None} for name in ("mistral", "starcoder2")},
}
SHARING = [pytest.param(name, SIZES | OWN.get(name, {}), id=name) for name in shared_prefix.ARCHITECTURES]
MODELS = [pytest.param(*case, id=name) for name, case in ARCHITECTURES.items()]
MODELS += [pytest.param(*case, id=name) for name, case in WRONG.items()]


def build(kind: str, settings: dict):
    """A model of random weights, large enough that what a token sees shows."""
    set_seed(0)
    settings = dict(settings)
    implementation = settings.pop("attn_implementation", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), attn_implementation=implementation)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model.eval()


def test_llama_shares_and_a_window_or_learnt_positions_do_not():
    shares = {name: shared_prefix.can_share(build(*case)) for name, case in ARCHITECTURES.items()}
    assert [name for name, can in shares.items() if not can] == ["a sliding window", "learnt positions"]


def pairs() -> dict[str, torch.Tensor]:
    """A DPO batch: two chosen answers, then the rejected ones of the same prompts, padded; prompts are not trained."""
    rows = [(5, 6, 7, 8, 9, 20, 21, 22), (11, 12, 13, 14, 40), (5, 6, 7, 8, 9, 30), (11, 12, 13, 14, 50, 51)]
    prompts = [5, 4, 5, 4]
    ids, labels, mask = torch.zeros(4, 8).long(), torch.full((4, 8), -100), torch.zeros(4, 8).long()
    for i, (row, n) in enumerate(zip(rows, prompts, strict=True)):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        labels[i, n : len(row)] = torch.tensor(row[n:])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_and_gradients(model) -> tuple:
    """A sum of log-probabilities with weights of both signs, as DPO's, and the gradients of all weights."""
    model.zero_grad()
    output = model(**pairs(), fused_lm_head=True)
    loss = (output.log_probs.sum(1) * torch.tensor([1.0, 0.5, -1.0, -0.25])).sum()
    loss.backward()
    return output.log_probs.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize(("kind", "settings"), SHARING)
def test_every_architecture_that_shares_has_the_hidden_states_of_each_row_alone(kind, settings):
    model = build(kind, settings)
    assert shared_prefix.can_share(model)
    packed = pack(ROWS, [(0, 3), (2, 5), (1,), (4,)], pad=0)
    with torch.no_grad():
        hidden = shared_prefix.hidden_states(model.base_model, packed, model.device)
        for row, where in zip(ROWS, packed.where, strict=True):
            alone = model.base_model(input_ids=torch.tensor([row])).last_hidden_state[0]
            torch.testing.assert_close(hidden[where], alone, rtol=1e-3, atol=1e-4 * alone.abs().max().item())


@pytest.mark.parametrize(("kind", "settings"), SHARING)
def test_every_architecture_that_shares_answers_together_as_each_prompt_alone(kind, settings, random_tiny_tokenizer):
    model = build(kind, settings)
    prompts = [[5, 6, 7, 20, 21, 22], [5, 6, 7, 30], [5, 6, 7, 8, 9]]
    together = scoring.generate(model, random_tiny_tokenizer, prompts, 6)
    assert together == [scoring.generate(model, random_tiny_tokenizer, [prompt], 6)[0] for prompt in prompts]


@pytest.mark.parametrize(("kind", "settings"), [*MODELS, *SHARING])
def test_a_dpo_batch_has_the_log_probabilities_and_gradients_of_trls_head(kind, settings):
    model = build(kind, settings)
    add_fused_lm_head(model)
    log_probs, gradients = loss_and_gradients(model)
    seen = []
    find(model)  # looks at the model once, on tokens of its own
    model.base_model.register_forward_pre_hook(lambda _, __, kw: seen.append(kw["input_ids"].numel()), with_kwargs=True)
    add_compact_head(model)
    ours, our_gradients = loss_and_gradients(model)
    assert seen == [2 * 9 if shared_prefix.can_share(model) else 4 * 8]
    torch.testing.assert_close(ours, log_probs, rtol=1e-4, atol=1e-4)
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            our_gradients[name], gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item(), msg=name
        )
