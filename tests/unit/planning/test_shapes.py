"""A model's shapes from its config.json alone are those of its files, for every family."""

import json
import shutil

import families
import pytest
import zoo
from conftest import refused
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.models import weights
from posttrain.models.shapes import read_model
from posttrain.planning.shapes import config_file, model_of


@pytest.fixture(scope="module", params=[*zoo.MEMBERS, *(f"family-{name}" for name in families.FAMILIES)])
def folder(request, tmp_path_factory):
    """A tiny model of each family, with real files."""
    folder, name = tmp_path_factory.mktemp("models") / request.param, request.param.removeprefix("family-")
    if request.param in zoo.MEMBERS:
        zoo.build(name, folder)
        weights.dequantise(folder, name)
    else:
        AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **families.FAMILIES[name])).save_pretrained(folder)
    return folder


def test_a_configuration_alone_says_what_the_files_hold(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    found, real = model_of(tmp_path), read_model(folder)
    assert found == real
    assert (found.tied, found.parameters, found.matrices) == (real.tied, real.parameters, real.matrices)


def test_weights_in_4_bits_count_as_what_a_base_computes_them_back_to(tmp_path):
    zoo.build("llama3_4bit", tmp_path)
    before = model_of(tmp_path)
    weights.dequantise(tmp_path, "quantised")
    assert before == read_model(tmp_path)


def test_a_large_model_is_described_without_its_weights(tmp_path):
    """Llama-3.1-70B has 70,553,706,496 parameters (its card's safetensors header)."""
    config = {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = model_of(tmp_path / "config.json")
    assert (model.parameters, model.bytes) == (70_553_706_496, 2 * 70_553_706_496)
    assert (model.layers, model.hidden, model.intermediate, model.vocabulary) == (80, 8192, 28672, 128256)
    assert not model.tied


def test_a_configuration_is_found_where_the_hub_keeps_it(tmp_path):
    for revision in ("aaa", "bbb"):
        (tmp_path / "snapshots" / revision).mkdir(parents=True)
        (tmp_path / "snapshots" / revision / "config.json").write_text("{}")
    assert config_file(str(tmp_path)).parent.name == "aaa"
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs/main").write_text("bbb")
    assert config_file(str(tmp_path)).parent.name == "bbb"


@pytest.mark.parametrize(
    "text, code",
    [
        ("{", "unreadable-model"),
        ("[1]", "unreadable-model"),
        ('{"model_type": "nobody_knows"}', "unreadable-model"),
        ('{"model_type": "llama", "hidden_size": "many"}', "unreadable-model"),
        ('{"model_type": "vit"}', "unreadable-model"),
        ('{"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}', "unsafe-model"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000000}', "resource-limit"),
    ],
)
def test_what_describes_no_model_is_one_sentence(text, code, tmp_path, monkeypatch):
    monkeypatch.setattr("posttrain.planning.shapes.SECONDS", 2)
    (tmp_path / "config.json").write_text(text)
    with refused(code) as error:
        model_of(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["./nothing", "/nothing", "a/b/c", "folder"])
def test_a_source_without_a_configuration_is_one_sentence(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "folder").mkdir()
    with refused("missing-file"):
        model_of(source)
