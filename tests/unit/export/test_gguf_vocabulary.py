"""Tokenizers in GGUF files: llama.cpp makes the same tokens, or the export is refused."""

import contextlib
import unicodedata
from pathlib import Path

import pytest
import tiny_bases
from export_texts import AWKWARD
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from posttrain.export import gguf_file, gguf_vocabulary
from posttrain.export.llama_cpp import LlamaCpp
from posttrain.runtime.errors import UserError

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = AWKWARD * 3 + [Path(__file__).read_text()]
SPACE = gguf_vocabulary.SPACE


def by_steps(steps: tuple, whole_words: bool) -> Tokenizer:
    """A byte-level BPE that splits texts in these steps, as in `gguf_vocabulary.SPLITS`."""
    parts = {
        "split": lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated"),
        "digits": lambda: pre_tokenizers.Digits(individual_digits=True),
        "bytes": lambda words="": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words == "words"),
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    made = [parts[kind](*rest) for kind, *rest in steps]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(made) if len(made) > 1 else made[0]
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def by_characters(marks: str, changes=lambda merges: merges) -> Tokenizer:
    """A BPE over characters as transformers makes it of a SentencePiece model.

    Args:
        marks: where the mark for a space is put: llama-2 (each part), first, or never.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(vocab_size=700, limit_alphabet=90, show_progress=False)
    trained.train_from_iterator(TEXTS, trainer)
    pieces = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
    tokens = ["<unk>", "<s>", "</s>", *gguf_vocabulary.BYTES, *pieces]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for piece in sorted((piece for piece in pieces if len(piece) > 1), key=vocab.get):
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    tokenizer = Tokenizer(models.BPE(vocab, changes(merges), unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", SPACE)
    if marks == "llama-2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace])
    elif marks == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = replace
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def save(folder: Path, tokenizer: Tokenizer, eos: str, template: str | None = None, rows: int = 1000, **named) -> None:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, chat_template=template, **named)
    tiny_bases.save(folder, fast, vocab_size=rows, num_hidden_layers=1, eos_token_id=fast.eos_token_id)


def tokens_agree(folder: Path, texts: list[str] = AWKWARD) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    file = gguf_file.write(folder, folder, "F16")
    texts = [*texts, *tokenizer.get_added_vocab(), "".join(tokenizer.get_added_vocab()).join("a 1")]
    with contextlib.closing(LlamaCpp(file)) as program:
        for text, ids in zip(texts, program.encode(texts), strict=True):
            assert ids == tokenizer(text, add_special_tokens=False)["input_ids"], text


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        gguf_file.write(folder, folder, "F16")
    assert error.value.code == "unsupported-export"
    assert all(word in str(error.value) for word in words), error.value
    assert not list(folder.glob("*.gguf"))


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        pytest.param(steps, name, id=name, marks=() if name == "llama-bpe" else pytest.mark.slow)
        for steps, name in gguf_vocabulary.SPLITS.items()
    ],
)
def test_each_way_to_split_a_text_is_llama_cpps(steps, name, tmp_path, with_llama_cpp):
    save(tmp_path, by_steps(*steps), "<|im_end|>")
    tokens_agree(tmp_path)


@pytest.mark.parametrize("marks", ["llama-2", pytest.param("never", marks=pytest.mark.slow)])
def test_sentencepiece_models_make_the_same_tokens(marks, tmp_path, with_llama_cpp):
    save(tmp_path, by_characters(marks), "</s>", bos_token="<s>", unk_token="<unk>")
    tokens_agree(tmp_path)


@pytest.mark.slow
def test_a_mark_at_the_first_place_only_is_known_in_prompts(tmp_path, with_llama_cpp):
    """llama.cpp knows it in every place or in none; a prompt begins with a special token."""
    save(tmp_path, by_characters("first"), "</s>", tiny_bases.CHATML, bos_token="<s>", unk_token="<unk>")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    file = gguf_file.write(tmp_path, tmp_path, "F16")
    texts = ["<s>" + text for text in AWKWARD]
    with contextlib.closing(LlamaCpp(file)) as program:
        assert program.encode(texts) == tokenizer(texts, add_special_tokens=False)["input_ids"]


@pytest.mark.slow
def test_added_tokens_are_found_as_in_transformers(tmp_path, with_llama_cpp):
    tokenizer = by_steps((("bytes", "words"),), False)
    tokenizer.add_special_tokens(["<|새로|>", "<a b>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("도구", normalized=False)])
    save(tmp_path, tokenizer, "<|im_end|>")
    tokens_agree(tmp_path, ["<think>도구 없음</think> <|새로|>한국<a b>", "x<think> y"])


@pytest.mark.slow
def test_characters_that_are_composed_are_not_in_llama_cpp(tmp_path, with_llama_cpp):
    """A limit of llama.cpp: Qwen's tokenizer composes characters first (NFC), as in Hangul from a Mac's file names."""
    tokenizer = by_steps(*next(steps for steps, name in gguf_vocabulary.SPLITS.items() if name == "qwen2"))
    tokenizer.normalizer = normalizers.NFC()
    save(tmp_path, tokenizer, "<|im_end|>")
    own = AutoTokenizer.from_pretrained(tmp_path)
    text = "오늘 서울 날씨"
    apart = unicodedata.normalize("NFD", text)
    with contextlib.closing(LlamaCpp(gguf_file.write(tmp_path, tmp_path, "F16"))) as program:
        composed, decomposed = program.encode([text, apart])
    assert own([text, apart])["input_ids"] == [composed, composed]
    assert decomposed != composed


# ---- refused


def test_another_way_to_split_is_refused(tmp_path):
    save(tmp_path, by_steps((("split", r"\p{L}+|\s+"), ("bytes",)), False), "<|im_end|>")
    refused(tmp_path, "splits texts into words")


def test_whole_words_where_llama_cpp_merges_are_refused(tmp_path):
    save(tmp_path, by_steps((("bytes", "words"),), True), "<|im_end|>")
    refused(tmp_path, "splits texts into words")


def test_a_text_that_is_changed_first_is_refused(tmp_path):
    tokenizer = by_steps((("bytes", "words"),), False)
    tokenizer.normalizer = normalizers.Lowercase()
    save(tmp_path, tokenizer, "<|im_end|>")
    refused(tmp_path, "changes a text", "Lowercase")


def test_merges_that_are_not_sentencepieces_are_refused(tmp_path):
    save(tmp_path, by_characters("llama-2", lambda merges: merges[::2]), "</s>", unk_token="<unk>")
    refused(tmp_path, "not those of a SentencePiece model")


def test_a_token_that_takes_the_space_beside_it_is_refused(tmp_path):
    tokenizer = by_steps((("bytes", "words"),), False)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    save(tmp_path, tokenizer, "<|im_end|>")
    refused(tmp_path, "<mask>", "the space beside it")


def test_tokens_beyond_the_embedding_are_refused(tmp_path):
    save(tmp_path, by_steps((("bytes", "words"),), False), "<|im_end|>", rows=600)
    refused(tmp_path, "a token 699", "600 rows")


def test_a_unigram_tokenizer_is_refused(tmp_path):
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0)], 0, False))
    save(tmp_path, tokenizer, "</s>", unk_token="<unk>")
    refused(tmp_path, "Unigram")


def test_more_ends_than_llama_cpp_has_room_for_are_refused(tmp_path):
    tokenizer = by_steps((("bytes", "words"),), False)
    ends = ["<end a>", "<end b>", "<end c>"]
    tokenizer.add_special_tokens(ends)
    save(tmp_path, tokenizer, "<|im_end|>")
    generation = '{"eos_token_id": [%s]}'
    numbers = [tokenizer.token_to_id(end) for end in ends]
    (tmp_path / "generation_config.json").write_text(generation % ", ".join(map(str, numbers)))
    refused(tmp_path, "<end a>, <end b>, <end c>", "room for two")
