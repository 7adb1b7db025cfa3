"""The proof that a merged model is the one that was trained: what it measures, and that it is not published otherwise."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import refused
from huggingface_hub import ModelCard
from peft import LoraModel, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

import merge_model
from posttrain.inference import scoring
from posttrain.models import loading, merge_proof, model_files
from posttrain.runtime import atomic, hashes
from posttrain.runtime.errors import UserError
from tokenize_data import schema


def test_the_differences_are_over_every_logit_and_the_agreement_over_positions():
    before = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    after = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 4.0]])
    assert merge_proof.compare(before, after) == {
        "max_abs_logit_difference": 3.0, "mean_abs_logit_difference": 0.5, "greedy_agreement": 0.5, "n": 2,
    }  # fmt: skip


REFERENCE = merge_proof.Reference(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 3.0], [3.0, 2.0]]))
DISTANCES = {  # merged logits -> relative distance
    "the trained model": ([[1.0, 3.0], [3.0, 2.0]], 0.0),
    "nothing merged": ([[1.0, 2.0], [3.0, 4.0]], 1.0),
    "half of the update": ([[1.0, 2.5], [3.0, 3.0]], 0.5),
    "twice the update": ([[1.0, 4.0], [3.0, 0.0]], 1.0),
    "the update and something else": ([[4.0, 3.0], [3.0, 2.0]], 1.0),
    "the same probabilities": ([[6.0, 8.0], [2.0, 1.0]], 0.0),
}


@pytest.mark.parametrize("case", DISTANCES)
def test_a_distance_is_a_share_of_what_training_changed(case):
    after, relative = DISTANCES[case]
    found = REFERENCE.measure(torch.tensor(after))
    assert (found["effect"], found["relative"]) == (0.75, relative)


def test_a_reward_models_scores_count_as_they_are():
    scores = merge_proof.Reference(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]]))
    assert (scores.effect, scores.measure(torch.tensor([[2.0], [5.0]]))["relative"]) == (1.5, pytest.approx(1 / 3))


def test_the_share_of_an_update_that_rounding_leaves(tmp_path):
    base, update = torch.tensor([1.0, 2.0, -1.0, 4.0]), torch.tensor([0.001, 0.25, -0.5, 0.001])
    for name, weight in (("base", base), ("merged", base + update)):
        (tmp_path / name).mkdir()
        save_file({"weight": weight}, tmp_path / name / "model.safetensors")
    left = torch.tensor([0.0, 0.25, -0.5, 0.0])  # half a step of bfloat16 is 2**-8 at 1, and 2**-6 at 4
    expected = (left * update).sum() / update.square().sum()
    assert merge_proof.kept(tmp_path / "base", tmp_path / "merged", torch.bfloat16) == pytest.approx(expected.item())
    assert merge_proof.kept(tmp_path / "base", tmp_path / "base", torch.bfloat16) == 1


def test_a_run_that_learnt_nothing_is_proved_where_only_rounding_differs():
    same = merge_proof.Reference(REFERENCE.parent, REFERENCE.parent)
    merge_proof.check_merged("sft", same.measure(REFERENCE.parent * (1 + 5e-6)))
    with refused("merge-failed"):
        merge_proof.check_merged("sft", same.measure(REFERENCE.parent * (1 + 1e-3)))


# ---- what is merged

MERGED = {
    "full": ("full", {}),
    "lora": ("lora", {"rank": 4}),
    "DoRA": ("lora", {"rank": 4, "peft_args": {"use_dora": True}}),
    "rsLoRA": ("lora", {"rank": 4, "peft_args": {"use_rslora": True}}),
    "PiSSA": ("lora", {"rank": 4, "peft_args": {"init_lora_weights": "pissa"}}),
    "OLoRA": ("lora", {"rank": 4, "peft_args": {"init_lora_weights": "olora"}}),
    "a LM head of its own": ("lora", {"rank": 4, "peft_args": {"modules_to_save": ["lm_head"]}}),
    "adalora": ("adalora", {"rank": 4}),
    "ia3": ("ia3", {}),
    "oft": ("oft", {}),
    "vera": ("vera", {"rank": 8}),
}
KEPT = {
    "adapter": {"reduction_factor": 4, "placement": "houlsby"},
    "prefix": {"virtual_tokens": 3},
    "p_tuning": {"virtual_tokens": 3},
    "prompt": {"virtual_tokens": 3},
}
IDS = torch.tensor([[5, 9, 17, 33]])


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits[0]


def proof(objective: str) -> dict:
    return atomic.read_json(Path(f"results/{objective}/merge.json"))


@pytest.mark.parametrize("case", MERGED)
def test_what_was_trained_is_what_is_merged(merge, case, random_tiny_folder):
    trained = logits(merge("sft", MERGED[case][0], **MERGED[case][1]))
    assert (trained - logits(loading.load(random_tiny_folder))).abs().max() > 1e-2
    for folder in ("merged", "model"):
        merged = loading.load(Path("results/sft", folder))
        assert not hasattr(merged, "peft_config")
        torch.testing.assert_close(logits(merged), trained, atol=1e-4, rtol=1e-4)
    told = proof("sft")
    assert told["max_abs_logit_difference"] < 1e-4 and told["relative"] < 1e-3 < told["effect"]


@pytest.mark.parametrize("method", ["full", "lora", "ia3", "adapter", "prefix"])
def test_a_reward_models_score_is_what_was_trained(merge, method):
    trained = logits(merge("reward", method, **KEPT.get(method, {})))
    merged = loading.load(Path("results/reward/model"))
    torch.testing.assert_close(logits(merged), trained, atol=1e-5, rtol=1e-4)
    assert loading.is_reward(Path("results/reward/model"))
    assert trained.shape == (1,)


# ---- what is kept beside its base


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("method", KEPT)
def test_what_cannot_be_merged_is_loaded_by_the_same_call_and_scores_and_answers_as_it_was_trained(
    merge, method, random_tiny_tokenizer, random_tiny_folder
):
    trained = merge("sft", method, **KEPT[method])
    assert proof("sft")["max_abs_logit_difference"] == 0
    model = loading.load(Path("results/sft/model")).eval()
    n = IDS.shape[1]
    assert torch.equal(logits(model)[-n:], logits(trained)[-n:])
    assert (logits(model)[-n:] - logits(loading.load(random_tiny_folder))).abs().max() > 1e-3
    for parameter in model.parameters():  # so that greedy answers are not all alike
        parameter.data.mul_(3)
    sequences = [scoring.answer([5, 6], [7, 8, 9]), scoring.answer([10], [11]), scoring.answer([5, 6], [7])]
    ours = [total for total, _ in scoring.log_probs(model, sequences, 64)]
    assert ours == pytest.approx([naive(model, *sequence) for sequence in sequences], abs=1e-4)
    prompts = [[20, 21, 22, 23, 24], [30], [40, 41]]
    expected = [greedy(model, random_tiny_tokenizer, prompt, 6) for prompt in prompts]
    assert scoring.generate(model, random_tiny_tokenizer, prompts, 6) == expected
    assert len(set(expected)) > 1


def last_logits(model, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits of each of the ids, virtual tokens left out."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]


def naive(model, ids: tuple[int, ...], labels: tuple[int, ...]) -> float:
    distribution = last_logits(model, ids).double().log_softmax(-1)
    return sum(distribution[i - 1, ids[i]].item() for i in range(1, len(ids)) if labels[i] != -100)


def greedy(model, tokenizer, prompt: list[int], n: int) -> str:
    ids = list(prompt)
    for _ in range(n):
        token = last_logits(model, tuple(ids))[-1].argmax().item()
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)


def test_the_base_of_a_kept_adapter_is_the_parent_file_by_file(merge, random_tiny_folder):
    merge("sft", "prompt", **KEPT["prompt"])
    base = Path("results/sft/model/base")
    assert {file.name for file in base.iterdir()} == {file.name for file in random_tiny_folder.iterdir()}
    assert hashes.folder_hashes(base) == hashes.folder_hashes(random_tiny_folder)
    assert proof("sft")["files"]["base/model.safetensors"] == hashes.sha256(random_tiny_folder / "model.safetensors")


@pytest.fixture
def bf16_folder(random_tiny_folder, tmp_path) -> Path:
    """The random tiny model in bfloat16, with a generation configuration that stops elsewhere than its tokenizer."""
    folder = tmp_path / "bf16"
    shutil.copytree(random_tiny_folder, folder)
    loading.load(random_tiny_folder).to(torch.bfloat16).save_pretrained(folder)
    said = atomic.read_json(folder / "generation_config.json") | {"eos_token_id": [2, 7]}
    atomic.write_json(folder / "generation_config.json", said)
    return folder


@torch.no_grad()
def fp32_logits(folder: Path) -> torch.Tensor:
    return logits(loading.load(folder, torch.float32))


# ---- 4 bits


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("into", ["dequantised", "original"])
def test_an_adapter_on_4_bits_is_merged_into_the_parent_that_was_asked_for_and_the_drift_is_told(
    merge, into, random_tiny_folder
):
    trained = logits(merge("sft", "qlora", merge_into=into))
    told = proof("sft")
    assert told["merged_into"] == into
    assert told["drift"]["dequantised"] < 1e-3 < told["drift"]["original"]
    merged = loading.load(Path("results/sft/model"))
    assert merged.dtype == torch.float32
    assert not hasattr(merged.config, "quantization_config")
    drift = (logits(merged) - trained).abs().max().item()
    assert (drift < 1e-3) == (into == "dequantised")
    parents = {
        "original": loading.load(random_tiny_folder),
        "dequantised": loading.load(random_tiny_folder, quantised="fp32").dequantize(),
    }
    adapted = PeftModel.from_pretrained(parents[into], Path("results/sft/trained"))
    torch.testing.assert_close(logits(adapted), logits(merged), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("fp32")
def test_4_bits_of_a_bf16_base_are_merged_as_they_were_held(merge, bf16_folder):
    trained = logits(merge("sft", "qlora", parent=bf16_folder))
    told = proof("sft")
    assert told["drift"]["dequantised"] < 1e-3 < told["drift"]["original"]
    assert told["relative"] < 1e-3 and told["base_dtype"] == told["shipped"]["dtype"] == "bfloat16"
    torch.testing.assert_close(fp32_logits(Path("results/sft/merged")), trained, atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("fp32")
def test_a_reward_model_of_4_bits_is_merged_with_its_head(merge):
    trained = logits(merge("reward", "qlora"))
    torch.testing.assert_close(logits(loading.load(Path("results/reward/model"))), trained, atol=1e-3, rtol=1e-3)


# ---- what ships, and its type


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_large_update_of_a_bf16_base_ships_in_bf16_and_children_get_it_in_float32(merge, bf16_folder, method):
    merge("sft", method, parent=bf16_folder)
    told = proof("sft")
    assert (told["dtype"], told["base_dtype"], told["shipped"]["dtype"]) == ("float32", "bfloat16", "bfloat16")
    assert told["relative"] < 1e-3 < told["shipped"]["relative"] < 0.2
    assert 0.9 < told["shipped"]["kept"] < 1.1
    assert loading.load(Path("results/sft/model")).dtype == torch.bfloat16
    with_adapter = loading.with_adapter(bf16_folder, Path("results/sft/trained"), dtype=torch.float32)
    torch.testing.assert_close(fp32_logits(Path("results/sft/merged")), logits(with_adapter), atol=1e-5, rtol=1e-4)
    assert not list(Path("results/sft/model").glob("update*"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_update_that_bf16_would_erase_ships_in_float32(merge, bf16_folder, method, monkeypatch):
    said = []
    monkeypatch.setattr(merge_model, "say", lambda text, *_: said.append(text))
    merge("sft", method, parent=bf16_folder, scale=1e-5)
    told = proof("sft")
    assert (told["shipped"]["dtype"], told["shipped"]["relative"]) == ("float32", told["relative"])
    assert told["relative"] < 1e-2 and 0 < told["effect"] < 1e-3
    assert "model/ is in float32, as in bfloat16 the model would be" in said[-1] and "% of the update" in said[-1]
    assert merge_proof.kept(bf16_folder, Path("results/sft/merged"), torch.bfloat16) < 0.6
    assert loading.load(Path("results/sft/model")).dtype == torch.float32


def test_an_update_that_the_type_that_was_asked_for_erases_is_refused(merge, bf16_folder):
    with pytest.raises(UserError, match=r"save_precision: bf16 loses what was learnt: .*; write save_precision: fp32"):
        merge("sft", parent=bf16_folder, scale=1e-5, save_precision="bf16")
    assert not Path("results/sft/merged").exists()


@pytest.mark.parametrize(("asked", "dtype"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_what_ships_has_the_type_that_was_asked_for(merge, random_tiny_folder, asked, dtype):
    merge("sft", save_precision=asked)
    assert proof("sft")["shipped"]["dtype"] == loading.dtype_of(Path("results/sft/model")) == dtype
    assert loading.dtype_of(Path("results/sft/merged")) == "float32"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_ships_stops_where_its_parent_does(merge, bf16_folder, method):
    (bf16_folder / "additional_chat_templates").mkdir()
    (bf16_folder / "additional_chat_templates/tool_use.jinja").write_text("{{ messages }}")
    merge("sft", method, parent=bf16_folder)
    for folder in (Path("results/sft/merged"), Path("results/sft/model")):
        theirs, ours = (atomic.read_json(f / "config.json") for f in (bf16_folder, folder))
        assert [ours.get(key) for key in model_files.SPECIAL] == [theirs.get(key) for key in model_files.SPECIAL]
        for name in ("generation_config.json", "tokenizer_config.json", "additional_chat_templates/tool_use.jinja"):
            assert (folder / name).read_bytes() == (bf16_folder / name).read_bytes()


@pytest.mark.parametrize("scale", [0.1, 1e-5])
def test_an_adapter_kept_apart_ships_with_the_parent_as_it_ships(merge, bf16_folder, scale):
    merge("sft", "prefix", parent=bf16_folder, scale=scale, **KEPT["prefix"])
    told = proof("sft")
    assert (told["dtype"], told["shipped"]["dtype"], told["shipped"]["relative"]) == ("bfloat16", "bfloat16", 0)
    for folder in ("merged", "model"):
        assert hashes.folder_hashes(Path("results/sft", folder, "base")) == hashes.folder_hashes(bf16_folder)


# ---- the folder


@pytest.mark.parametrize("method", ["lora", "full", "prefix"])
def test_no_folder_has_the_time_stamp_of_another(merge, bf16_folder, method):
    (bf16_folder / ".snakemake_timestamp").touch()
    merge("sft", method, parent=bf16_folder)
    assert not [*Path("results/sft").rglob(".snakemake_timestamp")]


def test_the_merged_file_is_the_one_that_is_named_with_the_parents_tokenizer(merge, random_tiny_folder):
    merge("sft")
    assert proof("sft")["files"]["model.safetensors"] == hashes.sha256(Path("results/sft/model/model.safetensors"))
    assert 0 < proof("sft")["max_abs_logit_difference"] < 1e-4
    assert (proof("sft")["greedy_agreement"], proof("sft")["dtype"]) == (1.0, "float32")
    templates = [loading.tokenizer(folder).chat_template for folder in (Path("results/sft/model"), random_tiny_folder)]
    assert templates[0] == templates[1]
    modes = {file.name: file.stat().st_mode & 0o777 for file in Path("results/sft/model").iterdir()}
    assert set(modes.values()) == {0o644}


def test_the_card_says_what_was_done(merge):
    merge("sft", rank=8)
    card = Path("results/sft/model/README.md").read_text()
    assert "# sft\n\nSFT (lora) of `base` on the dataset `chats`" in card
    assert ModelCard.load("results/sft/model/README.md").data.tags == ["posttrain", "sft", "lora"]
    assert "| `rank` | 8 |" in card


def test_children_depend_on_what_was_made_and_not_on_its_card(merge):
    merge("sft")
    names = {file.name for file in Path("results/sft/model").iterdir()}
    assert proof("sft")["files"].keys() == names - {"README.md"}
    recorded = atomic.read_json(Path("results/sft/provenance.json"))
    assert (recorded["model"].keys(), recorded["merged"].keys()) == (names, names - {"README.md"})
    same = [Path("results/sft", folder, "model.safetensors").stat().st_ino for folder in ("merged", "model")]
    assert same[0] == same[1]  # one file with two names


def faulty(do):
    """PEFT's merge with a fault: `do` changes the model before."""
    whole = LoraModel.merge_and_unload

    def merge_and_unload(self, *args, **kwargs):
        do(self)
        return whole(self, *args, **kwargs)

    return merge_and_unload


def scaled(factor: float):
    """Change the scale of every LoRA layer."""

    def change(model) -> None:
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling["default"] *= factor

    return change


@pytest.mark.parametrize("factor", [0.0, 2.0, 0.9])
def test_a_merge_that_does_nothing_or_has_the_wrong_scale_is_not_published(merge, monkeypatch, factor):
    monkeypatch.setattr(LoraModel, "merge_and_unload", faulty(scaled(factor)))
    with refused("merge-failed", "sft"):
        merge("sft")
    assert not Path("results/sft/model").exists() and not Path("results/sft/merged").exists()
    assert not Path("results/sft/merge.json").exists()


def test_logits_that_are_no_numbers_are_no_proof(merge):
    with refused("merge-failed"):
        merge("sft", scale=float("nan"))


# ---- real prompts


@pytest.mark.parametrize("shape", ["messages", "preference", "unpaired_preference"])
@pytest.mark.parametrize("held_out", [0, 9])
def test_the_proof_is_on_the_first_held_out_rows_or_else_on_training_rows(tmp_path, shape, held_out):
    columns = {
        "messages": lambda i: {"input_ids": [i] * 400, "labels": [i] * 400},
        "preference": lambda i: {"prompt_ids": [i] * 399, "chosen_ids": [7], "rejected_ids": [8]},
        "unpaired_preference": lambda i: {"prompt_ids": [i], "completion_ids": [9] * 399, "label": True},
    }[shape]
    for split, first, count in (("validation", 100, held_out), ("train", 0, 9)):
        rows = [{"id": str(i), "length": 400, **columns(first + i)} for i in range(count)]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema(shape)), tmp_path / f"{split}.parquet")
    prompts = merge_proof.real_prompts(tmp_path)
    assert [row[0] for row in prompts] == list(range(100 if held_out else 0, 104 if held_out else 4))
    assert {len(row) for row in prompts} == {256}
