"""Texts that tokenizers and templates read differently where they differ at all."""

AWKWARD = [
    "a",
    " two  spaces,   three\tand a tab \n\n\n new lines \n ",
    "오늘 서울 날씨 알려줘! ㅋㅋ",
    "🚀 (normal) 😶\u200d🌫️ 🦙🦙 3 33 333 3333 33333 3.3 3..3",
    "I've 'told HE'S there, we'Ll see; don't ------======= \u201cquoted\u201d 我想在apple工作1314",
    "def f(x):\n\treturn x ** 2  # code\r\n",
    "é e\u0301 ﬁ \u00a0 \u3000 \u200b end",
]
