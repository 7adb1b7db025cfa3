"""From a spec's method to PEFT's configuration: how many parameters are trained, and what is refused in which words."""

import json

import pytest
import torch
from conftest import refused
from peft import PeftType, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config

from posttrain.models import loading, peft_methods
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError
from posttrain.training import inputs, results
from posttrain.workflow.project import Project

# The random tiny model: rows and columns of the matrices of one of its two layers.
D, WIDE, VOCABULARY, LAYERS = 32, 64, 384, 2
MATRICES = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (D, D))
MATRICES |= {"gate_proj": (WIDE, D), "up_proj": (WIDE, D), "down_proj": (D, WIDE)}


def lora(rank: int, names=MATRICES) -> int:
    return LAYERS * sum(rank * (MATRICES[name][0] + MATRICES[name][1]) for name in names)


ROWS = LAYERS * sum(rows for rows, _ in MATRICES.values())
BLOCKS = LAYERS * sum(columns // 32 for _, columns in MATRICES.values())
COUNTS = {
    "lora": ("lora", {"rank": 4}, lora(4)),
    "lora of the default rank": ("lora", {}, lora(16)),
    "lora on some layers": ("lora", {"rank": 4, "target_modules": ["q_proj", "down_proj"]}, lora(4, ["q_proj", "down_proj"])),
    "lora by a regular expression": ("lora", {"rank": 4, "target_modules": r".*layers\.0\.mlp\.up_proj"}, 4 * (D + WIDE)),
    "lora on the embeddings": ("lora", {"rank": 4, "target_modules": ["embed_tokens"]}, 4 * (VOCABULARY + D)),
    "DoRA": ("lora", {"rank": 4, "peft_args": {"use_dora": True}}, lora(4) + ROWS),
    "rsLoRA": ("lora", {"rank": 4, "peft_args": {"use_rslora": True}}, lora(4)),
    "PiSSA": ("lora", {"rank": 4, "peft_args": {"init_lora_weights": "pissa"}}, lora(4)),
    "a whole matrix beside": ("lora", {"rank": 4, "peft_args": {"modules_to_save": ["lm_head"]}}, lora(4) + VOCABULARY * D),
    "qlora": ("qlora", {"rank": 4}, lora(4)),
    "adalora": ("adalora", {"rank": 4}, lora(6) + LAYERS * 6 * len(MATRICES)),
    "adalora of an odd rank": ("adalora", {"rank": 5}, lora(8) + LAYERS * 8 * len(MATRICES)),
    "prefix": ("prefix", {"virtual_tokens": 3}, 3 * LAYERS * 2 * D),
    "prompt": ("prompt", {"virtual_tokens": 3}, 3 * D),
    "p_tuning": ("p_tuning", {"virtual_tokens": 3}, 3 * D + 3 * (D * D + D)),
    "p_tuning of another width": ("p_tuning", {"virtual_tokens": 3, "peft_args": {"encoder_hidden_size": 8}},
                                  3 * D + (D * 8 + 8) + (8 * 8 + 8) + (8 * D + D)),
    "ia3": ("ia3", {}, LAYERS * (D + D + WIDE)),  # keys, values and what goes into the last matrix of the mlp
    "oft": ("oft", {}, BLOCKS * (32 * 31 // 2)),
    "vera": ("vera", {"rank": 8}, ROWS + LAYERS * 8 * len(MATRICES)),
    "vera of the default rank": ("vera", {}, ROWS + LAYERS * 256 * len(MATRICES)),
    "houlsby": ("adapter", {"placement": "houlsby", "reduction_factor": 8}, LAYERS * 2 * (2 * D * 4 + D + 4)),
    "pfeiffer": ("adapter", {}, LAYERS * (2 * D * 2 + D + 2)),
}  # fmt: skip


@pytest.fixture
def spec(configuration):
    """The spec of a run from the base, with a method and keys."""

    def resolved(method: str, objective: str = "sft", **keys) -> dict:
        data = "chats" if "messages" in OBJECTIVES[objective].data else "pairs"
        table = {"from": "base", "objective": objective, "data": data, "method": method} | keys
        return json.loads(Project(configuration({"runs": {"own": table}, "sweeps": {}})).spec("own"))

    return resolved


@pytest.fixture
def adapted(spec, random_tiny_folder, fp32):
    """The random tiny model with a method's new parameters."""

    def make(method: str, objective: str = "sft", **keys):
        resolved = spec(method, objective, **keys)
        model = inputs.load_parent(random_tiny_folder, resolved)
        return get_peft_model(model, peft_methods.peft_config(resolved, model, 100))

    return make


@pytest.mark.parametrize("case", COUNTS)
def test_the_number_of_trained_parameters_is_the_formulas(adapted, case):
    method, keys, count = COUNTS[case]
    assert results.trainable(adapted(method, **keys))[0] == count


@pytest.mark.parametrize("case", ["lora", "qlora", "prefix", "ia3", "oft", "vera", "pfeiffer", "adalora"])
def test_a_reward_model_trains_its_head_as_well(adapted, case):
    method, keys, count = COUNTS[case]
    model = adapted(method, "reward", **keys)
    assert results.trainable(model)[0] == count + D
    assert any("score" in name for name, p in model.named_parameters() if p.requires_grad)


def test_all_parameters_are_counted_where_they_are_packed_in_4_bits(adapted, random_tiny_folder):
    total = sum(p.numel() for p in loading.load(random_tiny_folder).parameters())
    assert results.trainable(adapted("qlora", rank=4)) == (lora(4), total + lora(4))


STARTS = ["lora", "DoRA", "rsLoRA", "PiSSA", "adalora", "ia3", "oft", "vera", "houlsby"]


@torch.no_grad()
@pytest.mark.parametrize("case", STARTS)
def test_training_starts_at_the_parent(adapted, case, random_tiny_folder):
    ids = torch.tensor([[5, 9, 17, 33]])
    method, keys, _ = COUNTS[case]
    model, parent = adapted(method, **keys).eval(), loading.load(random_tiny_folder)
    torch.testing.assert_close(model(input_ids=ids).logits, parent(input_ids=ids).logits, atol=1e-5, rtol=1e-4)
    with model.disable_adapter():
        alone = (model(input_ids=ids).logits - parent(input_ids=ids).logits).abs().max().item()
    assert (alone > 1e-3) == (case == "PiSSA")  # which is why it cannot be where the parent is the reference


def test_prompt_tuning_starts_as_words(adapted, random_tiny_folder):
    words = loading.load(random_tiny_folder).get_input_embeddings().weight
    for row in adapted("prompt", virtual_tokens=5).get_prompt(1)[0]:
        assert (words == row).all(1).any()


def test_adalora_plans_with_the_steps_of_the_whole_training(spec, random_tiny_model):
    config = peft_methods.peft_config(spec("adalora", rank=8), random_tiny_model, 200)
    assert (config.init_r, config.target_r) == (12, 8)
    assert (config.tinit, config.tfinal, config.deltaT, config.total_step) == (20, 66, 2, 200)
    assert peft_methods.peft_config(spec("adalora"), random_tiny_model, 2).deltaT == 1
    with refused("unsupported-setting"):
        peft_methods.peft_config(spec("adalora"), random_tiny_model, 1)


def test_the_scale_is_alpha_over_rank_or_over_its_root(adapted):
    scales = {
        name: adapted("lora", rank=4, alpha=12, **keys)
        .base_model.model.model.layers[0]
        .self_attn.q_proj.scaling["default"]
        for name, keys in {"plain": {}, "rs": {"peft_args": {"use_rslora": True}}}.items()
    }
    assert scales == {"plain": 3.0, "rs": 6.0}


def test_pefts_own_words_have_the_last_word(spec, random_tiny_model):
    config = peft_methods.peft_config(spec("prompt", peft_args={"prompt_tuning_init": "RANDOM"}), random_tiny_model, 10)
    assert (config.peft_type, config.prompt_tuning_init) == (PeftType.PROMPT_TUNING, "RANDOM")


# ---- what is refused

REFUSED = [
    (
        {"rank": 33},
        r"rank 33 is larger than the matrix model\.layers\.0\.self_attn\.q_proj \(32 x 32\) allows; .* up to 32",
    ),
    ({"rank": 33, "target_modules": ["up_proj"]}, r"rank 33 is larger than the matrix .*up_proj \(64 x 32\)"),
    ({"target_modules": ["q_prj"]}, "target_modules: the model has no layer 'q_prj'; did you mean 'q_proj'"),
    (
        {"target_modules": ["q_proj", "query"]},
        "the model has no layer 'query'; valid are embed_tokens, q_proj, k_proj,",
    ),
    ({"target_modules": ["proj"]}, "the model has no layer 'proj'"),  # a part of a name is none
    ({"target_modules": "q_proj"}, r"target_modules: 'q_proj' is one name, .* write \[q_proj\]"),
    ({"target_modules": "*_proj"}, r"target_modules: '\*_proj' is not a regular expression: nothing to repeat"),
    ({"target_modules": r".*\.qproj"}, r"the model has no layer '\.\*\\\.qproj'"),
]


@pytest.mark.parametrize(("keys", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_target_or_rank_that_the_model_does_not_have_is_one_sentence(adapted, method, keys, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        adapted(method, **keys)
    assert "\n" not in str(error.value)


def test_adalora_begins_above_its_rank_and_says_which_one_is_allowed(adapted):
    assert adapted("adalora", rank=21)
    with refused("unsupported-target"):
        adapted("adalora", rank=22)


def test_layers_that_are_no_linear_ones_are_found(spec):
    model = AutoModelForCausalLM.from_config(
        GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16, tie_word_embeddings=False)
    )
    for targets in (["c_attn", "wte"], "all-linear"):
        config = peft_methods.peft_config(spec("lora", rank=4, target_modules=targets), model, 10)
        assert get_peft_model(AutoModelForCausalLM.from_config(model.config), config)
    with refused("unsupported-target"):
        peft_methods.peft_config(spec("lora", rank=9, target_modules="all-linear"), model, 10)


def test_every_objective_has_its_task(spec, random_tiny_model):
    for objective in OBJECTIVES:
        config = peft_methods.peft_config(spec("lora", rank=4) | {"objective": objective}, random_tiny_model, 10)
        scores = objective in ("reward", "classify")
        assert config.task_type == ("SEQ_CLS" if scores else "CAUSAL_LM")
        assert config.modules_to_save == (["score"] if scores else None)
