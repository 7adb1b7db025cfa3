"""The memory estimate: against what trainings took, and what PEFT and torch say of a model."""

import json

import pytest
import torch
from conftest import refused
from safetensors.torch import save_file

from posttrain.models import memory_estimate, shapes
from posttrain.models.memory_estimate import GIB
from posttrain.models.shapes import Model

# SmolLM2-135M as its file describes it: 30 layers, tied embeddings.
LAYER = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (192, 576),
    "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (1536, 576),
    "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}
NORMS = {f"model.layers.{n}.{norm}_layernorm.weight": (576,) for n in range(30) for norm in ("input", "post_attention")}
SHAPES = {f"model.layers.{n}.{name}.weight": shape for n in range(30) for name, shape in LAYER.items()} | NORMS
SHAPES |= {"model.embed_tokens.weight": (49152, 576), "model.norm.weight": (576,)}
SMOLLM2 = Model({}, SHAPES, 4 * 134_515_008, 30, 576, 1536, 49152)


def spec(method="lora", objective="sft", **keys) -> dict:
    settings = {
        "objective": objective,
        "method": method,
        "batch_size": 4,
        "accumulation": 1,
        "gradient_checkpointing": False,
        "max_length": 1024,
        "peft_args": {},
        "trainer_args": {},
    }
    adapted = (
        {"rank": 16, "dropout": 0.05, "target_modules": "all-linear"} if method in ("lora", "qlora", "adalora") else {}
    )
    return settings | adapted | keys


ROLLOUT = {
    "minibatches": 1,
    "batch_size": 8,
    "max_new_tokens": 64,
    "reward": {"from": {"name": "reward"}},
    "dropout": 0,
}
# Peaks of real trainings on a CPU in float32, in GiB: spec, tokens of the longest row, share that is trained.
MEASURED = [
    (2.66, spec(dropout=0), 150, 0.41),
    (2.86, spec(), 150, 0.41),
    (3.65, spec(peft_args={"use_dora": True}), 150, 0.41),
    (3.05, spec("qlora"), 150, 0.41),
    (3.29, spec("full"), 150, 0.41),
    (1.95, spec("adapter", reduction_factor=16), 150, 0.41),
    (2.33, spec("oft", target_modules="all-linear"), 150, 0.41),
    (2.51, spec("prompt", virtual_tokens=20), 150, 0.41),
    (3.15, spec(objective="dpo", dropout=0), 144, 0.87),
    (3.89, spec(objective="reward", dropout=0), 144, 0.87),
    (5.05, spec(objective="ppo", **ROLLOUT), 149, 0.43),
    (4.14, spec(objective="ppo", **ROLLOUT | {"accumulation": 2}), 149, 0.43),
    (5.66, spec(dropout=0), 442, 0.73),
]


@pytest.mark.parametrize("peak, run, longest, share", MEASURED)
def test_the_estimate_is_near_what_trainings_took(peak, run, longest, share):
    need = memory_estimate.estimate(run, SMOLLM2, longest, share, "cpu", bf16=False)
    assert 0.8 < need["total"] / GIB / peak < 1.25
    assert need["least"] < need["total"]


@pytest.mark.parametrize(
    "run, exact",
    [
        (spec("full"), 134_515_008),
        (spec(), 4_884_480),
        (spec("adalora"), 7_326_720),
        (spec(target_modules=["q_proj", "v_proj"]), 30 * 16 * (576 + 576 + 576 + 192)),
        (spec(peft_args={"modules_to_save": ["embed_tokens"]}), 4_884_480 + 49152 * 576),
    ],
)
def test_trained_parameters_are_counted(run, exact):
    assert memory_estimate.trained_parameters(run, SMOLLM2) == exact


def test_full_fine_tuning_needs_weights_gradients_and_two_moments():
    need = memory_estimate.estimate(spec("full"), SMOLLM2, 100, 0.5, "cpu", bf16=False)
    assert need["least"] == 16 * 134_515_008
    smaller = memory_estimate.estimate(
        spec("full", trainer_args={"optim": "adamw_bnb_8bit"}), SMOLLM2, 100, 0.5, "cpu", bf16=False
    )
    assert smaller["least"] == 10 * 134_515_008


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("stored, bf16", [(2, True), (4, True), (2, False)])
def test_activations_are_half_as_wide_where_matrices_are_multiplied_in_16_bits(method, stored, bf16):
    model = SMOLLM2._replace(bytes=stored * SMOLLM2.parameters)
    wide, narrow = (
        memory_estimate.estimate(spec(method), m, 4096, 0.5, "gpu", b)["activations"]
        for m, b in ((SMOLLM2, False), (model, bf16))
    )
    half = bf16 or method != "full"  # which is loaded in float32
    assert (narrow < 0.7 * wide) == half


def test_what_saves_memory_saves_it_in_the_estimate():
    def total(run, longest=512, device="cpu", bf16=False):
        return memory_estimate.estimate(run, SMOLLM2, longest, 0.5, device, bf16)["total"]

    run = spec(batch_size=16)
    assert total(run | {"accumulation": 4}) < 0.5 * total(run)
    assert total(run | {"gradient_checkpointing": True}) < 0.5 * total(run)
    assert total(run, longest=256) < 0.6 * total(run)
    assert total(run, device="gpu", bf16=True) < total(run, device="gpu")
    weights = [
        memory_estimate.estimate(spec(method), SMOLLM2, 100, 0.5, "cpu", False)["weights"]
        for method in ("lora", "qlora")
    ]
    assert weights[1] < 0.4 * weights[0]


def test_remedies_begin_with_what_changes_no_result_and_end_with_shorter_rows():
    texts = [text for text, _ in memory_estimate.remedies(spec("full", batch_size=8), 400)]
    assert texts[0] == "gradient_accumulation_steps: 2"
    assert "gradient_checkpointing: true" in texts
    assert (
        texts.index("method: lora")
        < texts.index("method: qlora")
        < texts.index("max_length: 200, gradient_checkpointing: true, gradient_accumulation_steps: 8")
    )
    assert all(
        "gradient_checkpointing" not in text
        for text, _ in memory_estimate.remedies(spec("prefix", virtual_tokens=20), 400)
    )
    kto = [
        changes["accumulation"]
        for _, changes in memory_estimate.remedies(spec(objective="kto", batch_size=8), 400)
        if "accumulation" in changes
    ]
    assert max(kto) == 4  # its KL divergence needs two rows


@pytest.mark.parametrize(
    "wanted, arguments",
    [
        (["q_proj"], {}),
        (["model.layers.0.mlp.up_proj", "v_proj"], {}),
        (["proj"], {}),
        (r".*layers\.1\..*_proj", {}),
        (["q_proj", "lm_head"], {"exclude_modules": ["lm_head"]}),
        (["q_proj", "k_proj"], {"exclude_modules": r".*layers\.0\..*"}),
        (["q_proj"], {"layers_to_transform": 1}),
        (["q_proj"], {"layers_to_transform": [0, 5], "layers_pattern": "layers"}),
        (["q_proj"], {"layers_to_transform": [0], "layers_pattern": ["h"]}),
        (["q_proj", "up_proj"], {"modules_to_save": ["mlp"]}),
    ],
)
def test_targets_are_matched_as_peft_matches_them(wanted, arguments, random_tiny_model):
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    modules = [
        name
        for name, module in random_tiny_model.named_modules()
        if hasattr(module, "weight") and module.weight.dim() > 1
    ]
    config = LoraConfig(target_modules=wanted, **arguments)

    def matches(name):
        try:
            found = check_target_module_exists(config, name)
        except UnboundLocalError:  # PEFT's own, where no pattern of layers matches
            found = False
        return bool(found)

    expected = [name for name in modules if matches(name)]
    assert memory_estimate.targeted({"target_modules": wanted, "peft_args": arguments}, modules) == expected


def test_a_model_is_read_from_the_headers_of_its_files(random_tiny_folder, random_tiny_model):
    model = shapes.read_model(random_tiny_folder)
    assert model.parameters == sum(p.numel() for p in random_tiny_model.parameters())
    assert model.bytes == sum(p.numel() * p.element_size() for p in random_tiny_model.parameters())
    config = random_tiny_model.config
    sizes = (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.vocab_size)
    assert model[3:7] == sizes
    assert len(model.matrices) == 7 * config.num_hidden_layers


def test_weights_in_several_files_are_read_as_one(random_tiny_folder, random_tiny_model, tmp_path):
    random_tiny_model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert shapes.read_model(tmp_path).shapes == shapes.read_model(random_tiny_folder).shapes


def test_a_folder_without_weights_is_one_sentence(tmp_path):
    with refused("missing-file"):
        shapes.read_model(tmp_path)


def test_the_text_part_of_a_model_of_several_parts_counts(tmp_path):
    text = {f"language_model.layers.{n}.mlp.up_proj.weight": [256, 64] for n in range(2)}
    vision = {f"vision_tower.layers.{n}.mlp.fc1.weight": [32, 16] for n in range(9)}
    tensors = {"language_model.embed_tokens.weight": [1000, 64]} | text | vision
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"model_type": "llama"}}))
    assert shapes.read_model(tmp_path)[3:7] == (2, 64, 256, 1000)
    assert shapes.read_model(tmp_path).config == {"model_type": "llama"}


def test_weights_are_counted_as_they_are_held():
    """A merged model in float32, of a base in bfloat16 with a low-rank update of 1 GiB on disk; or the base itself."""
    merged = SMOLLM2._replace(update=GIB)
    base = SMOLLM2._replace(bytes=2 * SMOLLM2.parameters)
    fp16 = base._replace(config={"dtype": "float16"})
    older = base._replace(config={"torch_dtype": "float16"})

    def weights(model, bf16=True, **keys) -> float:
        run = spec(**keys)
        adapters = 0 if keys.get("method") == "full" else 4 * memory_estimate.trained_parameters(run, model)
        return memory_estimate.estimate(run, model, 100, 0.5, "cpu", bf16)["weights"] - adapters

    whole, half = 4 * SMOLLM2.parameters, 2 * SMOLLM2.parameters
    assert weights(merged) == half + GIB / 2
    assert weights(base) == half
    assert (
        weights(SMOLLM2) == weights(merged, False) == weights(base, False) == weights(fp16) == weights(older) == whole
    )
    assert weights(merged, method="full") == weights(merged, peft_args={"use_dora": True}) == whole
