"""Which matrices get an adapter, on tiny models of the families that differ, and that what is allowed can be merged."""

import json
from pathlib import Path

import pytest
import torch
import zoo
from peft import PeftModel, get_peft_model

from posttrain.models import loading, memory_estimate, peft_methods, shapes, target_modules
from posttrain.preflight import settings_checks, token_checks
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
GATED = {"gate_proj", "up_proj", "down_proj"}
# What `all-linear` means, as the ends of names within a layer.
MEANT = {
    "llama3": ATTENTION | GATED,
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "falcon_h1": ATTENTION | GATED | {"in_proj"},
    "lfm2": {"in_proj", "out_proj", "q_proj", "k_proj", "v_proj", "w1", "w2", "w3"},
    "mixtral": ATTENTION,
    "qwen3_moe": ATTENTION,
    "gpt_oss": ATTENTION,
}


@pytest.fixture(scope="module")
def member(tmp_path_factory):
    """The folder of a member of the zoo."""
    folder, built = tmp_path_factory.mktemp("zoo"), {}

    def at(name: str) -> Path:
        if name not in built:
            built[name] = zoo.build(name, folder / name)
        return built[name]

    torch.set_num_threads(1)
    return at


@pytest.fixture
def spec(configuration):
    """The spec of an SFT of the base, with a method and keys."""

    def resolved(method: str, **keys) -> dict:
        table = {"from": "base", "objective": "sft", "data": "chats", "method": method} | keys
        return json.loads(Project(configuration({"runs": {"own": table}, "sweeps": {}})).spec("own"))

    return resolved


def adapted(folder: Path, spec: dict):
    model = loading.load(folder, dtype=torch.float32)
    return get_peft_model(model, peft_methods.peft_config(spec, model, 10))


def with_adapters(model) -> set[str]:
    return {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if ".lora_A." in name}


@pytest.mark.parametrize("name", MEANT)
def test_all_linear_leaves_out_what_cannot_have_an_adapter(name, member, spec):
    model = adapted(member(name), spec("lora", rank=4))
    assert with_adapters(model) == MEANT[name]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert memory_estimate.trained_parameters(spec("lora", rank=4), shapes.read_model(member(name))) == trained


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What people are told."""
    lines: list[str] = []
    monkeypatch.setattr(peft_methods, "say", lines.append)
    return lines


def test_matrices_smaller_than_the_rank_are_left_out_and_told(member, spec, said):
    assert with_adapters(adapted(member("llama3"), spec("lora", rank=17))) == {"q_proj", "o_proj"} | GATED
    what = "matrices smaller than rank 17 (self_attn.k_proj, self_attn.v_proj)"
    assert said == [f"target_modules: all-linear leaves out {what}"]


def test_what_a_mixture_leaves_out_is_told(member, spec, said):
    model = loading.load(member("mixtral"))
    model.model.layers[0].mlp.shared_expert_gate = torch.nn.Linear(32, 1)  # as Qwen2-MoE has one
    peft_methods.peft_config(spec("lora"), model, 10)
    experts = "experts (mlp.experts.gate_up_proj, mlp.experts.down_proj)"
    assert said == [f"target_modules: all-linear leaves out {experts}; routers (mlp.shared_expert_gate)"]


def test_nothing_is_told_where_nothing_is_left_out(member, spec, said):
    peft_methods.peft_config(spec("lora"), loading.load(member("llama3")), 10)
    assert said == []


NAMED = {
    "experts": ("mixtral", {"target_modules": ["w1", "w2", "w3"], "dropout": 0}),
    "experts beside attention": ("qwen3_moe", {"target_modules": ["q_proj", *sorted(GATED)], "dropout": 0}),
    "the router": ("mixtral", {"target_modules": ["gate"], "dropout": 0}),
    "fused parameters": (
        "gpt_oss",
        {
            "target_modules": ["q_proj"],
            "dropout": 0,
            "peft_args": {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
        },
    ),
    "DoRA beside experts": ("mixtral", {"peft_args": {"use_dora": True}}),
    "the embedding of an untied model": ("llama3", {"target_modules": ["embed_tokens"]}),
    "a whole tied embedding": ("qwen2_5", {"peft_args": {"modules_to_save": ["embed_tokens"]}}),
    "a whole tied head": ("gemma2", {"peft_args": {"modules_to_save": ["lm_head"]}}),
    "transposed matrices": ("gpt2", {}),
    "a part of a Mamba mixer": ("falcon_h1", {"target_modules": ["in_proj"]}),
}


@torch.no_grad()
@pytest.mark.parametrize("case", NAMED)
def test_what_is_allowed_can_be_loaded_again_and_merged(case, member, spec, tmp_path):
    name, keys = NAMED[case]
    ids = torch.arange(20, 50)[None]
    parent = loading.load(member(name), dtype=torch.float32).eval()(input_ids=ids).logits
    model = adapted(member(name), spec("lora", rank=4, **keys))
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn_like(parameter))
    trained = model.eval()(input_ids=ids).logits
    model.save_pretrained(tmp_path / "trained")
    again = PeftModel.from_pretrained(loading.load(member(name), dtype=torch.float32), tmp_path / "trained")
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = loading.load(tmp_path / "merged").eval()(input_ids=ids).logits
    assert (trained - parent).abs().max() > 0.005
    torch.testing.assert_close(merged, trained, atol=1e-4, rtol=1e-4)


REFUSED = {
    "dropout on experts": (
        "mixtral",
        {"target_modules": ["w1", "w2", "w3"]},
        "PEFT has no dropout, and dropout is 0.05",
    ),
    "DoRA on experts": (
        "mixtral",
        {"target_modules": ["w2"], "dropout": 0, "peft_args": {"use_dora": True}},
        "PEFT has no DoRA; take use_dora out",
    ),
    "half of a fused matrix": ("qwen3_moe", {"target_modules": ["up_proj"]}, "'up_proj' and gate_proj are one matrix"),
    "dropout on parameters": (
        "gpt_oss",
        {"peft_args": {"target_parameters": ["mlp.experts.down_proj"]}},
        "peft_args.target_parameters are fused matrices, on which PEFT has no dropout",
    ),
    "an untied head": ("llama3", {"target_modules": ["lm_head"]}, "TRL multiplies by the LM head's own weight"),
    "a tied head": ("qwen2_5", {"target_modules": ["lm_head"]}, "embedding and LM head are one matrix"),
    "a tied embedding": ("gpt2", {"target_modules": ["wte"]}, "write peft_args: {modules_to_save: [wte]} instead"),
    "out of a Mamba mixer": (
        "falcon_h1",
        {"target_modules": ["out_proj"]},
        "fused Mamba kernels read without an adapter",
    ),
    "a convolution": ("falcon_h1", {"target_modules": ["conv1d"]}, "fused Mamba kernels read without an adapter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_named_target_that_cannot_work_is_one_sentence_before_and_at_training(case, member, spec):
    name, keys, text = REFUSED[case]
    resolved = spec("lora", rank=4, **keys)
    with pytest.raises(UserError) as error:
        peft_methods.peft_config(resolved, loading.load(member(name)), 10)
    assert text in str(error.value)
    assert "\n" not in str(error.value)
    found = settings_checks.target_modules(subject(resolved, member(name)))
    assert (found.severity, text in found.message) == ("error", True), found


def subject(spec: dict, folder: Path):
    """What the checks of settings look at."""
    from types import SimpleNamespace

    return SimpleNamespace(spec=spec, model=shapes.read_model(folder), longest=20)


ARCHITECTURE = [
    ("gpt2", "oft", {}, "PEFT's OFT cannot turn matrices of GPT-2's kind"),
    ("gpt2", "lora", {"peft_args": {"init_lora_weights": "olora"}}, "PEFT's OLoRA misreads matrices of GPT-2's kind"),
    ("gpt2", "lora", {"peft_args": {"init_lora_weights": "pissa"}}, None),
    ("llama3", "oft", {}, None),
    ("mixtral", "ia3", {}, None),
    ("phi3", "ia3", {}, None),
]


@pytest.mark.parametrize("name, method, keys, text", ARCHITECTURE)
def test_a_method_that_an_architecture_cannot_have_is_one_sentence(name, method, keys, text, member, spec):
    found = settings_checks.architecture(subject(spec(method, **keys), member(name)))
    assert text in found.message if text else found is None
    if text:
        with pytest.raises(UserError, match=text):
            peft_methods.peft_config(spec(method, **keys), loading.load(member(name)), 10)


def test_a_reward_model_needs_a_classifier_of_its_type(member, spec):
    reward = spec("lora") | {"objective": "reward"}
    found = settings_checks.architecture(subject(reward, member("lfm2")))
    assert "no model of the type lfm2 that gives a sequence one score" in found.message
    assert settings_checks.architecture(subject(reward, member("llama3"))) is None


@pytest.mark.parametrize("name", zoo.MEMBERS)
def test_ia3_knows_where_keys_values_and_feed_forward_blocks_are(name, member, spec):
    if zoo.MEMBERS[name].bits:
        pytest.skip("it cannot be loaded in float32")
    model = adapted(member(name), spec("ia3"))
    places = {part.split(".ia3_l")[0].split(".")[-1] for part, _ in model.named_parameters() if ".ia3_l." in part}
    keys = {
        "phi3": {"qkv_proj", "down_proj"},
        "gpt2": {"c_attn", "c_proj"},
        "gpt_neox": {"query_key_value", "dense_4h_to_h"},
        "opt": {"q_proj", "k_proj", "fc2"},  # PEFT's own choice
        "lfm2": {"k_proj", "v_proj", "w2"},
    }
    usual = {"k_proj", "v_proj"} | ({"down_proj"} if "experts" not in zoo.MEMBERS[name].title else set())
    pefts = {"q_proj", "v_proj", "down_proj"}  # of Gemma and Qwen
    assert places == keys.get(name, usual) or places == pefts


def test_ia3_on_named_layers_scales_the_input_of_the_last_feed_forward_matrix_only(member, spec):
    config = peft_methods.peft_config(
        spec("ia3", target_modules=["k_proj", "v_proj"]), loading.load(member("llama3")), 10
    )
    assert config.feedforward_modules == set()
    config = peft_methods.peft_config(
        spec("ia3", target_modules=["qkv_proj", "down_proj"]), loading.load(member("phi3")), 10
    )
    assert config.feedforward_modules == {"down_proj"}


def test_learnt_positions_have_an_end(member, spec):
    from types import SimpleNamespace

    at = SimpleNamespace(spec=spec("lora", max_length=600), model=shapes.read_model(member("gpt2")), longest=20)
    found = token_checks.context_length(at)
    assert found.severity == "error"
    assert "beyond the positions that the model has learnt" in found.message
    assert "write max_length: 512" in found.message
    at.spec = spec("prompt", max_length=500, virtual_tokens=20)
    assert "write max_length: 492" in token_checks.context_length(at).message
    at.model = shapes.read_model(member("llama3"))
    assert token_checks.context_length(at).severity == "warning"


@pytest.mark.parametrize("name", zoo.MEMBERS)
@pytest.mark.parametrize(
    "method", ["full", "lora", "qlora", "adalora", "adapter", "prefix", "p_tuning", "prompt", "ia3", "oft", "vera"]
)
def test_memory_is_estimated_for_every_family(name, method, member, spec):
    need = memory_estimate.estimate(spec(method), shapes.read_model(member(name)), 100, 0.5, "cpu", True)
    assert 0 < need["weights"] < need["total"]


@torch.no_grad()
def test_weights_in_4_bits_become_an_architectures_own_layers_again(member):
    ids = torch.arange(20, 50)[None]
    packed = loading.load(member("gpt2"), quantised="fp32").eval()(input_ids=ids).logits
    plain = loading.dequantised(loading.load(member("gpt2"), quantised="fp32"))
    torch.testing.assert_close(plain.eval()(input_ids=ids).logits, packed, atol=1e-3, rtol=1e-3)
    original = loading.load(member("gpt2"))
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in original.state_dict().items()}


def test_what_is_left_out_is_told_by_its_reason():
    reasons = {"h.0.mlp.gate": "routers", "h.1.mlp.gate": "routers", "h.0.a.k": "matrices smaller than rank 8"}
    assert target_modules.told(reasons) == "routers (mlp.gate); matrices smaller than rank 8 (a.k)"
