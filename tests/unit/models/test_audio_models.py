"""Models of Qwen2-Audio's kind: what they hear of a row, what is trained, and the names of the published model's parts."""

from argparse import Namespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import tiny_vision
import torch
from conftest import refused

import tokenize_data
from posttrain.data import rows as data_rows
from posttrain.data.media_text import Reader
from posttrain.data.tokens import tokenise
from posttrain.models import lm_head, loading, merge_proof, parts, processors
from posttrain.runtime import atomic
from posttrain.training import media_collator

SECONDS = (0.5, 0.9, 1.4)
WORDS = ("one", "two", "three")


def rows(folder) -> list[dict]:
    """Normalised rows, each about a tone of another length and rate; the last one has no sound."""
    (folder / "media").mkdir(parents=True)
    found = []
    for i, (word, seconds, rate) in enumerate(zip(WORDS, SECONDS, (16_000, 22_050, 8_000), strict=True)):
        soundfile.write(folder / f"media/{i}.wav", np.sin(0.05 * (i + 1) * np.arange(int(seconds * rate))) / 2, rate)
        found.append(row(i, "<audio>What is said?", word, [f"media/{i}.wav"]))
    return [*found, row(3, "Say one.", "one", [])]


def row(i: int, asked: str, said: str, files: list[str]) -> dict:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return {"id": f"row {i}", "place": f"line {i}", "messages": turns, "audios": files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, a dataset's folder with its rows, and their tokens."""
    folder = tmp_path_factory.mktemp("audio")
    model, data = tiny_vision.base(folder / "base", "qwen2_audio"), folder / "data"
    normalised = rows(data)
    for split in ("train", "validation"):
        pq.write_table(
            pa.Table.from_pylist(normalised, schema=data_rows.schema("audio_messages")), data / f"{split}.parquet"
        )
    atomic.write_json(data / "data.json", {"shape": "audio_messages"})
    given = {"assistant_turns": "all", "train_thoughts": "true", "cores": 1, "max_length": 128}
    tokenize_data.main(Namespace(data=data, model=model, output=folder / "tokens", **given))
    return model, data, normalised, folder / "tokens"


def test_a_sound_has_as_many_placeholders_as_the_model_hears_and_none_is_trained(made):
    model, _, normalised, tokens = made
    read = processors.processor(model)
    assert read.columns == ("audios",) and read.rate == 16_000 and read.longest == 4
    encoded = pq.read_table(tokens / "train.parquet").to_pylist()
    (placeholder,) = read.placeholders
    frames = [round(seconds * 16_000) // 320 for seconds in SECONDS]
    heard = [((n - 1) // 2 + 1 - 2) // 2 + 1 for n in frames]
    assert [row["input_ids"].count(placeholder) for row in encoded] == [*heard, 0]
    assert all(placeholder not in row["labels"] for row in encoded)
    for row, wanted in zip(encoded, normalised, strict=True):
        trained = [token for token in row["labels"] if token != -100]
        assert read.tokenizer.decode(trained) == wanted["messages"][1]["content"] + "<|im_end|>"


def test_a_sound_longer_than_the_model_listens_is_dropped_and_never_cut(made):
    model, data, normalised, _ = made
    soundfile.write(data / "media/long.wav", np.sin(0.1 * np.arange(5 * 16_000)), 16_000)
    reader = Reader(processors.processor(model), data)
    long = row(9, "<audio>", "one", ["media/long.wav"])
    kept, counts = tokenise(reader.processor.tokenizer, [*normalised, long], "audio_messages", 400, reader=reader)
    assert [one["id"] for one in kept] == [one["id"] for one in normalised]
    assert (counts["too_long"], counts["dropped"], counts["media_cut"]) == (1, 1, 0)
    with refused("unreadable-sound", str(data / "media/long.wav")):
        reader.opened(long)


def test_a_row_that_is_cut_inside_a_sound_is_dropped(made):
    model, data, normalised, _ = made
    reader = Reader(processors.processor(model), data)
    kept, counts = tokenise(reader.processor.tokenizer, normalised, "audio_messages", 8, reader=reader)
    assert counts["media_cut"] == 3 and not any(one["audios"] for one in kept)


def test_a_model_of_pictures_refuses_rows_with_sounds(made, tmp_path):
    model = tiny_vision.base(tmp_path / "sees", "llava")
    options = Namespace(model=model, data=made[1])
    with refused("wrong-dataset-type", "dataset speech"):
        tokenize_data.check_media(options, "audio_messages", "speech")
    assert tokenize_data.check_media(Namespace(model=made[0]), "audio_messages", "speech")


def batch_of(made, which: list[int]) -> tuple[dict, torch.Tensor]:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model, _, _, tokens = made
    table = pq.read_table(tokens / "train.parquet", columns=["input_ids", "labels", "audios"])
    table = table.rename_columns(["input_ids", "labels", "audios_files"]).to_pylist()
    reader = processors.reader(model, tokens)
    pad = DataCollatorForLanguageModeling(pad_token_id=reader.processor.tokenizer.pad_token_id)
    collator = media_collator.Collator(reader, pad, ("audios",))
    batch = collator([table[i] for i in which])
    return batch, batch.pop("labels")


def test_a_batch_gives_each_row_its_own_logits_and_the_same_bits_each_time(made):
    model = loading.load(made[0], torch.float32).eval()
    batch, _ = batch_of(made, [3, 0, 2])
    again, _ = batch_of(made, [3, 0, 2])
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    with torch.no_grad():
        together = model(**batch).logits
        for k, i in enumerate([3, 0, 2]):
            alone, _ = batch_of(made, [i])
            width = alone["input_ids"].shape[1]
            torch.testing.assert_close(together[k, :width], model(**alone).logits[0], atol=1e-4, rtol=1e-4)


def test_the_loss_hears_the_sounds_and_reaches_every_part(made):
    from trl.trainer.utils import add_fused_lm_head

    model = loading.load(made[0], torch.float32).train()
    batch, labels = batch_of(made, [0, 1, 2])
    trained = labels[:, 1:] != -100
    wanted = model(**batch).logits[:, :-1].log_softmax(-1)[trained].gather(1, labels[:, 1:][trained][:, None])[:, 0]
    add_fused_lm_head(model)
    theirs = model(**batch, labels=labels, fused_lm_head=True).log_probs  # TRL's, as on a GPU
    torch.testing.assert_close(theirs[theirs != 0], wanted, atol=1e-5, rtol=1e-5)
    lm_head.add_compact_head(model)
    found = model(**batch, labels=labels, fused_lm_head=True).log_probs
    torch.testing.assert_close(found[found != 0], wanted, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    reached = {parts.part_of(name) for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"audio", "projector", "language"}


def test_the_merge_proof_hears_the_sounds(made):
    model, _, _, tokens = made
    prompts = merge_proof.real_prompts(tokens, parent=model)
    assert ["input_features" in prompt.media for prompt in prompts] == [True, True, True, False]
    loaded = loading.load(model, torch.float32).eval()
    deaf = [merge_proof.Prompt(p.ids, p.media | {"input_features": 0 * p.media["input_features"]}) for p in prompts[:3]]
    heard = merge_proof.logits(loaded, prompts[:3])
    assert (heard - merge_proof.logits(loaded, deaf)).abs().max() > 1e-3


def test_the_published_model_has_three_parts():
    """Qwen2-Audio-7B's own shapes, without weights."""
    from transformers import AutoModelForMultimodalLM, Qwen2AudioConfig

    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    text = {"model_type": "qwen2", "vocab_size": 156032, "num_key_value_heads": 32, **sizes}
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(Qwen2AudioConfig(text_config=text))
    counted = dict.fromkeys(parts.PARTS, 0)
    for name, parameter in model.named_parameters():
        counted[parts.part_of(name)] += parameter.numel()
    assert counted == {"vision": 0, "audio": 636_968_960, "projector": 5_246_976, "language": 7_754_878_976}
