"""Whether a run fits, from a config.json alone."""

import json
from argparse import Namespace

import families
import pytest
from conftest import refused
from transformers import AutoConfig

from posttrain.cli import plan_fit
from posttrain.methods import METHODS
from posttrain.models.memory_estimate import GIB
from posttrain.objectives import OBJECTIVES
from posttrain.planning.fit import fits, spec_of
from posttrain.planning.shapes import model_of

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The config.json of Llama-3.1-8B."""
    file = tmp_path_factory.mktemp("llama") / "config.json"
    file.write_text(json.dumps(LLAMA_8B))
    return file


@pytest.fixture(scope="module")
def model(file):
    return model_of(file)


def spec(**keys):
    rank = {} if keys.get("method") == "full" else {"rank": 16}
    return spec_of({"method": "qlora", "max_length": 2048} | rank | keys)


def test_8b_with_qlora_fits_into_24_gib_with_recomputed_activations(model):
    found = fits(spec(), model, 24 * GIB)
    assert found.fits is False
    assert found.remedy.settings == {"gradient_checkpointing": True}
    again = fits(spec(**found.remedy.settings), model, 24 * GIB)
    assert again.fits and again.remedy is None
    assert again.need["total"] == pytest.approx(found.remedy.total)
    assert again.smallest_gpu <= 24


@pytest.mark.parametrize("budget", [12, 16, 24, 40])
def test_the_settings_that_are_named_make_it_fit(budget, model):
    found = fits(spec(method="full", batch_size=16), model, budget * GIB)
    assert not found.fits
    settings = {"method": "full", "batch_size": 16, "dropout": 0.0} | found.remedy.settings
    assert fits(spec(**settings), model, budget * GIB).fits


def test_what_no_setting_makes_fit_has_no_remedy(model):
    found = fits(spec(method="full"), model, 4 * GIB)
    assert not found.fits and found.remedy is None
    assert found.smallest_gpu is None or found.smallest_gpu > 100


def test_without_a_gpu_nothing_is_judged(model):
    found = fits(spec(gradient_checkpointing=True), model, None)
    assert found.fits is None and found.remedy is None
    assert found.smallest_gpu == 24


def test_more_of_anything_takes_more(model):
    def total(**keys):
        return fits(spec(**keys), model, None).need["total"]

    assert total(max_length=4096) > total() > total(max_length=1024)
    assert total(batch_size=16) > total()
    assert total(method="full") > total(method="lora") > total()
    assert total(rank=64) > total()
    assert total(objective="dpo") > total()
    assert total(gradient_accumulation_steps=4) < total()


def test_sampling_has_a_cache_of_keys_and_values(model):
    short, long = (fits(spec(objective="grpo", max_length=n, max_new_tokens=256), model, None) for n in (512, 1024))
    both = [found.need["cache"] - 8 * 12 * model.vocabulary for found in (short, long)]
    assert both == [8 * n * 2 * 32 * 8 * 128 * 2 for n in (512, 1024)]  # rows, tokens, layers, heads, width, bytes
    assert "cache" not in fits(spec(), model, None).need


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_has_an_answer(family, tmp_path):
    AutoConfig.for_model(family, **families.FAMILIES[family]).save_pretrained(tmp_path)
    model = model_of(tmp_path)
    for objective, method in (("sft", "lora"), ("sft", "qlora"), ("dpo", "full"), ("ppo", "lora"), ("grpo", "lora")):
        keys = {"target_modules": ["q_proj"]} if method != "full" else {}
        found = fits(spec_of({"objective": objective, "method": method} | keys), model, 2 * GIB)
        assert found.need["activations"] > 0
        assert found.fits or found.remedy


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_an_answer(objective, model):
    need = fits(spec_of({"objective": objective, "method": "lora"}), model, None).need
    assert need["least"] < need["total"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_an_answer(method, model):
    need = fits(spec_of({"method": method}), model, None).need
    assert need["least"] < need["total"]


# ---- the command


def options(file, **keys) -> Namespace:
    given = dict.fromkeys((*plan_fit.KEYS, "gpu_memory"))
    return Namespace(**given | {"targets": [], "set": [], "json": False, "model": str(file)} | keys)


def test_the_command_says_what_takes_how_much_and_what_would_fit(file, capsys):
    plan_fit.run(options(file, method="qlora", rank=16, max_length=2048, gpu_memory=24.0))
    out = capsys.readouterr().out
    assert "llama, 8.03 billion parameters" in out
    assert "sft with qlora, rank 16, rows of 2,048 tokens, 8 at once" in out
    assert "It does not fit into 24 GiB. With `gradient_checkpointing: true` it takes" in out


def test_the_command_answers_programs(file, capsys):
    keys = {"method": "lora", "objective": "grpo", "gpu_memory": 80.0, "json": True}
    plan_fit.run(options(file, **keys, set=["gradient_checkpointing=true"]))
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 8_030_261_248
    assert found["fits"] is True and found["remedy"] is None
    assert set(found["parts"]) == {*plan_fit.PARTS}


@pytest.mark.parametrize(
    "keys, code",
    [
        ({"targets": ["sft"]}, "conflicting-keys"),
        ({"gpu_memory": -1.0}, "invalid-value"),
        ({"set": ["packing"]}, "invalid-override"),
        ({"set": ["rank=[", "x=1"]}, "invalid-override"),
        ({"set": ["nonsense=1"]}, "unknown-key"),
        ({"method": "nothing"}, "invalid-value"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(keys, code, file):
    with refused(code):
        plan_fit.run(options(file, **keys))


def test_a_size_stands_for_published_shapes(in_folder, capsys):
    """Without a network: those that `posttrain recommend` takes."""
    plan_fit.run(options("8B", method="qlora", max_length=2048, gpu_memory=24.0))
    assert "8B, as meta-llama/Llama-3.1-8B-Instruct: llama, 8.03 billion parameters" in capsys.readouterr().out
    for size in ("0B", "9999B"):
        with refused("unknown-name"):
            plan_fit.run(options(size))
