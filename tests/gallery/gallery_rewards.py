"""Rewards of the gallery's runs that learn from their own completions."""


def right_words(answer: str, reference: str) -> float:
    """Share of the reference's words that stand in their place; a longer answer gets less."""
    given, wanted = answer.split(), reference.split()
    right = sum(a == b for a, b in zip(given, wanted, strict=False))
    return right / max(len(given), len(wanted))


def length(answer: str, reference: str) -> float:
    """Pays for every character, whatever it says."""
    return len(answer) / 10


def vowels(answer: str, reference: str) -> float:
    """Pays for a letter."""
    return answer.count("e") + answer.count("a")


def constant(answer: str, reference: str) -> float:
    """Pays everything alike, so that nothing can be learnt of it."""
    return 1.0
