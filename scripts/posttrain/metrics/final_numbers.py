"""The number that an answer ends in, as GSM8K marks it (`#### 72`; Cobbe et al. 2021): read strictly, and leniently.

Where a model does not stop, what it writes after its answer may be the next question with a mark of its own. So the first
mark counts, as in GSM8K's own code and in lm-eval's strict match.
"""

import re

# Verbatim from GSM8K's dataset.py (github.com/openai/grade-school-math), as lm-eval's gsm8k task has it.
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")

NUMBER = r"(?:(?<!\d)-)?\$?[\d,]*\.?\d+"  # 10-15 is a range
MARKED = re.compile(rf"####\s*({NUMBER})")
LENIENT = re.compile(rf"####[\s*_`$]*({NUMBER})")  # #### **24**
MINUS = str.maketrans(dict.fromkeys("\N{MINUS SIGN}\N{SMALL HYPHEN-MINUS}\N{FULLWIDTH HYPHEN-MINUS}", "-"))


def strict_number(text: str) -> float | None:
    """The number after the first `#### `, as GSM8K's own code finds it; None where there is none."""
    found = STRICT.search(text)
    try:
        return float(found[1].replace(",", "")) if found else None
    except ValueError:  # such as 1.2.3, or a full stop alone
        return None


def read_number(text: str) -> float | None:
    """The number after the first `####`, or else the last number of the text; None where there is none.

    Blanks, Markdown's bold and `$` may stand before it, and a minus may be Unicode's.
    """
    text = text.translate(MINUS)
    marked = LENIENT.search(text)
    numbers = [marked[1]] if marked else re.findall(NUMBER, text)
    return float(numbers[-1].replace(",", "").replace("$", "")) if numbers else None


def strict_match(answer: str, reference: str) -> float:
    """1 where the answer's number, read strictly, is the reference's, else 0.

    Numbers are compared, where GSM8K's code compares their digits: `72.` and `72.0` are 72.
    """
    number = read_number(reference)
    return float(number is not None and strict_number(answer) == number)


def final_number(answer: str, reference: str) -> float:
    """1 where the answer's number, read leniently, is the reference's, else 0."""
    number = read_number(reference)
    return float(number is not None and read_number(answer) == number)


def answer_format(answer: str, reference: str) -> float:
    """1 where the answer marks its result as GSM8K does, with `#### number`, else 0."""
    return float(MARKED.search(answer) is not None)
