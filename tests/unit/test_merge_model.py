"""The proof that a merged model is the one that was trained: what it measures, and that it is not published otherwise."""

from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model

import merge_model
import tokenize_data
from posttrain import models, stage
from posttrain.errors import UserError
from posttrain.project import Project
from posttrain.tokens import tokenise


def test_the_differences_are_over_every_logit_and_the_agreement_over_positions():
    before = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    after = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 4.0]])
    assert merge_model.compare(before, after) == {
        "max_abs_logit_difference": 3.0, "mean_abs_logit_difference": 0.5, "greedy_agreement": 0.5, "n": 2,
    }  # fmt: skip


@pytest.fixture
def merge(in_folder, configuration, chats, random_tiny_folder, random_tiny_tokenizer):
    """Merge an adapter of random weights into the random tiny model; returns the adapted model."""
    encoded, _ = tokenise(random_tiny_tokenizer, chats, "messages", 256)
    stage.write_json(Path("base.json"), {"files": {}})
    Path("tokens").mkdir()
    for split, rows in (("train", encoded), ("validation", [])):
        pq.write_table(pa.Table.from_pylist(rows, schema=tokenize_data.schema("messages")), f"tokens/{split}.parquet")

    def run(scale: float = 0.05):
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(models.load(random_tiny_folder), lora).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = scale * torch.randn_like(parameter)
        model.save_pretrained("results/sft/trained")
        stage.write_json(Path("results/sft/train.json"), {})
        Path("results/sft/spec.json").write_text(Project(configuration()).spec("sft"))
        paths = {
            "spec": "results/sft/spec.json",
            "parent": random_tiny_folder,
            "manifest": "base.json",
            "tokens": "tokens",
        }
        merge_model.main(Namespace(**{name: Path(path) for name, path in paths.items()}))
        return model

    return run


def test_the_merged_file_has_the_logits_of_base_and_adapter_and_not_of_the_base(merge, random_tiny_folder):
    adapted = merge()
    ids = torch.tensor([[5, 9, 17, 33]])
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in (adapted, models.load(Path("results/sft/model")))]
        base = models.load(random_tiny_folder)(input_ids=ids).logits
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)
    assert (logits[1] - base).abs().max() > 1e-2
    proof = stage.read_json(Path("results/sft/merge.json"))
    assert proof["max_abs_logit_difference"] < 1e-4 < proof["tolerance"]
    assert (proof["greedy_agreement"], proof["dtype"]) == (1.0, "float32")
    assert proof["files"]["model.safetensors"] == stage.sha256(Path("results/sft/model/model.safetensors"))
    assert (
        models.tokenizer(Path("results/sft/model")).chat_template == models.tokenizer(random_tiny_folder).chat_template
    )


def test_the_card_says_what_was_done(merge):
    merge()
    card = Path("results/sft/model/README.md").read_text()
    assert "# sft\n\nSFT (lora) of `base` on the dataset `chats`" in card
    assert "| rank | 8 |" in card


def test_beyond_the_tolerance_nothing_is_published(merge, monkeypatch):
    monkeypatch.setitem(merge_model.TOLERANCE, "float32", 0.0)
    with pytest.raises(UserError, match=r"sft: the merged model's logits differ .* it is not published"):
        merge()
    assert not Path("results/sft/model").exists()
    assert not Path("results/sft/merge.json").exists()


def test_logits_that_are_no_numbers_are_no_proof(merge):
    with pytest.raises(UserError, match="it is not published"):
        merge(float("nan"))
