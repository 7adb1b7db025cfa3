"""Words of texts."""

import pytest

from posttrain.metrics.word_hashes import words

WORDS = {
    "It's 3.5 km, isn't it?": ["it", "s", "3", "5", "km", "isn", "t", "it"],
    "snake_case STAYS": ["snake_case", "stays"],
    "Größe — naïve": ["grösse", "naïve"],
    "안녕하세요 세계": ["안녕하세요", "세계"],
    "你好 world": ["你", "好", "world"],
    "¡…! 😀": [],
    "": [],
}


@pytest.mark.parametrize("written", WORDS)
def test_words_have_no_case_and_no_punctuation(written):
    assert words(written) == WORDS[written]


@pytest.mark.parametrize("foreign", ["é", "\u2019", "你", "ü\u2019s", "안녕"])
def test_plain_text_with_a_foreign_word_is_split_as_any_other(foreign):
    text = "Mr. O-Neil paid $3.50 (in cash) for x_1-y_2; " * 9
    assert words(f"{text}{foreign} end") == words(text) + words(foreign) + ["end"]


def test_plain_text_is_split_as_any_other():
    plain = "Mr. O'Neil paid $3.50 (in cash) for x_1-y_2;\ttwice!\n"
    assert words(plain) == words(plain + "é")[:-1]
