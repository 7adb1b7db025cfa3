"""Rows with pictures, scored and answered in batches, beside transformers' own processor and model on each row alone."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from tokenizers import ByteLevelBPETokenizer

from posttrain.compat.transformers_internals import raw_tokenizer
from posttrain.data.pictures import open_picture
from posttrain.evaluation import generation_cache
from posttrain.inference import media, scoring
from posttrain.models import random_models
from posttrain.models.processors import Processor

pytestmark = pytest.mark.usefixtures("fp32")
SPEC = {"hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 320, "seed": 0}
QUESTIONS = ("<image>what is it?", "which colour has this long, long question's shape?<image>", "<image>a or b?<image>")


@pytest.fixture(scope="module", params=["idefics3", "llava"])
def model(request):
    """A tiny model with its processor."""
    bpe = ByteLevelBPETokenizer()
    special = [*random_models.SPECIAL, *random_models.FAMILIES[request.param].tokens]
    bpe.train_from_iterator(QUESTIONS, vocab_size=320, special_tokens=special, show_progress=False)
    made, processor = random_models.make(SPEC | {"family": request.param}, raw_tokenizer(bpe))
    made.processor, made.arithmetic = Processor(processor), "fp32"
    return made.eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four files of different sizes and modes."""
    folder, found = tmp_path_factory.mktemp("media"), []
    for i, (mode, size) in enumerate((("RGB", (48, 48)), ("L", (80, 30)), ("RGBA", (20, 60)), ("RGB", (300, 200)))):
        image = Image.new(mode, size, 40 * i)
        ImageDraw.Draw(image).ellipse((5, 5, 20, 20 + i), fill=255)
        image.save(folder / f"{i}.png")
        found.append(("images", str(folder / f"{i}.png")))
    return found


@pytest.fixture
def asked(pictures):
    """Questions with their files, and two about no picture; the same words are asked about two pictures."""
    zero, one, two, three = pictures
    files = [(zero,), (one,), (two, three), (three,)]
    texts = [*QUESTIONS, QUESTIONS[0]]
    return [*zip(texts, files, strict=True), ("why?", ()), ("why is that so and not so?", ())]


def encoded(model, asked) -> list[list[int]]:
    tokenizer = model.processor.tokenizer
    return [
        media.prompt_tokens(model, tokenizer, [{"role": "user", "content": text}], None, files) for text, files in asked
    ]


def by_transformers(model, text, files) -> dict:
    """The inputs of transformers' own processor for one prompt."""
    own = model.processor.own
    parts, rest = [], text.split("<image>")
    for k, piece in enumerate(rest):
        parts += [{"type": "text", "text": piece}] * bool(piece) + [{"type": "image"}] * (k < len(rest) - 1)
    rendered = own.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    images = [open_picture(Path(path)) for _, path in files]
    return dict(own(text=[rendered], images=[images] if images else None, return_tensors="pt"))


def test_a_prompt_has_the_tokens_of_transformers_own_processor(model, asked):
    ours = encoded(model, asked)
    assert ours == [by_transformers(model, *one)["input_ids"][0].tolist() for one in asked]
    assert sum(ours[2].count(token) for token in model.processor.placeholders) > 10


def test_answers_in_a_batch_are_those_of_transformers_on_each_row_alone(model, asked):
    tokenizer = model.processor.tokenizer
    prompts, files = encoded(model, asked), [about for _, about in asked]
    given = scoring.generate_batch(model, tokenizer, prompts, 6, files=files)
    for one, answer in zip(asked, given, strict=True):
        alone = by_transformers(model, *one)
        ids = model.generate(**alone, do_sample=False, max_new_tokens=6, pad_token_id=tokenizer.pad_token_id)[0]
        ids = ids[alone["input_ids"].shape[1] :].tolist()
        assert answer.ids == ids[: len(answer.ids)] and (answer.ended or len(answer.ids) == 6)
    assert given[0].ids != given[3].ids  # the same words about another picture


def test_scores_in_batches_are_those_of_each_row_alone(model, asked):
    prompts = encoded(model, asked)
    sequences = [
        scoring.answer(ids, [70 + i, 80, 90], files)
        for i, (ids, (_, files)) in enumerate(zip(prompts, asked, strict=True))
    ]
    for batch_tokens in (1, 4096):
        found = scoring.log_probs(model, [*sequences, sequences[0]], batch_tokens)
        for (text, files), (ids, labels, *_), (total, count) in zip(asked, sequences, found, strict=False):
            alone = by_transformers(model, text, files) | {"input_ids": torch.tensor([ids])}
            alone["attention_mask"] = torch.ones_like(alone["input_ids"])
            with torch.no_grad():
                likely = model(**alone).logits[0].double().log_softmax(-1)
            wanted = sum(likely[i - 1, ids[i]].item() for i in range(len(ids)) if labels[i] != -100)
            assert (total, count) == (pytest.approx(wanted, abs=1e-4), 3)
        assert found[0] == found[-1] and abs(found[0][0] - found[3][0]) > 1e-3


def test_text_is_scored_and_answered_beside_pictures_as_without_them(model, asked):
    prompts, files = encoded(model, asked), [about for _, about in asked]
    sequences = [scoring.answer(ids, [70, 80], about) for ids, about in zip(prompts, files, strict=True)]
    tokenizer = model.processor.tokenizer
    assert scoring.scores(model, sequences, 4096)[4:] == scoring.scores(model, sequences[4:], 4096)
    together = scoring.generate_batch(model, tokenizer, prompts, 5, files=files)
    assert together[4:] == scoring.generate_batch(model, tokenizer, prompts[4:], 5)


def test_a_remembered_answer_belongs_to_the_content_of_its_picture(model, asked, tmp_path):
    tokenizer, file = model.processor.tokenizer, tmp_path / "answers.jsonl"
    prompts, files = encoded(model, asked), [about for _, about in asked]
    first = generation_cache.answers(model, tokenizer, prompts, 5, (), file, "key", files=files)
    assert first == scoring.generate_batch(model, tokenizer, prompts, 5, files=files)
    moved = [tuple((column, f"/elsewhere/{path.rpartition('/')[2]}") for column, path in about) for about in files]
    assert generation_cache.answers(None, None, prompts, 5, (), file, "key", files=moved) == first
    assert generation_cache.name_of([1, 2], ["key"]) == generation_cache.name_of([1, 2], ["key"], ())
    assert generation_cache.name_of(prompts[0], [], files[0]) != generation_cache.name_of(prompts[0], [], files[3])
