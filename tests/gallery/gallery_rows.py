"""The rows of the gallery's datasets: small tasks whose answers follow a rule, which a tiny model learns in seconds.

`words` translates three words, one by one; `swaps` replaces each of two words by its opposite. Held-out rows are other
combinations of the same words, so that a model that has learnt the rule knows their answers.
"""

import itertools
import json
import random
from pathlib import Path

ADJECTIVES = dict(
    zip(
        "red blue green black white small large old".split(),
        "rouge bleu vert noir blanc petit grand vieux".split(),
        strict=True,
    )
)
NOUNS = dict(
    zip(
        "cat dog bird horse fish mouse cow fox".split(),
        "chat chien oiseau cheval poisson souris vache renard".split(),
        strict=True,
    )
)
VERBS = dict(
    zip(
        "sleeps runs eats sings jumps swims waits hides".split(),
        "dort court mange chante saute nage attend cache".split(),
        strict=True,
    )
)
SLOTS = (ADJECTIVES, NOUNS, VERBS)
OPPOSITES = dict(
    pair.split()
    for pair in (
        "hot cold,dry wet,fast slow,hard soft,rich poor,near far,open shut,loud calm,high low,new aged".split(",")
    )
)
FRENCH = [word for slot in SLOTS for word in slot.values()]


def words() -> list[tuple[str, str]]:
    """All 512 sentences of three words with their translations, shuffled."""
    rows = [
        (" ".join(key for key, _ in row), " ".join(value for _, value in row))
        for row in itertools.product(*(slot.items() for slot in SLOTS))
    ]
    random.Random(0).shuffle(rows)
    return rows


def swaps() -> list[tuple[str, str]]:
    """All pairs of two words, and of their opposites, shuffled."""
    both = OPPOSITES | {value: key for key, value in OPPOSITES.items()}
    rows = [(f"swap {a} {b}", f"{both[a]} {both[b]}") for a, b in itertools.permutations(both, 2)]
    random.Random(1).shuffle(rows)
    return rows


def wrong(answer: str, rng: random.Random) -> str:
    """The answer with one word replaced by another of the same slot."""
    given = answer.split()
    place = rng.randrange(3)
    given[place] = rng.choice([word for word in SLOTS[place].values() if word != given[place]])
    return " ".join(given)


def demonstrations(rows: list[tuple[str, str]]) -> list[dict]:
    return [{"prompt": prompt, "completion": answer} for prompt, answer in rows]


def pairs(rows: list[tuple[str, str]], seed: int = 2) -> list[dict]:
    rng = random.Random(seed)
    return [{"prompt": prompt, "chosen": answer, "rejected": wrong(answer, rng)} for prompt, answer in rows]


def longer_is_better(rows: list[tuple[str, str]], seed: int = 3) -> list[dict]:
    """Pairs whose chosen answer is the longer one, whatever it says."""
    rng, found = random.Random(seed), []
    for prompt, _ in rows:
        short, long = rng.randint(1, 4), rng.randint(6, 12)
        found.append(
            {
                "prompt": prompt,
                "chosen": " ".join(rng.choices(FRENCH, k=long)),
                "rejected": " ".join(rng.choices(FRENCH, k=short)),
            }
        )
    return found


def random_answers(rows: list[tuple[str, str]], seed: int = 4) -> list[tuple[str, str]]:
    """The prompts with answers that have nothing to do with them."""
    rng = random.Random(seed)
    return [(prompt, " ".join(rng.choice(list(slot.values())) for slot in SLOTS)) for prompt, _ in rows]


def random_choices(rows: list[tuple[str, str]], seed: int = 5) -> list[dict]:
    """Pairs in which chance decides which answer is the chosen one."""
    rng, found = random.Random(seed), []
    for row in pairs(rows, seed):
        better, worse = rng.sample([row["chosen"], row["rejected"]], 2)
        found.append({"prompt": row["prompt"], "chosen": better, "rejected": worse})
    return found


def with_outliers(rows: list[tuple[str, str]], every: int = 25, seed: int = 6) -> list[tuple[str, str]]:
    """Every so many-th answer is a long line of random characters."""
    rng, letters = random.Random(seed), "abcdefghijklmnopqrstuvwxyz0123456789"
    return [
        (prompt, answer if i % every else "".join(rng.choices(letters, k=80)))
        for i, (prompt, answer) in enumerate(rows)
    ]


def with_thoughts(rows: list[tuple[str, str]]) -> list[dict]:
    return [
        {
            "messages": [
                {"role": "user", "content": prompt},
                {
                    "role": "assistant",
                    "content": answer,
                    "reasoning_content": f"{prompt.split()[0]} is {answer.split()[0]}",
                },
            ]
        }
        for prompt, answer in rows
    ]


def datasets() -> dict[str, list[dict]]:
    """The rows of every file, by its name."""
    told, swapped = words(), swaps()
    train, held_out, paired, paired_held_out, unseen = (
        told[:240],
        told[240:300],
        told[300:420],
        told[420:480],
        told[480:],
    )
    everything = [f"{prompt} {answer}" for prompt, answer in told[:300] + swapped[:200]]
    long = [
        (" ".join(a for a, _ in told[i : i + 24]), " ".join(b for _, b in told[i : i + 24])) for i in range(0, 240, 3)
    ]
    return {
        "everything": [{"text": text} for text in everything],
        "words": demonstrations(train),
        "words_test": demonstrations(held_out),
        "noise_few": demonstrations(random_answers(unseen[:24])),
        "noise_test": demonstrations(random_answers(held_out[:40], seed=8)),
        "words_three": demonstrations(unseen[16:19]),
        "words_again": demonstrations(paired),
        "words_half": demonstrations(train[:120]),
        "swaps": demonstrations(swapped[:240]),
        "swaps_test": demonstrations(swapped[240:300]),
        "swaps_few": demonstrations(swapped[300:312]),
        "pairs": pairs(paired),
        "pairs_test": pairs(paired_held_out),
        "choices_few": random_choices(unseen[:12], seed=21),
        "choices_test": random_choices(paired_held_out[:40], seed=22),
        "pairs_four": pairs(unseen[12:16]),
        "pairs_long": longer_is_better(paired + train[:60]),
        "pairs_long_test": longer_is_better(paired_held_out, seed=13),
        "pairs_chance": random_choices(paired),
        "pairs_chance_test": random_choices(paired_held_out, seed=15),
        "chance": demonstrations(random_answers(train)),
        "constant": [{"prompt": prompt, "completion": "oui"} for prompt, _ in train],
        "leaked": demonstrations(train[:180] + held_out),
        "leaked_part": demonstrations(train[:200] + held_out[:24]),
        "outliers": demonstrations(with_outliers(train)),
        "thoughts": with_thoughts(train),
        "thoughts_test": with_thoughts(held_out),
        "long": demonstrations(long),
        "texts": [{"text": text} for text in everything[:240]],
        "texts_test": [{"text": f"{prompt} {answer}"} for prompt, answer in told[300:340]],
    }


def write(folder: Path) -> None:
    """Write a .jsonl file for each dataset; one that is there already keeps its date, so that nothing is built again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in datasets().items():
        file, text = folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
