"""PPO: its equations against closed forms and by hand, the roles on one copy of the weights, rollouts and their steps."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import refused
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from posttrain.inference import reward_models, scoring
from posttrain.inference.rollout import Rows, completion_log_probs, hidden_states, pack
from posttrain.models import loading
from posttrain.training import arguments, loop
from posttrain.training.ppo import equations
from posttrain.training.ppo import schedule as planning
from posttrain.training.ppo.actor_critic import ActorCritic
from posttrain.training.ppo.rewards import Rewards, TokenRewards
from posttrain.training.ppo.trainer import PPOTrainer
from posttrain.workflow.project import Project

# ---- the equations


def lengths_mask(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


@pytest.fixture
def numbers():
    """Rewards, values (also beyond the answers' ends) and the mask of answers of different lengths."""
    generator = torch.Generator().manual_seed(0)
    mask = lengths_mask([5, 1, 3, 5, 2])
    earned, values = (torch.randn(mask.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return earned * mask, values, mask


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1, 0.95), (0.9, 0.8), (1, 1), (0.9, 0), (1, 0)])
def test_an_advantage_is_the_discounted_sum_of_the_temporal_differences(numbers, gamma, gae_lambda):
    earned, values, mask = numbers
    ours, returns = equations.advantages(earned, values, mask, gamma, gae_lambda)
    for row, length in enumerate(mask.sum(1).tolist()):
        v = [*values[row, :length].tolist(), 0.0]
        deltas = [earned[row, i].item() + gamma * v[i + 1] - v[i] for i in range(length)]
        for i in range(mask.shape[1]):
            closed = sum((gamma * gae_lambda) ** k * delta for k, delta in enumerate(deltas[i:]))
            assert ours[row, i].item() == pytest.approx(closed if i < length else 0)
            assert returns[row, i].item() == pytest.approx(closed + v[i] if i < length else 0)


def test_with_lambda_and_gamma_1_the_return_is_everything_that_is_still_to_be_earned(numbers):
    earned, values, mask = numbers
    _, returns = equations.advantages(earned, values, mask, 1, 1)
    torch.testing.assert_close(returns, earned.flip(1).cumsum(1).flip(1) * mask)


def test_what_lies_beyond_an_answers_end_does_not_matter(numbers):
    earned, values, mask = numbers
    spoilt = torch.where(mask, values, torch.full_like(values, 1e6))
    expected = equations.advantages(earned, values, mask, 0.9, 0.8)
    torch.testing.assert_close(equations.advantages(earned, spoilt, mask, 0.9, 0.8), expected)


def test_the_value_of_perfect_foresight_leaves_no_advantage():
    mask = lengths_mask([4, 2])
    earned = torch.tensor([[1.0, -2, 0, 5], [3, 1, 0, 0]])
    values = torch.tensor([[4.0, 3, 5, 5], [4, 1, 7, 7]])
    advantages, returns = equations.advantages(earned, values, mask, 1, 0.95)
    torch.testing.assert_close(advantages, torch.zeros(2, 4))
    torch.testing.assert_close(returns, values * mask)


def test_whitened_values_have_mean_0_and_variance_1_over_the_mask_and_are_0_beyond_it(numbers):
    _, values, mask = numbers
    white = equations.whiten(values * 7 + 3, mask)
    assert white[mask].mean().item() == pytest.approx(0, abs=1e-6)
    assert white[mask].var().item() == pytest.approx(1, rel=1e-6)
    assert not white[~mask].any()


def test_whitened_rewards_keep_their_mean(numbers):
    _, values, mask = numbers
    kept = equations.whiten(values * 7 + 3, mask, shift=False)
    assert kept[mask].mean().item() == pytest.approx((values * 7 + 3)[mask].mean().item())
    assert kept[mask].var().item() == pytest.approx(1, rel=1e-6)
    assert not kept[~mask].any()


def test_values_that_are_all_alike_or_only_one_are_whitened_to_0():
    assert equations.whiten(torch.full((2, 2), 3.0), torch.ones(2, 2).bool()).tolist() == [[0, 0], [0, 0]]
    assert equations.whiten(torch.tensor([[3.0, 9]]), torch.tensor([[True, False]])).tolist() == [[0, 0]]


def test_the_score_is_earned_by_the_last_token_and_the_divergence_by_each():
    mask = lengths_mask([3, 1, 2])
    kl = torch.tensor([[1.0, 2, 3], [4, 9, 9], [-1, 5, 9]])
    scores = torch.tensor([10.0, 20, 30])
    expected = torch.tensor([[-0.5, -1, 10 - 1.5], [20 - 2, 0, 0], [0.5, 30 - 2.5, 0]])
    torch.testing.assert_close(equations.token_rewards(scores, kl, mask, 0.5), expected)
    tokens = torch.tensor([[0.1, 0.2, 0.3], [0.4, 9, 9], [0.5, 0.6, 9]])
    torch.testing.assert_close(equations.token_rewards(scores, kl, mask, 0.5, tokens), expected + tokens * mask)


def test_at_the_best_policy_that_the_divergence_allows_every_answer_earns_the_same():
    parent, worth, beta = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([1.0, 0.0, 3.0]), 0.5
    best = parent * (worth / beta).exp()
    best /= best.sum()
    kl = (best / parent).log()[:, None]
    earned = equations.token_rewards(worth, kl, torch.ones(3, 1).bool(), beta)
    torch.testing.assert_close(earned, earned[0].expand(3, 1))


# log ratio, advantage, loss, gradient of the loss with respect to the new log-probability; clip is 0.2
POLICY = [
    (math.log(1.0), 2.0, -2.0, -2.0),
    (math.log(1.1), 2.0, -2.2, -2.2),
    (math.log(1.5), 2.0, -2.4, 0.0),  # far enough already
    (math.log(0.5), 2.0, -1.0, -1.0),  # moved the wrong way: no clipping
    (math.log(0.5), -2.0, 1.6, 0.0),
    (math.log(0.9), -2.0, 1.8, 1.8),
    (math.log(1.5), -2.0, 3.0, 3.0),
]


@pytest.mark.parametrize(("moved", "advantage", "loss", "gradient"), POLICY)
def test_the_surrogate_is_clipped_on_the_side_that_it_was_to_move_to(moved, advantage, loss, gradient):
    new = torch.tensor(-1.0 + moved, requires_grad=True)
    ours = equations.policy_losses(new, torch.tensor(-1.0), torch.tensor(advantage), 0.2)
    ours.backward()
    assert ours.item() == pytest.approx(loss, rel=1e-5)
    assert new.grad.item() == pytest.approx(gradient, rel=1e-5)


# new value, value before the update, return, loss, gradient; clip is 0.2
VALUE = [
    (1.0, 1.0, 3.0, 2.0, -2.0),
    (1.1, 1.0, 3.0, 0.5 * 1.9**2, -1.9),
    (2.0, 1.0, 3.0, 0.5 * 1.8**2, 0.0),  # the clipped one is the worse one, and does not move
    (0.5, 1.0, 3.0, 0.5 * 2.5**2, -2.5),
    (4.5, 1.0, 1.1, 0.5 * 3.4**2, 3.4),
    (0.0, 1.0, -2.0, 0.5 * 2.8**2, 0.0),
]


@pytest.mark.parametrize(("new", "old", "target", "loss", "gradient"), VALUE)
def test_a_value_moves_no_further_than_its_clip(new, old, target, loss, gradient):
    value = torch.tensor(new, requires_grad=True)
    ours = equations.value_losses(value, torch.tensor(old), torch.tensor(target), 0.2)
    ours.backward()
    assert ours.item() == pytest.approx(loss, rel=1e-5)
    assert value.grad.item() == pytest.approx(gradient, rel=1e-5)


@pytest.mark.parametrize(
    ("kl", "target", "factor"),
    [(6, 6, 1), (6.6, 6, 1 + 0.1 * 0.05), (5.4, 6, 1 - 0.1 * 0.05), (600, 6, 1.01), (0, 6, 0.99), (9, None, 1)],
)
def test_the_coefficient_follows_the_divergence_within_a_fifth(kl, target, factor):
    assert equations.adapted(0.3, kl, target, 500) == pytest.approx(0.3 * factor)


# ---- the schedule

PLAN = {"batch_size": 8, "minibatches": 4, "ppo_epochs": 3, "epochs": 1, "max_steps": None, "seed": 42}


def test_every_answer_is_trained_on_once_an_epoch_with_the_peers_of_its_step():
    rollouts, rows = planning.schedule(16, PLAN)
    assert len(rows) == 2 * 3 * 8
    for start in range(0, len(rows), 8):
        epoch = rows[start : start + 8]
        assert sorted(row["slot"] for row in epoch) == list(range(8))
        assert {row["rollout"] for row in epoch} == {start // 24}
        for i in range(0, 8, 2):  # four steps of two answers
            step = epoch[i : i + 2]
            assert [row["peers"] for row in step] == [[row["slot"] for row in step]] * 2
    assert len({tuple(row["slot"] for row in rows[i : i + 8]) for i in range(0, len(rows), 8)}) > 1  # in other orders
    assert sorted(prompt for rollout in rollouts for prompt in rollout) == list(range(16))


@pytest.mark.parametrize(
    ("prompts", "changes", "rollouts"),
    [
        (16, {}, 2),
        (16, {"epochs": 2}, 4),
        (20, {}, 2),
        (3, {}, 1),
        (3, {"epochs": 8}, 3),
        (16, {"max_steps": 5}, 5),
        (1, {"max_steps": 2}, 2),
    ],
)
def test_a_rollout_is_as_large_as_the_batch_whatever_the_prompts(prompts, changes, rollouts):
    plan, rows = planning.schedule(prompts, PLAN | changes)
    assert [len(rollout) for rollout in plan] == [8] * rollouts
    assert {prompt for rollout in plan for prompt in rollout} <= set(range(prompts))
    assert len(rows) == rollouts * 24


def test_the_schedule_depends_on_the_seed_alone():
    torch.manual_seed(1)
    one = planning.schedule(16, PLAN)
    torch.manual_seed(2)
    assert planning.schedule(16, PLAN) == one
    assert planning.schedule(16, PLAN | {"seed": 7}) != one


def test_a_forward_pass_gets_its_slots_and_those_of_the_whole_step():
    _, rows = planning.schedule(8, PLAN | {"minibatches": 2})
    part = planning.collate(rows[:2])
    assert part["rollout"] == 0
    assert part["slots"].tolist() == [row["slot"] for row in rows[:2]]
    assert part["peers"].tolist() == [row["slot"] for row in rows[:4]]


def test_prompts_and_answers_are_packed_side_by_side():
    rows = pack([{"prompt_ids": [5, 6]}, {"prompt_ids": [7]}], [[8], [9, 10, 11]], 0, "cpu")
    assert rows.ids.tolist() == [[5, 6, 8, 0], [7, 9, 10, 11]]
    assert (rows.prompts.tolist(), rows.completions.tolist()) == ([2, 1], [1, 3])
    assert rows.mask().tolist() == [[True, False, False], [True, True, True]]
    taken = rows.take(torch.tensor([1]))
    assert (taken.ids.tolist(), taken.mask().shape) == ([[7, 9, 10, 11]], (1, 3))


# ---- one copy of the weights

OWN = {
    "full": {},
    "lora": {"rank": 4},
    "qlora": {"rank": 4},
    "adapter": {"reduction_factor": 4, "placement": "houlsby"},
    "prefix": {"virtual_tokens": 3},
    "p_tuning": {"virtual_tokens": 3},
    "prompt": {"virtual_tokens": 3},
    "ia3": {},
    "oft": {},
    "vera": {"rank": 8},
}
BESIDE = ("lora", "adapter", "ia3", "oft", "vera", "full")  # methods that begin as the parent itself


@pytest.fixture
def spec(configuration):
    """The spec of a PPO run from the base."""

    def resolved(method: str = "lora", **keys) -> dict:
        table = {"from": "base", "objective": "ppo", "data": "chats", "reward": {"function": "final_number"}}
        table |= {"method": method, "max_new_tokens": 6, "max_length": 128, **OWN[method], **keys}
        return json.loads(Project(configuration({"runs.ppo": table})).spec("ppo"))

    return resolved


def moved(net: ActorCritic, seed: int = 0) -> ActorCritic:
    """As after some training: every parameter that is trained has moved at random."""
    torch.manual_seed(seed)
    for parameter in net.trainable:
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


QUESTIONS = [{"prompt_ids": [5, 9, 17, 33]}, {"prompt_ids": [40, 41]}, {"prompt_ids": [7, 8, 9, 10, 11, 12]}]
ANSWERS = [[60, 61, 62], [70], [80, 81, 82, 83, 84]]


def rows() -> Rows:
    return pack(QUESTIONS, ANSWERS, 0, "cpu")


def token_by_token(model) -> list[list[float]]:
    """Log-probabilities of each answer's tokens, one row at a time, from the model's own logits."""
    result = []
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        ids = question["prompt_ids"] + answer
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :].double()
        first = len(question["prompt_ids"])
        result.append([logits[i - 1].log_softmax(-1)[ids[i]].item() for i in range(first, len(ids))])
    return result


@torch.no_grad()
def log_probs(net: ActorCritic, role: str) -> list[list[float]]:
    values = net.log_probs(role, rows(), 1.0)
    assert not values[~rows().mask()].any()
    return [row[: len(answer)] for row, answer in zip(values.tolist(), ANSWERS, strict=True)]


def close(ours: list[list[float]], expected: list[list[float]], tolerance: float = 1e-4) -> bool:
    return all(a == pytest.approx(b, abs=tolerance) for a, b in zip(ours, expected, strict=True))


HEAD = {"peft_args": {"modules_to_save": ["lm_head"]}}


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize(("method", "keys"), [*((method, {}) for method in OWN), ("lora", HEAD)])
def test_the_reference_is_the_parent_alone_and_the_policy_the_model_that_is_saved(
    method, keys, spec, random_tiny_folder, tmp_path
):
    net = moved(ActorCritic(random_tiny_folder, spec(method, **keys))).eval()
    parent = loading.load(random_tiny_folder, quantised="fp32" if method == "qlora" else None).eval()
    expected = token_by_token(parent)
    assert close(log_probs(net, "reference"), expected)
    assert not close(log_probs(net, "policy"), expected, 1e-2)
    net.policy.save_pretrained(tmp_path, **({} if method == "full" else {"selected_adapters": ["default"]}))
    saved = loading.with_adapter(random_tiny_folder, tmp_path, "fp32" if method == "qlora" else None).eval()
    assert close(log_probs(net, "policy"), token_by_token(saved))


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("method", BESIDE)
def test_before_the_first_step_the_policy_is_the_reference_to_the_bit(method, spec, random_tiny_folder):
    net = ActorCritic(random_tiny_folder, spec(method)).eval()
    assert log_probs(net, "policy") == log_probs(net, "reference")


@pytest.mark.usefixtures("fp32")
def test_the_temperature_divides_the_logits(spec, random_tiny_folder):
    net = moved(ActorCritic(random_tiny_folder, spec("lora"))).eval()
    with torch.no_grad():
        hot = net.log_probs("policy", rows(), 2.0)
        logits = net.policy(input_ids=torch.tensor([QUESTIONS[1]["prompt_ids"]])).logits[0, -1]
    assert hot[1, 0].item() == pytest.approx((logits / 2).log_softmax(-1)[ANSWERS[1][0]].item(), abs=1e-5)


def gradients(net: ActorCritic, role: str) -> dict[str, torch.Tensor]:
    """Gradients of a loss of one role, as a training step computes them."""
    net.zero_grad()
    with net.role(role) as model:
        own = completion_log_probs(model, rows(), 1.0) if role == "policy" else hidden_states(model, rows())
        outputs = own if role == "policy" else net.values(own, rows())
        (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("method", OWN)
def test_the_gradients_of_policy_and_value_do_not_mix_and_are_the_same_where_activations_are_computed_again(
    method, spec, random_tiny_folder
):
    net = moved(ActorCritic(random_tiny_folder, spec(method))).train()
    plain = {role: gradients(net, role) for role in ("policy", "value")}
    ours = "policy." if method == "full" else ".default"
    assert plain["policy"]
    assert all(name.startswith(ours) or f"{ours}." in f"{name}." for name in plain["policy"])
    assert any(name.startswith("value_head") for name in plain["value"])
    assert all(name.startswith("value_head") or ".value." in f"{name}." for name in plain["value"])
    if method != "prefix":  # whose cache it would drop
        net.gradient_checkpointing_enable()
        again = {role: gradients(net, role) for role in ("policy", "value")}
        torch.testing.assert_close(again, plain, rtol=1e-3, atol=1e-5)


def test_an_adapter_on_the_lm_head_whose_weights_are_read_without_it_is_refused(spec, random_tiny_folder):
    with refused("unsupported-target", "target_modules"):
        ActorCritic(random_tiny_folder, spec("lora", target_modules=["q_proj", "lm_head"]))


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_moves_stays_the_same_whatever_role_was_last(method, spec, random_tiny_folder):
    net = ActorCritic(random_tiny_folder, spec(method))
    moving = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {id(p) for p in net.trainable} == {id(p) for p in net.parameters() if p.requires_grad}
    for role in ("value", "reference", "policy"):
        with net.role(role):
            pass
        assert {name for name, p in net.named_parameters() if p.requires_grad} == moving


# ---- reward models that share the weights


@pytest.fixture
def reward_run(merge, fp32):
    """Make a run on the base whose weights have moved at random, with its merged model."""
    return lambda objective, method="lora", **keys: merge(objective, method, **(OWN[method] | keys))


FOLDERS = {name: Path("results") / name for name in ("reward", "dpo", "sft")} | {"base": Path("results/bases/base")}


def rewards_of(net: ActorCritic, reward: dict, tokenizer, method: str = "lora", **keys) -> Rewards:
    return Rewards(net, {"reward": reward, "from": {"name": "base"}, "method": method} | keys, tokenizer, FOLDERS)


SHARED = {
    "a LoRA of another rank and scale": {"rank": 2, "alpha": 3},
    "rank-stabilised": {"peft_args": {"use_rslora": True}},
    "DoRA": {"peft_args": {"use_dora": True}},
    "some layers": {"target_modules": ["q_proj", "down_proj"]},
}
APART = {
    "all weights": {"method": "full"},
    "what cannot be merged": {"method": "prefix"},
    "PiSSA, which changes the parent's weights": {"peft_args": {"init_lora_weights": "pissa"}},
    "weights saved beside the adapter": {"peft_args": {"modules_to_save": ["embed_tokens"]}},
    "4 bits": {"method": "qlora"},
}


@pytest.mark.parametrize("case", [*SHARED, *APART])
def test_a_reward_run_gives_the_scores_of_its_model_alone_whether_it_shares_the_weights_or_not(
    case, reward_run, spec, random_tiny_folder, random_tiny_tokenizer
):
    reward_run("reward", **(SHARED | APART)[case])
    net = moved(ActorCritic(random_tiny_folder, spec("lora"))).eval()
    before = {role: log_probs(net, role) for role in ("policy", "reference")}
    rewards = rewards_of(net, {"from": {"name": "reward"}}, random_tiny_tokenizer)
    assert (rewards.head is not None) == (case in SHARED)
    with torch.no_grad():
        scores, tokens = rewards(QUESTIONS, ANSWERS, rows())
    alone = reward_models.reward_function({"from": {"name": "reward"}}, random_tiny_tokenizer, models=FOLDERS)(
        QUESTIONS, ANSWERS
    )
    assert scores.tolist() == pytest.approx(alone, abs=1e-4)
    assert max(alone) - min(alone) > 0.05
    assert tokens is None
    assert {role: log_probs(net, role) for role in before} == before
    assert {id(p) for p in net.parameters() if p.requires_grad} == {id(p) for p in net.trainable}


def test_a_reward_run_that_trained_rows_of_the_embedding_scores_with_its_own_model(
    reward_run, spec, random_tiny_folder, random_tiny_tokenizer
):
    """As on a base with new tokens; in one model with the policy, its rows would be the policy's too."""
    reward_run("reward")
    file = Path("results/reward/trained/adapter_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trainable_token_indices": {"embed_tokens": [1, 30]}}))
    net = ActorCritic(random_tiny_folder, spec("lora"))
    rewards = rewards_of(net, {"from": {"name": "reward"}}, random_tiny_tokenizer)
    assert rewards.head is None
    assert rewards.score is not None


def test_a_reward_run_in_4_bits_shares_a_parent_in_4_bits(reward_run, spec, random_tiny_folder, random_tiny_tokenizer):
    reward_run("reward", "qlora")
    net = moved(ActorCritic(random_tiny_folder, spec("qlora"))).eval()
    rewards = rewards_of(net, {"from": {"name": "reward"}}, random_tiny_tokenizer, "qlora")
    assert rewards.head is not None
    with torch.no_grad():
        scores, _ = rewards(QUESTIONS, ANSWERS, rows())
    alone = loading.with_adapter(random_tiny_folder, Path("results/reward/trained"), "fp32").eval()
    expected = [[*question["prompt_ids"], *answer] for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]
    assert scores.tolist() == pytest.approx(scoring.rewards(alone, expected, 4096), abs=1e-4)


@pytest.mark.parametrize(
    ("ours", "reward", "starts"),
    [
        ({}, {}, True),
        ({}, {"alpha": 3}, True),  # the value takes the reward model's shape and scale
        ({}, {"rank": 2}, True),
        ({}, {"peft_args": {"use_rslora": True}}, True),
        ({}, {"peft_args": {"use_dora": True}}, True),
        ({"value_rank": 4}, {"rank": 4}, True),
        ({"value_rank": 4}, {"rank": 4, "alpha": 3}, False),  # its weights at another scale would be another model
        ({"value_rank": 8}, {"rank": 4}, False),
        ({"value_start": "zero"}, {}, False),
        ({"method": "full"}, {"rank": 16}, True),
        ({"method": "full", "value_start": "reward"}, {"rank": 2}, True),
        ({"method": "full", "value_rank": 4}, {"rank": 16}, False),
    ],
)
def test_the_value_starts_as_the_reward_model_or_at_0(
    ours, reward, starts, reward_run, spec, random_tiny_folder, random_tiny_tokenizer
):
    reward_run("reward", **reward)
    keys = {"method": "lora"} | ours
    shape = {key: value for key, value in keys.items() if key != "value_start"}
    net = ActorCritic(random_tiny_folder, spec(**shape)).eval()
    rewards = rewards_of(net, {"from": {"name": "reward"}}, random_tiny_tokenizer, **keys)
    with torch.no_grad():
        scores, _ = rewards(QUESTIONS, ANSWERS, rows())
        whole = Rows(rows().ids, rows().prompts + rows().completions, torch.ones(3).long())  # read after the last token
        assert {id(p) for p in net.parameters() if p.requires_grad} == {id(p) for p in net.trainable}
        values = net.values(net.hidden("value", whole), whole)[:, 0]
    expected = scores if starts else torch.zeros(3)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["DoRA", "all weights", "PiSSA, which changes the parent's weights", "4 bits"])
def test_an_implicit_reward_is_beta_times_the_log_ratio_of_the_dpo_run_and_its_parent_token_by_token(
    case, reward_run, spec, random_tiny_folder, random_tiny_tokenizer
):
    reward_run("dpo", **(SHARED | APART)[case])
    net = moved(ActorCritic(random_tiny_folder, spec("lora"))).eval()
    before = {role: log_probs(net, role) for role in ("policy", "reference")}
    reward = {"from": {"name": "dpo"}, "reference": {"name": "base"}, "kind": "implicit", "beta": 0.5}
    rewards = rewards_of(net, reward, random_tiny_tokenizer)
    in_4_bits = case == "4 bits"  # then its reference was in 4 bits as well
    assert (rewards.sources["reference"] == "reference") == (not in_4_bits)
    assert (rewards.sources["from"] == "dpo") == (case in SHARED)
    with torch.no_grad():
        scores, tokens = rewards(QUESTIONS, ANSWERS, rows())
    policy = token_by_token(loading.load(Path("results/dpo/model")).eval())
    reference = token_by_token(loading.load(random_tiny_folder, quantised="fp32" if in_4_bits else None).eval())
    for row, (ours, theirs) in enumerate(zip(policy, reference, strict=True)):
        expected = [0.5 * (a - b) for a, b in zip(ours, theirs, strict=True)]
        assert tokens[row, : len(expected)].tolist() == pytest.approx(expected, abs=1e-4)
        assert not tokens[row, len(expected) :].any()
    assert scores.tolist() == [0, 0, 0]
    assert {role: log_probs(net, role) for role in before} == before


def test_rto_adds_a_reward_runs_score_at_the_end(reward_run, spec, random_tiny_folder, random_tiny_tokenizer):
    reward_run("reward")
    reward_run("dpo")
    net = ActorCritic(random_tiny_folder, spec("full")).eval()
    implicit = {"from": {"name": "dpo"}, "reference": {"name": "base"}, "kind": "implicit", "beta": 0.5}
    rewards = rewards_of(net, implicit | {"sequence": {"name": "reward"}}, random_tiny_tokenizer, "full")
    with torch.no_grad():
        scores, tokens = rewards(QUESTIONS, ANSWERS, rows())
    alone = reward_models.reward_function({"from": {"name": "reward"}}, random_tiny_tokenizer, models=FOLDERS)(
        QUESTIONS, ANSWERS
    )
    assert scores.tolist() == pytest.approx(alone, abs=1e-4)
    assert tokens.abs().max() > 0.01


# ---- rollouts and their steps


@pytest.fixture
def trainer(random_tiny_folder, random_tiny_tokenizer, tmp_path, monkeypatch):
    """A trainer of a spec's run, on three prompts, whose answers earn what `scores` makes of their token ids."""
    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")

    def make(
        spec: dict, scores=lambda answer: float(answer[0] % 2), tokens=None, parent=random_tiny_folder
    ) -> PPOTrainer:
        def score(prompts, completions, rows) -> TokenRewards:
            return TokenRewards(torch.tensor([scores(answer) for answer in completions]), tokens and tokens(rows))

        rollouts, schedule = planning.schedule(len(QUESTIONS), spec)
        step = spec["batch_size"] // spec["minibatches"]
        fields = arguments.trainer_arguments(spec | {"batch_size": step}, tmp_path)
        return PPOTrainer(
            spec=spec,
            prompts=[[QUESTIONS[i] for i in rollout] for rollout in rollouts],
            rewards=score,
            model=ActorCritic(parent, spec),
            args=TrainingArguments(**fields, remove_unused_columns=False),
            train_dataset=Dataset.from_list(schedule),
            data_collator=planning.collate,
            processing_class=random_tiny_tokenizer,
        )

    return make


class Gradients(TrainerCallback):
    """Keep the gradients of the first optimiser step."""

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        if state.global_step == 0:
            self.of = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def first_step(ppo_trainer) -> tuple[dict, dict[str, torch.Tensor]]:
    """The first step's log and gradients."""
    gradients = Gradients()
    ppo_trainer.add_callback(gradients)
    ppo_trainer.train()
    return ppo_trainer.state.log_history[0], gradients.of


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_is_the_same_however_many_forward_passes_it_is_split_into(method, spec, trainer):
    logs, gradients = [], []
    for accumulation in (1, 8):
        keys = {"accumulation": accumulation, "max_steps": 1, "ppo_epochs": 1, "max_grad_norm": 1e9, "warmup": 0}
        made = trainer(spec(method, **keys))
        moved(made.model)  # so that the value's adapter has a gradient as well
        answers = [[60 + i] * (1 + 2 * i) for i in range(8)]  # of different lengths: a mean of means would show
        left = iter(answers)
        made.sample = lambda model, questions, left=left: ([next(left) for _ in questions], [True] * len(questions))
        logged, of = first_step(made)
        logs.append(logged)
        gradients.append(of)
    for logged, of in zip(logs[1:], gradients[1:], strict=True):
        torch.testing.assert_close(of, gradients[0], rtol=1e-3, atol=1e-5)
        for name in ("loss", "policy_loss", "value_loss", "grad_norm"):
            assert logged[name] == pytest.approx(logs[0][name], rel=1e-4, abs=1e-6), name


def test_the_first_losses_are_means_over_the_answers_tokens(spec, trainer):
    settings = spec("lora", max_steps=1, ppo_epochs=1, value_coefficient=0.3)
    made = trainer(settings)
    moved(made.model)
    torch.manual_seed(0)
    rollout = made.rollout = made.collect(made.model, 0)
    logged, _ = first_step(made)
    mask = torch.arange(rollout["old"].shape[1])[None] < rollout["completions"][:, None]
    value_loss = (0.5 * (rollout["values"] - rollout["returns"]).square())[mask].mean().item()
    assert logged["policy_loss"] == pytest.approx(-rollout["advantage"][mask].mean().item(), abs=1e-5)
    assert logged["value_loss"] == pytest.approx(value_loss, rel=1e-4)
    assert logged["loss"] == pytest.approx(logged["policy_loss"] + 0.3 * logged["value_loss"], abs=1e-4)
    assert logged["clip_fraction"] == 0
    assert logged["num_tokens"] == int((rollout["prompts"] + rollout["completions"]).sum())


def test_a_rollout_holds_what_the_equations_make_of_its_answers(spec, trainer):
    settings = spec("lora", max_steps=1, kl_coefficient=0.5, missing_eos_penalty=3, gamma=0.9, temperature=0.7)
    made = trainer(settings, tokens=lambda rows: 0.01 * torch.arange(rows.mask().numel()).view(rows.mask().shape))
    net = moved(made.model)
    rollout = made.collect(net, 0)
    rows = Rows(*(rollout[name] for name in Rows._fields))
    mask, stop = rows.mask(), made.processing_class.eos_token_id
    with torch.no_grad():
        old, reference = (net.log_probs(role, rows, 0.7) for role in ("policy", "reference"))
        values = net.values(net.hidden("value", rows), rows)
    answers = [ids[n : n + m].tolist() for ids, n, m in zip(rows.ids, rows.prompts, rows.completions, strict=True)]
    ends = [answer[-1] == stop for answer in answers]
    scores = torch.tensor([answer[0] % 2 - 3.0 * (not end) for answer, end in zip(answers, ends, strict=True)])
    tokens = 0.01 * torch.arange(mask.numel()).view(mask.shape)
    earned = equations.token_rewards(scores, old - reference, mask, 0.5, tokens)
    advantage, returns = equations.advantages(earned, values, mask, 0.9, settings["gae_lambda"])
    expected = {"old": old, "values": values, "advantage": equations.whiten(advantage, mask), "returns": returns}
    torch.testing.assert_close({name: rollout[name] for name in expected}, expected)
    assert rollout["kl"].item() == pytest.approx(((old - reference) * mask).sum(1).mean().item(), rel=1e-4)
    assert all(stop not in answer[:-1] for answer in answers)
    own = sum(answer[0] % 2 for answer in answers) / 8 + tokens.sum(1).mean().item()  # the penalty is not a reward
    assert rollout["reward"].item() == pytest.approx(own, rel=1e-4)


def test_whitened_rewards_have_variance_1_before_the_advantages_are_made_of_them(spec, trainer):
    made = trainer(
        spec("lora", max_steps=1, whiten_rewards=True, gamma=1, gae_lambda=1), lambda answer: 1e3 * answer[0]
    )
    rollout = made.collect(made.model, 0)
    mask = torch.arange(rollout["old"].shape[1])[None] < rollout["completions"][:, None]
    earned = rollout["returns"] - torch.nn.functional.pad(rollout["returns"], (0, 1))[:, 1:]  # with gamma = lambda = 1
    assert earned[mask].var().item() == pytest.approx(1, rel=1e-3)


def certain(model, token: int, after: int | None = None) -> None:
    """Make a model of random weights write `token` after the token `after`, or after any."""
    embeddings, head = model.get_input_embeddings().weight.data, model.get_output_embeddings().weight.data
    direction = torch.zeros(embeddings.shape[1])
    direction[0] = 50
    embeddings[after if after is not None else slice(None)] += direction
    head[token] += direction


def test_an_answer_ends_with_its_stop_token_and_says_so(spec, trainer):
    made = trainer(spec("lora", batch_size=3))
    stop = made.processing_class.eos_token_id
    certain(made.model.policy.get_base_model(), stop)
    answers, ended = made.sample(made.model, QUESTIONS)
    assert (answers, ended) == ([[stop]] * 3, [True] * 3)
    other = trainer(spec("lora", batch_size=3))
    certain(other.model.policy.get_base_model(), 99)
    answers, ended = other.sample(other.model, QUESTIONS)
    assert (answers, ended) == ([[99] * 6] * 3, [False] * 3)


def test_answers_are_drawn_from_the_models_own_distribution_whatever_its_generation_config_says(spec, trainer):
    made = trainer(spec("lora", temperature=0.01))
    policy = made.model.policy.get_base_model()
    policy.generation_config.update(repetition_penalty=1e3, no_repeat_ngram_size=1, min_p=0.9, top_p=0.1)
    certain(policy, 99)
    assert made.sample(made.model, [{"prompt_ids": [5, 99, 7]}])[0] == [[99] * 6]


def test_lora_plus_moves_b_of_both_adapters_faster(spec, trainer):
    made = trainer(spec("lora", lora_plus=16, learning_rate=1e-3))
    names = {id(p): name for name, p in made.model.named_parameters()}
    groups = loop.lora_plus(made, 16).param_groups
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert all(rate == pytest.approx(16e-3 if "lora_B" in name else 1e-3) for name, rate in rates.items())


def test_answers_are_sampled_at_the_temperature(spec, trainer):
    made = trainer(spec("lora", temperature=2.0, max_new_tokens=1))
    head = made.model.policy.get_output_embeddings()
    certain(made.model.policy.get_base_model(), 99)
    with torch.no_grad():
        logits = made.model.policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1]
        head.weight[99] *= ((logits - logits[99]).exp().sum().log() * 0 + 2 * math.log(383) / logits[99]).item()
        logits = made.model.policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1]
    expected = (logits / 2).softmax(-1)[99].item()
    torch.manual_seed(0)
    answers, _ = made.sample(made.model, [{"prompt_ids": [5, 6]}] * 1000)
    drawn = sum(answer == [99] for answer in answers) / 1000
    assert 0.2 < expected < 0.8
    assert drawn == pytest.approx(expected, abs=0.06)  # four standard deviations


def test_a_checkpoint_holds_the_rollout_and_every_number_that_moves(spec, trainer, tmp_path):
    one = trainer(spec("lora", kl_target=6))
    moved(one.model)
    one.rollout, one.tokens = one.collect(one.model, 0), 1234
    one._save(str(tmp_path / "saved"))
    other = trainer(spec("lora", kl_target=6))
    other._load_from_checkpoint(str(tmp_path / "saved"))
    assert other.tokens == 1234
    assert other.rollout.keys() == one.rollout.keys()
    assert all(torch.equal(other.rollout[name], value) for name, value in one.rollout.items())
    assert other.coefficient() == one.coefficient() != one.spec["kl_coefficient"]
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_coefficient_of_a_rollout_is_adapted_from_the_one_before(spec, trainer):
    made = trainer(spec("lora", kl_target=6, batch_size=8))
    assert made.coefficient() == 0.05
    made.rollout = {"kl": torch.tensor(600.0), "kl_coefficient": torch.tensor(0.05, dtype=torch.float64)}
    assert made.coefficient() == pytest.approx(0.05 * (1 + 0.2 * 8 / 10_000), rel=1e-12)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_there_is_no_dropout_and_the_layers_are_computed_again_where_told(checkpointing, spec, trainer):
    made = trainer(spec("lora", max_steps=1, ppo_epochs=1, gradient_checkpointing=checkpointing))
    calls = []
    for module in made.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
            module.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    logged, _ = first_step(made)
    assert logged["clip_fraction"] == 0
    assert abs(logged["policy_loss"]) < 1e-5
    layers, roles = 2, 2
    assert calls.count(True) == layers * roles * (1 + checkpointing)


@pytest.fixture(scope="module")
def coin_folder(random_tiny_folder, tmp_path_factory):
    """A model that writes token 98 or 99, each as often as the other."""
    model, folder = loading.load(random_tiny_folder), tmp_path_factory.mktemp("coin")
    embeddings, head = model.get_input_embeddings().weight.data, model.get_output_embeddings().weight.data
    embeddings[:, 0], head[:, :2] = 3, 0
    head[98], head[99] = 0, 0
    head[98, :2], head[99, :2] = torch.tensor([3.0, -1.0]), torch.tensor([3.0, 1.0])
    loading.save(model, loading.tokenizer(random_tiny_folder), folder)
    return folder


def test_a_coin_is_turned_to_the_side_that_pays(spec, trainer, coin_folder):
    keys = {"max_new_tokens": 1, "batch_size": 32, "max_steps": 16, "learning_rate": 0.03, "schedule": "linear"}
    keys |= {"kl_coefficient": 0, "missing_eos_penalty": 0, "ppo_epochs": 2, "warmup": 0, "rank": 8}
    made = trainer(spec("lora", **keys), lambda answer: float(answer == [99]), parent=coin_folder)
    made.train()
    for role, (low, high) in {"reference": (0.4, 0.6), "policy": (0.95, 1)}.items():
        with torch.no_grad(), made.model.role(role) as model:
            for question in QUESTIONS:
                logits = model(input_ids=torch.tensor([question["prompt_ids"]])).logits[0, -1]
                assert low < logits.softmax(-1)[99].item() <= high
    rewards = [line["reward"] for line in made.state.log_history if "reward" in line]
    assert rewards[0] < 0.7 < 0.9 < rewards[-1]
