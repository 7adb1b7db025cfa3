"""The table of docs/support-matrix.md of models with images and audio: each cell has its test, or is refused as the page says."""

import re

import pytest
import tiny_vision
import torch
from conftest import REPOSITORY
from transformers import AutoModelForMultimodalLM, AutoProcessor

from posttrain.data import sounds
from posttrain.inference import media, scoring
from posttrain.models import loading
from posttrain.objectives import data_refusal
from unit.models.test_audio_models import made  # noqa: F401  (a fixture)

TESTS = REPOSITORY / "tests/unit"
PICTURES = {  # file, and a test of it
    "sft": ("training/test_media_training.py", "test_killed_and_resumed_it_ends_with_the_same_bits"),
    "dpo": ("training/test_media_preferences.py", "test_the_loss_is_that_of_plain_transformers_on_the_same_pictures"),
    "grpo": ("scripts/test_media_sampling.py", "test_the_loss_is_computed_from_what_the_model_says_of_each_rows_own_picture"),
    "merge": ("training/test_media_training.py", "test_only_the_parts_that_are_named_change_each_at_its_rate_and_the_merge_is_proved"),
    "eval": ("inference/test_media.py", "test_scores_in_batches_are_those_of_each_row_alone"),
    "predict": ("inference/test_media.py", "test_answers_in_a_batch_are_those_of_transformers_on_each_row_alone"),
}  # fmt: skip
SOUNDS = {
    "sft": ("training/test_audio_training.py", "test_killed_and_resumed_it_ends_with_the_same_bits"),
    "merge": ("training/test_audio_training.py", "test_the_merged_model_has_every_tensor_and_the_proof_hears_sounds"),
    "eval": ("training/test_media_table.py", "test_answers_about_sounds_are_those_of_plain_transformers"),
    "predict": ("training/test_media_table.py", "test_answers_about_sounds_are_those_of_plain_transformers"),
}


def test_each_cell_has_a_test_or_its_refusal():
    text = (REPOSITORY / "docs/support-matrix.md").read_text().partition("## Models with images and audio by stages")[2]
    head, _, *lines = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE))
    assert [line[0] for line in lines] == [*tiny_vision.FAMILIES, "qwen2_audio"]
    for family, *cells in lines:
        for stage, cell in zip(head[1:], cells, strict=True):
            if cell == "yes":
                file, test = (PICTURES if family in tiny_vision.FAMILIES else SOUNDS)[stage]
                assert f"def {test}(" in (TESTS / file).read_text(), (family, stage)
            else:
                assert reasons[cell] == data_refusal(stage, "speech", "audio_messages")


def test_answers_about_sounds_are_those_of_plain_transformers(made):  # noqa: F811
    folder, data, rows, _ = made
    model, tokenizer = loading.for_inference(folder, "fp32"), loading.tokenizer(folder)
    own, plain = AutoProcessor.from_pretrained(folder), AutoModelForMultimodalLM.from_pretrained(folder).float().eval()
    asked = [(row["messages"][:1], media.of(row, data)) for row in rows]
    prompts = [media.prompt_tokens(model, tokenizer, turns, None, files) for turns, files in asked]
    files = [some for _, some in asked]
    answers = scoring.generate_batch(model, tokenizer, prompts, 5, files=files)
    sequences = [scoring.answer(prompt, [7, 8], some) for prompt, some in zip(prompts, files, strict=True)]
    scores = [total for total, _ in scoring.log_probs(model, sequences, 4096)]
    for row, prompt, answer, score in zip(rows, prompts, answers, scores, strict=True):
        heard = [sounds.read(data / name, 16_000) for name in row["audios"]]
        content = row["messages"][0]["content"].removeprefix("<audio>")
        turns = [{"role": "user", "content": [{"type": "audio"}] * len(heard) + [{"type": "text", "text": content}]}]
        text = own.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = own(text=[text], **({"audio": heard, "sampling_rate": 16_000} if heard else {}), return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == prompt
        with torch.no_grad():
            said = plain.generate(**inputs, max_new_tokens=5, do_sample=False)[0, len(prompt) :]
            longer = {"input_ids": torch.cat([inputs["input_ids"], torch.tensor([[7, 8]])], 1)}
            longer["attention_mask"] = torch.ones_like(longer["input_ids"])
            logits = plain(**(inputs | longer)).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert answer.text == tokenizer.decode(said, skip_special_tokens=True)
        assert score == pytest.approx((logits[0, 7] + logits[1, 8]).item(), abs=1e-4)
