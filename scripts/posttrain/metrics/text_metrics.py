"""What a generated answer is worth against its reference: one number an example, or what a metric of a corpus sums up.

BLEU (Papineni et al. 2002), chrF (Popović 2015) and error rates (see `error_rates`) are no means over examples. Their examples carry
counts, from which `corpus_bleu` and `corpus_chrf` compute the score of any resample at once; both equal sacrebleu's (Post 2018).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from posttrain.metrics.captions import cider
from posttrain.metrics.error_rates import cer, wer
from posttrain.metrics.final_numbers import answer_format, final_number
from posttrain.metrics.json_answers import is_json, json_equal
from posttrain.metrics.short_answers import anls, vqa
from posttrain.metrics.tool_calls import (
    error_recovery,
    no_call,
    parallel_calls,
    tool_arguments,
    tool_arguments_f1,
    tool_name,
)
from posttrain.metrics.word_hashes import words
from posttrain.runtime import user_code
from posttrain.runtime.errors import nearest

WORD_ORDER = 4  # BLEU's longest n-gram, in tokens
CHARACTER_ORDER = 6  # chrF's, in characters
BETA = 2  # how many times as much recall counts as precision, in chrF
# Names in eval.json and examples.parquet that no function of the user's may have.
TAKEN = frozenset(
    (
        "suite dataset part id group prompt_group prompt reference output log_prob tokens bytes words chosen_log_prob rejected_log_prob "
        "prefers_chosen margin margin_prefers_chosen chosen_score rejected_score scores_chosen format_followed exact_match_lenient "
        "perplexity byte_perplexity word_perplexity preference_accuracy preference_margin preference_margin_accuracy reward "
        "reward_accuracy refusal over_refusal toxicity unequal_treatment stereotype stereotype_margin win_rate passed failed images audios "
        "right_class confusion class_accuracy class_macro_f1 environment_success environment_reward environment_turns environment_errors "
        "environment_recovered"
    ).split()
)


def score(
    names: list[str],
    outputs: list[str],
    references: list[str],
    pattern: str | None,
    prompts: Sequence[list[dict[str, Any]]] = (),
) -> list[dict[str, float | list[float]]]:
    """For each of n outputs its value of each metric in `names`, by name, where the metric has one for it.

    A function of the user's own, `FILE.py:NAME`, is called NAME.

    Args:
        pattern: what `regex` looks for.
        prompts: the turns before each output, which `error_recovery` reads.
    """
    against = {
        "regex": ([pattern] * len(outputs),),
        "error_recovery": (references, prompts or [[]] * len(outputs)),
    }

    def column(name: str) -> Iterable[float | list[float] | None]:
        if name in OF_ALL:
            return OF_ALL[name](outputs, references)
        function = METRICS.get(name) or user_code.load(name, "evaluation.suites, metrics")
        return map(function, outputs, *against.get(name, (references,)))

    columns = {user_code.label(name): column(name) for name in names}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def refusal(names: list[str]) -> str | None:
    """Why these metrics cannot be had together; None where they can."""
    labels: dict[str, str] = {}
    for name in names:
        label = user_code.label(name)
        if not user_code.is_own(name) and name not in NAMES:
            return f"there is no metric '{name}', and your own has the form FILE.py:NAME; {nearest(name, NAMES)}"
        if user_code.is_own(name) and (label in NAMES or label in TAKEN):
            return f"{name}: '{label}' is the name of something else in the results; rename the function"
        if labels.setdefault(label, name) != name:
            return f"{labels[label]} and {name} have one name; rename a function"
    return None


def is_pattern(text: str) -> str | None:
    """Why `text` is no regular expression; None where it is one."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:  # a{9999999999}; thousands of brackets
        return str(error)
    return None


# ---- one example


def bleu(output: str, reference: str) -> list[float]:
    """Tokens of the output and of the reference, matched n-grams of 1 to 4 tokens, and the output's n-grams: 10 counts.

    Tokens are those of sacrebleu's 13a, the tokenizer of WMT's mteval.
    """
    counted = _bleu().sentence_score(output, [reference])
    return [float(count) for count in (counted.sys_len, counted.ref_len, *counted.counts, *counted.totals)]


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)  # it changes a sentence's score, which is not used, and no count


def chrf(output: str, reference: str) -> list[float]:
    """For n-grams of 1 to 6 characters, blanks left out: the output's, the reference's, and how many match: 18 counts."""
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    counts = []
    ngrams = (extract_all_char_ngrams(text, CHARACTER_ORDER) for text in (output, reference))
    for ours, theirs in zip(*ngrams, strict=True):  # as sacrebleu has it, where the reference is too short none counts
        counts += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return [float(count) for count in counts]


class _Words:
    """The tokenizer for rouge-score: its own knows ASCII only, and finds no word in a Korean answer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _scorer(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], use_stemmer=False, tokenizer=_Words())


def _rouge(name: str, output: str, reference: str) -> float:
    return float(_scorer(name).score(reference, output)[name].fmeasure)


def rouge1(output: str, reference: str) -> float:
    """F-measure, 0 to 1, of the words that both have (ROUGE-1; Lin 2004)."""
    return _rouge("rouge1", output, reference)


def rouge2(output: str, reference: str) -> float:
    """F-measure, 0 to 1, of the pairs of neighbouring words that both have (ROUGE-2; Lin 2004)."""
    return _rouge("rouge2", output, reference)


def rouge_l(output: str, reference: str) -> float:
    """F-measure, 0 to 1, of the longest common subsequence of words, over the whole text (ROUGE-L; Lin 2004)."""
    return _rouge("rougeL", output, reference)


def exact_match(output: str, reference: str) -> float:
    """1 where the whole output is the reference, but for blanks and line ends, else 0."""
    return float(output.split() == reference.split())


def regex(output: str, pattern: str) -> float:
    """1 where the pattern is found anywhere in the output, else 0."""
    return float(re.search(pattern, output) is not None)


# Each is a function of an output and its reference (`regex`: and the pattern; `error_recovery`: and the prompt's turns as well).
METRICS: dict[str, Callable[..., float | list[float] | None]] = {
    "bleu": bleu,
    "chrf": chrf,
    "wer": wer,
    "cer": cer,
    "rouge1": rouge1,
    "rouge2": rouge2,
    "rougeL": rouge_l,
    "exact_match": exact_match,
    "final_number": final_number,
    "answer_format": answer_format,
    "regex": regex,
    "json": is_json,
    "json_equal": json_equal,
    "tool_name": tool_name,
    "tool_arguments": tool_arguments,
    "tool_arguments_f1": tool_arguments_f1,
    "vqa": vqa,
    "anls": anls,
    "no_call": no_call,
    "parallel_calls": parallel_calls,
    "error_recovery": error_recovery,
}
# Each gives the values of all outputs, as what one is worth depends on all references.
OF_ALL: dict[str, Callable[[list[str], list[str]], list[float]]] = {"cider": cider}
NAMES = (*METRICS, *OF_ALL)
# Those that have no value for some examples, or need more than a reference: training does not stop by them.
OF_SOME = ("no_call", "parallel_calls", "error_recovery")

# Packages that a metric needs and that are not installed with this one.
NEEDS = {"wer": "jiwer", "cer": "jiwer", "cider": "pycocoevalcap"}


# ---- a corpus


def corpus_bleu(columns: np.ndarray) -> np.ndarray:
    """BLEU, 0 to 100, of the examples whose counts of `bleu` are (10, ..., n): (...).

    The brevity penalty times the geometric mean of the four precisions. Where n-grams of a length are there and none
    matches, the precision is half an n-gram's, then a quarter's, ... (`exp`, of mteval-v13a); where there are none, it is 0.
    """
    output_length, reference_length, *counts = columns.sum(axis=-1)
    matched, found = np.stack(counts[:WORD_ORDER]), np.stack(counts[WORD_ORDER:])
    missed = (matched == 0) & (found > 0)
    smoothed = np.where(missed, 0.5 ** missed.cumsum(axis=0), matched)
    with np.errstate(divide="ignore"):
        log_precision = np.log(smoothed / np.maximum(found, 1)).mean(axis=0)
        log_brevity = np.minimum(0, 1 - reference_length / np.maximum(output_length, 1))
    return np.where(matched.any(axis=0), 100 * np.exp(log_brevity + log_precision), 0.0)


def corpus_chrf(columns: np.ndarray) -> np.ndarray:
    """chrF, 0 to 100, of the examples whose counts of `chrf` are (18, ..., n): (...).

    F of the mean precision and the mean recall over the lengths of n-grams that both sides have.
    """
    counts = columns.sum(axis=-1)
    found, wanted, matched = counts[0::3], counts[1::3], counts[2::3]
    lengths = ((found > 0) & (wanted > 0)).sum(axis=0)
    precision = (matched / np.maximum(found, 1)).sum(axis=0) / np.maximum(lengths, 1)
    recall = (matched / np.maximum(wanted, 1)).sum(axis=0) / np.maximum(lengths, 1)
    weighted = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1)
