"""Captions of pictures, compared with a reference by the words that say something of this picture."""

from posttrain.metrics.word_hashes import words
from posttrain.runtime.errors import UserError


def cider(outputs: list[str], references: list[str]) -> list[float]:
    """CIDEr-D, 0 to 10, of each of n captions against its one reference (Vedantam et al. 2015, section 8), by pycocoevalcap.

    The cosine of n-grams of 1 to 4 words, weighted by how few of the n references have them. These weights are those of all
    n captions that are measured: intervals and verdicts take the mean of these values, without new weights for a resample.

    Raises:
        UserError: pycocoevalcap is not installed.
    """
    try:
        from pycocoevalcap.cider.cider_scorer import CiderScorer
    except ImportError:
        raise UserError(
            "missing-package",
            "evaluation.suites",
            "the metric `cider` needs pycocoevalcap",
            "run `pip install pycocoevalcap`",
        ) from None
    said, wanted = ([" ".join(words(text)) for text in texts] for texts in (outputs, references))
    if not any(wanted):  # pycocoevalcap takes the largest of the weights
        return [0.0] * len(outputs)
    scorer = CiderScorer()
    for output, reference in zip(said, wanted, strict=True):
        scorer += (output, [reference])
    _, scores = scorer.compute_score()
    return scores.tolist()
