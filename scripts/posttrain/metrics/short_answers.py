"""Short answers about a picture or a page, compared with a reference: accuracy of visual questions, and edit distance."""

import re
import unicodedata

NUMBERS = dict(zip("none zero one two three four five six seven eight nine ten".split(), (0, *range(11)), strict=True))
ARTICLES = {"a", "an", "the"}
THRESHOLD = 0.5  # of ANLS: an answer of which half or more has to be changed is wrong
_GROUPED = re.compile(r"(?<=\d),(?=\d)")
_POINT = re.compile(r"\.(?!\d)")
_SIGNS = re.compile(r"[^\w\s.]|_")


def vqa(output: str, reference: str) -> float:
    """1 where both are the same once they are normalised as the VQA challenge does (Antol et al. 2015), else 0.

    Case, punctuation, articles and the words for 0 to 10 do not count. The challenge's list of contractions is replaced by
    leaving out apostrophes. It has ten answers a question, of which three must agree; here there is one.
    """
    return float(_normalised(output) == _normalised(reference))


def _normalised(text: str) -> list[str]:
    """The words of an answer."""
    text = unicodedata.normalize("NFC", text).lower()
    text = _POINT.sub("", _GROUPED.sub("", re.sub("['\N{RIGHT SINGLE QUOTATION MARK}]", "", text)))
    words = _SIGNS.sub(" ", text).split()
    return [str(NUMBERS.get(word, word)) for word in words if word not in ARTICLES]


def anls(output: str, reference: str) -> float:
    """Normalised Levenshtein similarity, 0 to 1, and 0 below 0.5 (ANLS; Biten et al. 2019, equations 1 and 2).

    Case and the number of blanks do not count.
    """
    from nltk.metrics.distance import edit_distance

    ours, theirs = (" ".join(unicodedata.normalize("NFC", text).lower().split()) for text in (output, reference))
    longest, least = max(len(ours), len(theirs)), abs(len(ours) - len(theirs))  # a difference of lengths is edited
    if ours == theirs:
        return 1.0
    distance = 1.0 if least >= THRESHOLD * longest else edit_distance(ours, theirs) / longest
    return 1 - distance if distance < THRESHOLD else 0.0
