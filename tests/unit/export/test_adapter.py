"""The export `adapter`: whose base it names, that base and adapter are the trained model, and who can serve it."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from posttrain.export import adapter, adapter_servers
from posttrain.export.sources import Sources
from posttrain.methods import combined
from posttrain.models import adapters, combined_lora, loading, merge_proof
from posttrain.runtime.atomic import read_json, write_json
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import folder_hashes

slow = partial(pytest.param, marks=pytest.mark.slow)
PROMPTS = [[5, 9, 17, 33, 60, 7], [301, 12, 12, 250]]
RESULTS = Path("results")


@pytest.fixture
def export(merge, random_tiny_folder):
    """Train a chain of runs at random and export the adapter of the last; returns its folder and its base's."""

    def make(*runs: tuple[str, dict], start: Path = random_tiny_folder) -> tuple[Path, Path]:
        folders, specs = [start], []
        for objective, keys in runs:
            merge(
                objective,
                parent=folders[-1],
                **{key: value for key, value in ({"rank": 4} | keys).items() if value is not ...},
            )
            folders.append(RESULTS / objective / "merged")
            specs.append(read_json(RESULTS / objective / "spec.json"))
        count = combined(specs)
        own, base = folders[-1].parent, folders[-count - 1]
        origin = {"source": "path"} if base == start else {}
        write_json(Path("before.json"), origin | {"files": folder_hashes(base)})
        stages = tuple(folder.parent / "trained" for folder in folders[-count:])
        folder = own / "export/adapter"
        folder.mkdir(parents=True)
        adapter.write(
            Sources(specs[-1], own / "merged", own / "merge.json", own / "trained", base, Path("before.json"), stages),
            folder,
        )
        return folder, base

    return make


def distance(folder: Path, base: Path, merged: Path) -> dict:
    """How far base and adapter are from the trained model, as the proof of a merge measures it."""
    found = adapters.record(folder)
    start = merge_proof.logits(adapters.load_base(base, found), PROMPTS)
    trained = merge_proof.logits(loading.load(merged, torch.float32, arithmetic="fp32").eval(), PROMPTS)
    return merge_proof.Reference(start, trained).measure(merge_proof.logits(adapters.load(base, folder), PROMPTS))


def test_a_chain_of_lora_runs_is_one_adapter_of_the_base(export, random_tiny_folder):
    folder, base = export(("sft", {"alpha": 4, "target_modules": ["q_proj", "down_proj"]}), ("dpo", {"rank": 2}))
    assert base == random_tiny_folder
    found = distance(folder, base, RESULTS / "dpo/merged")
    assert found["relative"] < merge_proof.MERGED
    config, record = LoraConfig.from_pretrained(folder), adapters.record(folder)
    assert (config.r, config.lora_alpha, config.rank_pattern) == (6, 6, {})
    assert (record["stages"], record["base"]["is_run"]) == (["sft", "dpo"], False)
    assert record["base"]["files"] == {"model.safetensors": folder_hashes(base)["model.safetensors"]}
    assert "/" not in config.base_model_name_or_path
    # the same as PEFT's own way to put adapters together
    model = PeftModel.from_pretrained(adapters.load_base(base, record), RESULTS / "sft/trained", "sft")
    model.load_adapter(RESULTS / "dpo/trained", "dpo")
    model.add_weighted_adapter(["sft", "dpo"], [1, 1], "both", combination_type="cat")
    model.set_adapter("both")
    ours = merge_proof.logits(adapters.load(base, folder), PROMPTS)
    torch.testing.assert_close(ours, merge_proof.logits(model.eval(), PROMPTS), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_scalings_of_their_own_become_one_that_every_server_reads(export):
    folder, base = export(("sft", {"peft_args": {"use_rslora": True}}))
    config = LoraConfig.from_pretrained(folder)
    assert (config.r, config.lora_alpha, config.use_rslora) == (4, 4, False)
    assert distance(folder, base, RESULTS / "sft/merged")["relative"] < merge_proof.MERGED
    assert all(verdict["can"] for verdict in adapters.record(folder)["servers"].values())


def test_ranks_and_scalings_of_single_layers_become_one(random_tiny_folder, tmp_path):
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}, "layers_to_transform": [1]}
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj", "embed_tokens"], **patterns, init_lora_weights=False)
    model = get_peft_model(loading.load(random_tiny_folder, torch.float32, arithmetic="fp32"), config)
    model.peft_config["default"].task_type = "CAUSAL_LM"
    model.save_pretrained(tmp_path / "trained")
    (tmp_path / "both").mkdir()
    combined_lora.combine([tmp_path / "trained"] * 2, tmp_path / "both", "base")
    tensors = load_file(tmp_path / "both/adapter_model.safetensors")
    assert {tensor.shape[0] for key, tensor in tensors.items() if "_A" in key} == {8}
    twice = PeftModel.from_pretrained(
        loading.load(random_tiny_folder, torch.float32, arithmetic="fp32"), tmp_path / "both"
    )
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.scaling["default"] *= 2
    wanted = merge_proof.logits(model.eval(), PROMPTS)
    torch.testing.assert_close(merge_proof.logits(twice.eval(), PROMPTS), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bfloat16", "new tokens", "tied new tokens", "gpt2"])
def test_a_chain_on_other_bases(export, random_tiny_folder, tmp_path, kind):
    start = tmp_path / "bases/base/model"
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=384, n_positions=64))
    else:
        model = loading.load(random_tiny_folder, torch.bfloat16 if kind == "bfloat16" else torch.float32)
        model.config.tie_word_embeddings = kind == "tied new tokens"
        model.tie_weights()
    loading.save(model, loading.tokenizer(random_tiny_folder), start)
    if "new" in kind:
        write_json(start / "config.json", read_json(start / "config.json") | {"new_tokens": [9, 33]})
    folder, base = export(("sft", {}), ("dpo", {}), start=start)
    assert base == start
    assert distance(folder, base, RESULTS / "dpo/merged")["relative"] < merge_proof.MERGED
    config = read_json(folder / "adapter_config.json")
    assert (config["r"], bool(config["trainable_token_indices"])) == (8, "new" in kind)
    assert config["fan_in_fan_out"] == (kind == "gpt2")


@pytest.mark.slow
def test_one_plain_adapter_keeps_its_bytes_and_carries_the_template(export):
    folder, _ = export(("sft", {}))
    trained = RESULTS / "sft/trained"
    name = "adapter_model.safetensors"
    assert (folder / name).read_bytes() == (trained / name).read_bytes()
    assert (folder / "chat_template.jinja").read_bytes() == (RESULTS / "sft/merged/chat_template.jinja").read_bytes()
    assert not any("/" in str(value) for value in read_json(folder / "adapter_config.json").values())


@pytest.mark.slow
def test_an_adapter_after_full_training_belongs_to_that_run(export):
    folder, base = export(("sft", {"method": "full", "rank": ...}), ("dpo", {}))
    record = adapters.record(folder)
    assert (base, record["base"]["name"], record["base"]["is_run"]) == (RESULTS / "sft/merged", "sft", True)
    assert distance(folder, base, RESULTS / "dpo/merged")["relative"] < merge_proof.MERGED


@pytest.mark.parametrize(
    ("arguments", "vllm", "llama"),
    [
        ({"use_dora": True}, "it takes no DoRA", "lora_magnitude_vector"),
        slow({"modules_to_save": ["lm_head"]}, "it takes no modules_to_save (lm_head)", "lm_head.weight"),
        slow({"trainable_token_indices": [5, 6]}, "trainable_tokens_delta", "trainable_tokens_delta"),
        slow({"init_lora_weights": "pissa"}, "changes the base's weights", "changes the base's weights"),
    ],
)
def test_what_vllm_and_llama_cpp_do_not_take_is_said_with_the_reason(export, arguments, vllm, llama):
    folder, base = export(("sft", {}), ("dpo", {"peft_args": arguments}))
    assert base == RESULTS / "sft/merged"  # it does more than add a product, so it is not combined
    servers = adapters.record(folder)["servers"]
    assert not servers["vllm"]["can"]
    assert vllm in servers["vllm"]["why"]
    assert not servers["llama.cpp"]["can"]
    assert llama in servers["llama.cpp"]["why"]
    assert f"| vLLM | no | {servers['vllm']['why']} |" in (folder / "README.md").read_text()
    assert distance(folder, base, RESULTS / "dpo/merged")["relative"] < merge_proof.MERGED


def test_a_rank_beyond_vllms_largest_is_refused_and_another_is_rounded_up(tmp_path):
    save_file({"base_model.model.a.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "weights.safetensors")
    config = LoraConfig(task_type="CAUSAL_LM").to_dict() | {"peft_type": "LORA", "bias": "none"}

    def vllm(rank: int) -> dict:
        return adapter_servers.servers(config | {"r": rank}, tmp_path / "weights.safetensors", {"held": None})["vllm"]

    assert vllm(24) == {"can": True, "why": "--enable-lora --max-lora-rank 32"}
    assert vllm(600) == {"can": False, "why": "its largest rank is 512, and this one's is 600"}


@pytest.mark.slow
def test_a_reward_model_of_a_chain_has_its_head(export, random_tiny_folder):
    folder, base = export(("sft", {}), ("reward", {}))
    assert base == random_tiny_folder
    assert read_json(folder / "adapter_config.json")["modules_to_save"] == ["classifier", "score"]
    scores = merge_proof.logits(adapters.load(base, folder), PROMPTS)
    merged = loading.load(RESULTS / "reward/merged", torch.float32, arithmetic="fp32").eval()
    torch.testing.assert_close(scores, merge_proof.logits(merged, PROMPTS), atol=1e-5, rtol=1e-5)
    assert adapters.record(folder)["servers"]["vllm"]["can"]


@pytest.mark.parametrize("merge_into", ["dequantised", slow("original")])
def test_an_adapter_of_4_bits_names_the_base_and_how_it_is_held(export, merge_into):
    folder, base = export(("sft", {"method": "qlora", "merge_into": merge_into}), ("dpo", {}))
    held = adapters.record(folder)["base"]["held"]
    assert (held is None) == (merge_into == "original")
    assert distance(folder, base, RESULTS / "dpo/merged")["relative"] < merge_proof.MERGED
    assert "computed back" in (folder / "README.md").read_text() or held is None


@pytest.mark.slow
def test_a_method_that_cannot_be_merged_is_exported_as_it_is(export):
    folder, _ = export(("sft", {"method": "prefix", "rank": ...}))
    assert (folder / "adapter_model.safetensors").samefile(RESULTS / "sft/trained/adapter_model.safetensors")
    assert not (folder / "base").exists()
    assert adapters.record(folder)["servers"]["vllm"]["why"] == "it takes LoRA only, not PREFIX_TUNING"


def test_another_base_is_refused(export, tmp_path):
    folder, base = export(("sft", {}))
    other = tmp_path / "other"
    shutil.copytree(base, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as error:
        adapters.load(other, folder)
    assert error.value.code == "wrong-base"
    with pytest.raises(UserError) as error:
        adapters.check_base(folder, base, {"model.safetensors": "another"})
    assert error.value.code == "wrong-base"
    with pytest.raises(UserError, match="nothing says which base"):
        adapters.load(base, RESULTS / "sft/trained")


def test_a_chain_that_misses_a_run_is_not_the_trained_model(export, random_tiny_folder):
    folder, base = export(("sft", {}), ("dpo", {}))
    own = folder.parents[1]
    spec, last = json.loads((own / "spec.json").read_text()), (own / "trained",)
    sources = Sources(spec, own / "merged", own / "merge.json", own / "trained", base, Path("before.json"), last)
    Path("again").mkdir()
    with pytest.raises(UserError, match="of what training changed away from the trained model"):
        adapter.write(sources, Path("again"))
