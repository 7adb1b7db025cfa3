"""A tokenizer of transformers as a GGUF file holds it, so that llama.cpp makes the same tokens of a text.

Two kinds are known: byte-level BPE (llama.cpp's `gpt2`), and BPE over characters that was made from a SentencePiece model
(`llama`). How a text is split into words before BPE stands as code in llama.cpp, under a name. The name is found by the tokenizer's
own definition, and never guessed. Source: llama.cpp, src/llama-vocab.cpp, release v0.4.0.
"""

import json
from collections import Counter
from typing import Any

from posttrain.runtime.errors import UserError

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _ENGLISH + _WORDS % "{1,3}"
_GPT4O = _CASES % (_ENGLISH + "?", _ENGLISH + "?", "{1,3}")
# The steps that split a text, and whether a word of the vocabulary is taken without merging -> llama.cpp's name.
SPLITS = {
    ((("bytes", "words"),), False): "gpt-2",
    ((("digits",), ("bytes", "words")), False): "smollm",
    ((("split", _LLAMA3), ("bytes",)), True): "llama-bpe",
    ((("split", _LLAMA3), ("bytes",)), False): "dbrx",
    ((("split", _ENGLISH + _WORDS % ""), ("bytes",)), False): "qwen2",
    ((("split", _CASES % ("", "", "")), ("bytes",)), True): "tekken",
    ((("split", _GPT4O), ("bytes",)), False): "gpt-4o",
}
# Tokens that llama.cpp ends an answer at because of their text.
ENDS = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> <EOT> _<EOT> "
    "[EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> <\uff5cend▁of▁sentence\uff5c> [e~[".split()
)
SPACE = "▁"
DATE = "posttrain.chat_template_date"  # a key of our own: what the template printed as today's date in training
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def write(writer: Any, tokenizer: Any, size: int, stops: list[int], place: str) -> None:
    """Write a tokenizer's tokens, merges or scores, special ids and chat template.

    Args:
        writer: a gguf.GGUFWriter.
        tokenizer: transformers', with a `tokenizers.Tokenizer` in it.
        size: rows of the model's embedding.
        stops: the tokens that end an answer.
        place: what an error opens with.

    Raises:
        UserError: llama.cpp would make other tokens of a text, or cannot hold the tokens.
    """
    known = json.loads(tokenizer.backend_tokenizer.to_str())
    problem = _refusal(known, size)
    if problem:
        raise UserError("unsupported-export", place, f"its tokenizer: {problem}", "export it as bf16")
    characters = not _byte_level(known)
    texts, kinds = _tokens(known, size, characters)
    twice = [text for text, count in Counter(texts).items() if count > 1]
    if twice:
        raise UserError("unsupported-export", place, f"its tokenizer has two tokens with the text {twice[0]!r}", "")
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in known["model"]["merges"]]
    if characters:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(merges, texts))
        writer.add_add_space_prefix(_prefix(known, tokenizer))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(SPLITS[_splits(known), known["model"].get("ignore_merges", False)])
        writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    _special(writer, tokenizer, texts, stops, place)
    if tokenizer.init_kwargs.get("chat_template_date"):
        writer.add_string(DATE, tokenizer.init_kwargs["chat_template_date"])
    if isinstance(tokenizer.chat_template, dict):
        writer.add_chat_template([{"name": key, "template": text} for key, text in tokenizer.chat_template.items()])
    elif tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


# ---- what the tokenizer does


def _parts(step: dict | None, key: str) -> list[dict]:
    """The steps of a pipeline."""
    if step is None:
        return []
    return [part for inner in step[key] for part in _parts(inner, key)] if step["type"] == "Sequence" else [step]


def _splits(known: dict) -> tuple | None:
    """How a byte-level tokenizer splits a text into words; None where a step is none of those that llama.cpp knows."""
    steps = []
    for part in _parts(known["pre_tokenizer"], "pretokenizers"):
        kind = part["type"]
        if kind == "ByteLevel" and not part["add_prefix_space"]:
            steps.append(("bytes", "words") if part.get("use_regex", True) else ("bytes",))
        elif kind == "Digits" and part["individual_digits"]:
            steps.append(("digits",))
        elif kind == "Split" and part["behavior"] == "Isolated" and not part["invert"] and "Regex" in part["pattern"]:
            steps.append(("split", part["pattern"]["Regex"]))
        else:
            return None
    return tuple(steps)


def _byte_level(known: dict) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(known["pre_tokenizer"], "pretokenizers"))


def _refusal(known: dict, size: int) -> str | None:
    """Why llama.cpp would make other tokens; None where it makes the same."""
    model = known["model"]
    if model["type"] != "BPE":
        return f"it is of the kind {model['type']}, and GGUF exports know BPE"
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "it drops merges at random, or marks the parts of words"
    last = max([*model["vocab"].values(), *(token["id"] for token in known["added_tokens"])])
    if last >= size:
        return f"it has a token {last}, and the model's embedding has {size} rows"
    for token in known["added_tokens"]:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            return f"{token['content']!r} takes the space beside it, or stands for whole words, which llama.cpp cannot know"
    if _byte_level(known):
        normalizers = [part["type"] for part in _parts(known["normalizer"], "normalizers")]
        if any(kind != "NFC" for kind in normalizers):
            return f"it changes a text before it splits it ({', '.join(normalizers)})"
        if (_splits(known), model.get("ignore_merges", False)) not in SPLITS:
            return "it splits texts into words in a way that is none of those that llama.cpp has a name for"
        return None
    return _characters_refusal(known)


def _characters_refusal(known: dict) -> str | None:
    """The same for BPE over characters, which has to be SentencePiece's: there a pair's place follows from what it makes."""
    model = known["model"]
    vocabulary = model["vocab"]
    if not model.get("byte_fallback") or any(token not in vocabulary for token in BYTES):
        return "it has no token for each byte"
    if _space_marks(known) is None:
        return "it does not write spaces as SentencePiece does"
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    pairs = set(map(tuple, merges))
    special = {token["content"] for token in known["added_tokens"]} | set(BYTES)
    plain = [text for text in vocabulary if text not in special]
    missing = any(
        (text[:i], text[i:]) not in pairs
        for text in plain
        for i in range(1, len(text))
        if text[:i] in vocabulary and text[i:] in vocabulary
    )
    return "its merges are not those of a SentencePiece model" if missing else None


def _space_marks(known: dict) -> str | None:
    """Where a mark for a space is put before a text: `always` (each part between special tokens), `first`, `never`."""
    found = "never"
    replaced = False
    for part in _parts(known["normalizer"], "normalizers"):
        if part["type"] == "Prepend" and part["prepend"] in (SPACE, " "):
            found = "always"
        elif part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == SPACE:
            replaced = True
        else:
            return None
    for part in _parts(known["pre_tokenizer"], "pretokenizers"):
        if part["type"] == "Metaspace" and part["replacement"] == SPACE and not part.get("split", True):
            found, replaced = part["prepend_scheme"] if found == "never" else found, True
        elif not (part["type"] == "Split" and part["pattern"] == {"String": " "} and replaced):
            return None
    return found if replaced else None


def _prefix(known: dict, tokenizer: Any) -> bool:
    """Whether llama.cpp puts a space before each part of a text.

    It knows no `first`; a prompt from a template begins with a special token, and there `first` is never.
    """
    marks = _space_marks(known)
    return marks == "always" or (marks == "first" and not tokenizer.chat_template)


# ---- what is written


def _tokens(known: dict, size: int, characters: bool) -> tuple[list[str], list[int]]:
    """Each row's text and its kind; rows that belong to no token get a text that no token has."""
    from gguf import TokenType

    texts = {number: text for text, number in known["model"]["vocab"].items()}
    kinds = dict.fromkeys(texts, TokenType.NORMAL)
    if characters:
        bytes_ = {known["model"]["vocab"][text]: text for text in BYTES}
        texts |= bytes_  # Gemma's tab has two names
        kinds |= dict.fromkeys(bytes_, TokenType.BYTE)
        unknown = known["model"].get("unk_token")
        kinds |= {known["model"]["vocab"][unknown]: TokenType.UNKNOWN} if unknown else {}
    for token in known["added_tokens"]:
        number, text = token["id"], token["content"]
        control = token["special"] or _looks_special(text)
        if kinds.get(number) != TokenType.UNKNOWN:
            kinds[number] = TokenType.CONTROL if control else TokenType.USER_DEFINED
        texts[number] = text.replace(SPACE, " ") if characters and not control else text
    free = (f"[PAD{i}]" for i in range(2 * size))
    taken = set(texts.values())
    filled = [texts[i] if i in texts else next(text for text in free if text not in taken) for i in range(size)]
    return filled, [int(kinds.get(i, TokenType.UNUSED)) for i in range(size)]


def _looks_special(text: str) -> bool:
    """Whether llama.cpp's own converter takes a token for a control token though its maker did not say so."""
    marks = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
    return text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        text.startswith(first) and text.endswith(last) for first, last in marks
    )


def _scores(merges: list[list[str]], texts: list[str]) -> list[float]:
    """SentencePiece's scores, of which only the order counts: a token is made the earlier the higher its score is."""
    ranks: dict[str, int] = {}
    for merge in merges:
        ranks.setdefault("".join(merge), len(ranks))
    return [float(-ranks[text]) if text in ranks else -1e6 for text in texts]


def _special(writer: Any, tokenizer: Any, texts: list[str], stops: list[int], place: str) -> None:
    """Write the ids of special tokens, and whether a text begins and ends with one."""
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(ids) > 1 and ids[-1] == tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
    ):
        if number is not None:
            add(number)
    others = [stop for stop in stops if stop != tokenizer.eos_token_id]
    unknown = [stop for stop in others if texts[stop] not in ENDS]
    if len(unknown) > 2:
        names = ", ".join(texts[stop] for stop in unknown)
        raise UserError(
            "unsupported-export",
            place,
            f"{names} end an answer, and llama.cpp has room for two such tokens",
            "export it as bf16",
        )
    ends = unknown + [stop for stop in others if stop not in unknown]
    for add, stop in zip(
        (writer.add_eot_token_id, writer.add_eom_token_id), ends[: max(1, len(unknown))], strict=False
    ):
        add(stop)
