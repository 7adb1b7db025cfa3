"""Vision-language models: what their processors make of rows, what is trained, and what a merge keeps."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import tiny_vision
import torch
from conftest import refused
from safetensors.torch import load_file, save_file

from posttrain.data.media_text import Reader
from posttrain.data.tokens import tokenise
from posttrain.models import lm_head, loading, merge_proof, parts, processors, shapes
from posttrain.training import media_collator


@pytest.fixture(scope="module", params=tiny_vision.FAMILIES)
def made(request, tmp_path_factory):
    """A base of a family, a dataset's folder with its rows, and their tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    model, data = tiny_vision.base(folder / "base", request.param), folder / "data"
    rows = tiny_vision.rows(data)
    report = tiny_vision.tokens(folder / "tokens", model, data, rows)
    return model, data, rows, folder / "tokens", report


def test_a_base_has_its_processor_and_one_template(made):
    from transformers import AutoProcessor

    model, *_ = made
    own = AutoProcessor.from_pretrained(model)
    names = {file.name for file in model.iterdir()}
    assert "processor_config.json" in names and "chat_template.jinja" in names
    assert own.chat_template == own.tokenizer.chat_template == (model / "chat_template.jinja").read_text()
    assert own.tokenizer.eos_token == "<|im_end|>"
    assert len(own.tokenizer) <= 320


def test_the_tokens_are_those_of_the_processor_itself(made):
    from transformers import AutoProcessor

    model, data, rows, tokens, report = made
    own = AutoProcessor.from_pretrained(model)
    encoded = pq.read_table(tokens / "train.parquet").to_pylist()
    assert len(encoded) == len(rows) and report["train"]["media_cut"] == 0
    for row, found in zip(rows, encoded, strict=True):
        content = [{"type": "image"}] * len(row["images"]) + [{"type": "text", "text": "How many red circles?"}]
        text = own.apply_chat_template([{"role": "user", "content": content}, row["messages"][1]])
        pictures = Reader(processors.Processor(own), data).opened(row).get("images")
        wanted = own(text=[text], images=[pictures] if pictures else None, add_special_tokens=False)["input_ids"][0]
        assert found["input_ids"] == list(wanted) and found["images"] == row["images"]
        trained = [token for token in found["labels"] if token != -100]
        assert own.tokenizer.decode(trained) == row["messages"][1]["content"] + "<|im_end|>"


def test_a_placeholder_is_never_trained_not_even_in_an_answer(made):
    model, data, rows, *_ = made
    reader = Reader(processors.processor(model), data)
    answer = {"role": "assistant", "content": "one <image>"}
    row = rows[0] | {"messages": [rows[0]["messages"][0], answer], "images": rows[0]["images"] * 2}
    (found,), _ = tokenise(reader.processor.tokenizer, [row], "image_messages", 400, reader=reader)
    placeholders = reader.processor.placeholders
    assert placeholders and sum(token in placeholders for token in found["input_ids"]) % 2 == 0
    assert placeholders.isdisjoint(found["labels"])


def test_a_row_that_is_cut_inside_a_picture_is_dropped_and_counted(made):
    model, data, rows, *_ = made
    reader = Reader(processors.processor(model), data)
    kept, counts = tokenise(reader.processor.tokenizer, rows, "image_messages", 12, reader=reader)
    assert counts["media_cut"] == 5 and all(not row["images"] for row in kept)


def test_text_that_has_a_placeholder_of_its_own_is_refused(made):
    model, data, rows, *_ = made
    reader = Reader(processors.processor(model), data)
    with refused("invalid-row", ""):
        reader.expanded("<image> and <image>", (), rows[0])


def batch_of(made, rows: list[int]) -> tuple[dict, torch.Tensor]:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model, _, _, tokens, _ = made
    table = pq.read_table(tokens / "train.parquet").to_pylist()
    reader = processors.reader(model, tokens)
    pad = DataCollatorForLanguageModeling(pad_token_id=reader.processor.tokenizer.pad_token_id)
    collator = media_collator.Collator(reader, pad, ("images",))
    batch = collator([table[i] | {"images_files": table[i]["images"]} for i in rows])
    return batch, batch.pop("labels")


def test_a_batch_of_rows_with_and_without_pictures_gives_each_its_own_logits(made):
    model = loading.load(made[0], torch.float32).eval()
    for order in ([5, 0, 1], [0, 5], [5]):
        batch, _ = batch_of(made, order)
        with torch.no_grad():
            together = model(**batch).logits
            for k, i in enumerate(order):
                alone, _ = batch_of(made, [i])
                width = alone["input_ids"].shape[1]
                torch.testing.assert_close(together[k, :width], model(**alone).logits[0], atol=1e-4, rtol=1e-4)


def test_the_compact_head_sees_the_pictures(made):
    """Rows with one text and different pictures share no beginning, though their tokens are the same."""
    from trl.trainer.utils import add_fused_lm_head

    model = loading.load(made[0], torch.float32).train()
    batch, labels = batch_of(made, [0, 1, 3, 4])
    trained = labels[:, 1:] != -100
    wanted = model(**batch).logits[:, :-1].log_softmax(-1)[trained].gather(1, labels[:, 1:][trained][:, None])[:, 0]
    add_fused_lm_head(model)
    lm_head.add_compact_head(model)
    found = model(**batch, labels=labels, fused_lm_head=True).log_probs
    torch.testing.assert_close(found[found != 0], wanted, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    reached = {parts.part_of(name) for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"vision", "projector", "language"}


def test_a_merged_model_without_a_tensor_of_its_parent_is_refused(made, tmp_path):
    model, *_ = made
    merged = shutil.copytree(model, tmp_path / "merged")
    merge_proof.check_tensors("run", model, merged)
    tensors = load_file(merged / "model.safetensors")
    lost = next(name for name in sorted(tensors) if parts.part_of(name) == "vision")
    del tensors[lost]
    save_file(tensors, merged / "model.safetensors")
    with pytest.raises(Exception, match=f"lacks 1 of {len(shapes.read_model(model).shapes)} tensors.*{lost}"):
        merge_proof.check_tensors("run", model, merged)


def test_the_proofs_prompts_are_whole_and_have_their_pictures(made):
    model, _, _, tokens, _ = made
    prompts = merge_proof.real_prompts(tokens, parent=model)
    assert all("pixel_values" in prompt.media for prompt in prompts)
    loaded = loading.load(model, torch.float32).eval()
    blind = [merge_proof.Prompt(p.ids, p.media | {"pixel_values": p.media["pixel_values"].flip(-1)}) for p in prompts]
    seen = merge_proof.logits(loaded, prompts)
    assert len(seen) == sum(len(prompt.ids) for prompt in prompts)
    assert (seen - merge_proof.logits(loaded, blind)).abs().max() > 1e-3


def test_a_text_model_has_no_processor(random_tiny_folder):
    assert processors.processor(random_tiny_folder) is None and not processors.has_processor(random_tiny_folder)


def test_a_processor_that_needs_torchvision_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "vision_config": {}}))
    kinds = {"processor_class": "Qwen2_5_VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kinds))
    monkeypatch.setattr(processors.importlib.util, "find_spec", lambda name: None)
    with refused("missing-package", str(tmp_path)):
        processors.processor(tmp_path)


def test_the_preflight_writes_a_picture_s_placeholders_in_words(made):
    from posttrain.preflight import media_marks, token_scan

    model, _, rows, tokens, _ = made
    reader = processors.reader(model, tokens)
    held = {row["id"]: row for row in token_scan.sample(tokens / "train.parquet", 99)}
    for row in rows:
        text = token_scan.marked(
            reader.processor.tokenizer, held[row["id"]], media_marks.in_words(reader, held[row["id"]])
        )
        assert text.count("[image 60x40 → ") == len(row["images"])
        assert not any(reader.processor._token(kind) in text for kind in reader.processor.kinds)
