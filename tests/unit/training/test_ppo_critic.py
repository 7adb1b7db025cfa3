"""PPO's critic and its rollouts: it learns, from its own start at its own rate; rollouts come in pieces; where rewards are read."""

# ruff: noqa: F811  (fixtures of another file's)

import inspect
from pathlib import Path

import pytest
import torch
from conftest import refused
from transformers import TrainerCallback

from posttrain.data import tokens
from posttrain.inference import reward_models, rollout, scoring
from posttrain.inference.rollout import pack
from posttrain.models import lm_head, loading, memory_estimate, shapes, value_model
from posttrain.training import loop
from posttrain.training.ppo.actor_critic import ActorCritic
from posttrain.workflow.project import Project
from unit.models.test_lm_head import build
from unit.training.test_ppo import (  # noqa: F401  (fixtures)
    ANSWERS,
    QUESTIONS,
    log_probs,
    moved,
    reward_run,
    rewards_of,
    rows,
    spec,
    token_by_token,
    trainer,
)

# ---- the critic


@pytest.mark.parametrize(
    ("method", "keys", "most"),
    [("full", {}, 0.75), ("lora", {}, 0.8), ("full", {"value_learning_rate": 5e-3}, 0.05)],  # of a model 32 wide
)
def test_the_critic_of_a_constant_reward_learns_it(method, keys, most, spec, trainer):
    keys = {"max_steps": 20, "ppo_epochs": 8, "batch_size": 2, "max_new_tokens": 2, "gae_lambda": 1} | keys
    made = trainer(spec(method, kl_coefficient=0, missing_eos_penalty=0, **keys), lambda answer: 3.0)
    made.train()
    losses = [line["value_loss"] for line in made.state.log_history if "value_loss" in line]
    assert (len(losses), losses[0]) == (160, pytest.approx(4.5))  # half of 3 squared, as the value begins at 0
    assert losses[-1] < most * losses[0]


@pytest.mark.parametrize("lora_plus", [None, 16])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_value_has_its_own_learning_rate(method, lora_plus, spec, trainer):
    if method == "full" and lora_plus:
        pytest.skip("LoRA+ is LoRA's")
    keys = {"lora_plus": lora_plus} if lora_plus else {}
    made = trainer(spec(method, learning_rate=1e-5, value_learning_rate=3e-4, **keys))
    if lora_plus:
        made.optimizer = loop.lora_plus(made, lora_plus)
    groups = made.create_optimizer().param_groups
    names = {id(p): name for name, p in made.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == {name for name, p in made.model.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        own = 3e-4 if name.startswith("value_head") or ".value." in name else 1e-5
        assert rate == pytest.approx(own * (lora_plus if lora_plus and "lora_B" in name else 1)), name


@pytest.mark.parametrize(
    ("method", "keys", "rate"),
    [
        ("full", {}, 2e-4),  # of LoRA, which its critic is
        ("lora", {}, 2e-4),
        ("lora", {"learning_rate": 1e-3}, 1e-3),
        ("vera", {}, 5e-3),
        ("full", {"value_learning_rate": 7e-6}, 7e-6),
    ],
)
def test_the_values_learning_rate_is_its_methods_usual_one_and_no_less_than_the_policys(method, keys, rate, spec):
    assert value_model.learning_rate(spec(method, **keys)) == rate


@pytest.mark.parametrize(
    ("method", "keys", "rank"), [("full", {}, 16), ("full", {"value_rank": 3}, 3), ("lora", {"value_rank": 2}, 2)]
)
def test_the_value_has_its_own_rank(method, keys, rank, spec, random_tiny_folder):
    net = ActorCritic(random_tiny_folder, spec(method, **keys))
    config = net.backbone.peft_config["value"]
    assert (config.r, config.lora_alpha) == (rank, 2 * rank)
    assert {p.shape[0] for name, p in net.named_parameters() if "lora_A.value" in name} == {rank}
    if method == "lora":
        assert net.backbone.peft_config["default"].r == 4
    model = shapes.read_model(random_tiny_folder)
    both = memory_estimate.estimate(spec(method, **keys), model, 64, 0.5, "cpu", bf16=False)
    held = sum(p.numel() for name, p in net.named_parameters() if p.requires_grad)
    assert both["gradients"] == pytest.approx(4 * held, rel=0.01)


def test_keys_of_the_value_are_in_a_spec_only_where_they_are_set(spec):
    assert not {"value_learning_rate", "value_rank", "value_start"} & spec("lora").keys()
    set_to = {"value_learning_rate": 1e-4, "value_rank": 2, "value_start": "zero"}
    assert set_to.items() <= spec("lora", **set_to).items()
    assert "value_start" not in spec("lora", value_start="auto")


REFUSED = [  # keys, code, place in the run
    ({"method": "ia3", "value_rank": 4}, "key-without-effect", "value_rank"),
    ({"objective": "grpo", "value_start": "zero"}, "key-without-effect", "value_start"),
    ({"value_start": "reward"}, "conflicting-keys", "value_start"),
]


@pytest.mark.parametrize(("keys", "code", "place"), REFUSED)
def test_a_key_of_the_value_that_could_not_act_is_refused(keys, code, place, configuration):
    table = {"from": "base", "objective": "ppo", "data": "chats", "reward": {"function": "final_number"}}
    with refused(code, f"runs.ppo.{place}"):
        Project(configuration({"runs.ppo": table | keys}))


@pytest.mark.parametrize(("reward", "keys"), [({"method": "full"}, {}), ({"rank": 4}, {"value_rank": 8})])
def test_a_value_that_cannot_start_as_the_reward_model_is_one_sentence(
    reward,
    keys,
    reward_run,
    spec,
    random_tiny_folder,
    random_tiny_tokenizer,
):
    reward_run("reward", **reward)
    net = ActorCritic(random_tiny_folder, spec("lora", **keys))
    with refused("wrong-reward-model", "value_start"):
        rewards_of(net, {"from": {"name": "reward"}}, random_tiny_tokenizer, value_start="reward", **keys)


# ---- rollouts in pieces


def test_a_rollout_holds_no_more_rows_at_once_than_a_step(spec, trainer):
    made = trainer(spec("lora", batch_size=8, minibatches=2, accumulation=2, max_steps=1))
    lm_head.find(made.model.policy.get_base_model())  # looks at the model once, on a row of its own
    rows_at_once = []
    backbone = made.model.policy.get_base_model().base_model
    backbone.register_forward_pre_hook(lambda _, __, kw: rows_at_once.append(len(kw["input_ids"])), with_kwargs=True)
    made.collect(made.model, 0)
    assert set(rows_at_once) == {2}


class SaveAt(TrainerCallback):
    """Write a checkpoint after one step, in the middle of a rollout."""

    def on_step_end(self, args, state, control, **_):
        control.should_save = state.global_step == 5


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_in_pieces_goes_on_with_the_same_bits(method, spec, trainer, tmp_path):
    settings = spec(
        method, batch_size=4, accumulation=2, ppo_epochs=4, max_steps=3, value_rank=4, value_learning_rate=1e-3
    )
    ends = []
    for checkpoint in (None, str(tmp_path / "checkpoint-5")):
        made = trainer(settings, lambda answer: float(sum(answer) % 3))
        made.add_callback(SaveAt())
        torch.manual_seed(1 if checkpoint else 2)  # what a fresh process has drawn before is of no account
        made.args.seed = settings["seed"]
        made.train(resume_from_checkpoint=checkpoint)
        assert made.state.global_step == 12
        ends.append([p.detach().clone() for p in made.model.trainable])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("method", ["full", "lora", "prefix", "p_tuning", "prompt"])
def test_no_layers_states_but_the_last_are_kept_and_they_are_what_the_model_itself_gives(
    method,
    spec,
    random_tiny_folder,
):
    net = moved(ActorCritic(random_tiny_folder, spec(method))).eval()
    asked = []
    with torch.no_grad(), net.role("value") as model:
        inner = rollout.causal(model)
        inner.base_model.register_forward_pre_hook(lambda _, __, kw: asked.append(kw), with_kwargs=True)
        ours = rollout.hidden_states(model, rows())
        assert not any(kw.get("output_hidden_states") for kw in asked)
        ids, prompts, answers = rows()
        for i, (n, m) in enumerate(zip(prompts.tolist(), answers.tolist(), strict=True)):
            whole = model(input_ids=ids[i : i + 1, : n + m], output_hidden_states=True, use_cache=False).hidden_states[
                -1
            ]
            torch.testing.assert_close(ours[i, :m], whole[0, -m - 1 : -1], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("odd", [False, True], ids=["capped", "in another way"])
def test_a_model_that_does_more_to_its_logits_has_its_own_log_probabilities(
    odd,
    spec,
    random_tiny_folder,
    monkeypatch,
):
    net = moved(ActorCritic(random_tiny_folder, spec("lora"))).eval()
    kind = type(net.policy.get_base_model())
    forward = kind.forward

    def changed(self, *args, **options):
        output = forward(self, *args, **options)
        output.logits = output.logits.sin() if odd else 3 * (output.logits / 3).tanh()
        return output

    changed.__signature__ = inspect.signature(forward)
    net.policy.get_base_model().config.final_logit_softcapping = 3.0
    monkeypatch.setattr(kind, "forward", changed)
    with torch.no_grad():
        found = lm_head.find(net.policy.get_base_model())
        assert (found is None) == odd
        for theirs, ours in zip(token_by_token(net.policy), log_probs(net, "policy"), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)
        hot = net.log_probs("policy", rows(), 2.0)
        logits = net.policy(input_ids=torch.tensor([QUESTIONS[1]["prompt_ids"]])).logits[0, -1]
    assert hot[1, 0].item() == pytest.approx((logits / 2).log_softmax(-1)[ANSWERS[1][0]].item(), abs=1e-5)


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "cohere", "granite", "falcon_h1", "gpt2", "phi", "mixtral"])
def test_families_that_scale_cap_or_shift_their_logits_have_a_policy_a_reference_and_a_value(
    name, method, spec, tmp_path
):
    model = build(name).eval()
    model.save_pretrained(tmp_path)
    keys = {"target_modules": "all-linear"} if method == "lora" else {}
    net = ActorCritic(tmp_path, spec(method, **keys)).eval()
    expected = token_by_token(model)
    for role in ("policy", "reference"):
        for ours, theirs in zip(log_probs(net, role), expected, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-3)
    moved(net)
    for ours, theirs in zip(log_probs(net, "policy"), token_by_token(net.policy), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)
    with net.role("value") as value:
        net.values(rollout.hidden_states(value, rows()), rows()).sum().backward()
    assert net.value_head.weight.grad.abs().max() > 0


# ---- where a reward is read


@pytest.mark.parametrize(
    ("answer", "read"),
    [([5, 6], [5, 6]), ([5, 6, 2], [5, 6, 2]), ([5, 6, 3], [5, 6, 2]), ([3], [2]), ([5, 2, 3], [5, 2]), ([], [])],
)
def test_an_ended_answer_is_read_at_the_turns_end_once_and_a_cut_one_at_its_last_token(answer, read):
    assert reward_models.as_trained(answer, [2, 3], 2) == read


@pytest.mark.parametrize("shares", [True, False])
def test_whatever_token_ends_an_answer_it_is_worth_the_same(
    shares,
    reward_run,
    spec,
    random_tiny_folder,
    random_tiny_tokenizer,
):
    reward_run("reward", **({} if shares else {"method": "full"}))
    net = ActorCritic(random_tiny_folder, spec("lora")).eval()
    eos = random_tiny_tokenizer.eos_token_id
    rollout.causal(net.policy).generation_config.eos_token_id = [eos, 99]
    rewards = rewards_of(net, {"from": {"name": "reward"}}, random_tiny_tokenizer)
    assert (rewards.head is not None) == shares
    said = [[60, 61], [70], [80, 81]]
    scores = []
    with torch.no_grad():
        for end in ([eos], [99], []):
            answers = [answer + end for answer in said]
            packed = pack(QUESTIONS, answers, random_tiny_tokenizer.pad_token_id, "cpu")
            scores.append(rewards(QUESTIONS, answers, packed).scores.tolist())
    model = loading.load(Path("results/reward/merged")).eval()
    for found, end in zip(scores, ([eos], [eos], []), strict=True):
        whole = [(*row["prompt_ids"], *answer, *end) for row, answer in zip(QUESTIONS, said, strict=True)]
        assert found == pytest.approx(scoring.rewards(model, whole, 4096), abs=1e-4)
    assert scores[0] != pytest.approx(scores[2], abs=1e-3)


def test_the_stops_of_a_folder_are_its_generation_configurations_and_the_tokenizers(
    random_tiny_folder, random_tiny_tokenizer, tmp_path
):
    eos = random_tiny_tokenizer.eos_token_id
    assert tokens.stops(tmp_path, random_tiny_tokenizer) == [eos]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [300, 7]}')
    assert tokens.stops(tmp_path, random_tiny_tokenizer) == sorted({7, 300, eos})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert tokens.stops(tmp_path, random_tiny_tokenizer) == sorted({7, eos})
