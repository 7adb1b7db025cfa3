"""Write a small dataset of spoken words in English and Korean, spoken by espeak-ng; the test rows are spoken by voices of their own.

    python examples/data/make_speech.py my_data/speech

Writes OUTPUT/train.jsonl, OUTPUT/test.jsonl and OUTPUT/sounds/*.wav (16-bit PCM, 22,050 Hz, one channel). A row asks for what is said
in one file: one word, or up to as many as `--words` says. Voice, speed, pitch and words are drawn from the seed, and the words of every
language equally often, so that the same seed makes the same rows. Needs espeak-ng (Debian: apt-get install espeak-ng; macOS: brew
install espeak-ng).
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WORDS = {
    "en-us": "zero one two three four five six seven eight nine".split(),
    "ko": "영 하나 둘 셋 넷 다섯 여섯 일곱 여덟 아홉".split(),
}
QUESTION = "<audio>Write down what is said."
# espeak-ng's variants change the formants, the breath and the pitch of a voice: each sounds like another person.
SEEN = (
    "m1 m2 m3 m4 m5 m7 m8 f1 f2 f4 f5 adam Alex Alicia Andrea antonio aunty belinda benjamin boris caleb david Denis Diogo ed "
    "edward Gene grandma grandpa gustave Henrique Hugo iven Jacky john klatt klatt2 Lee marcelo Marco max michel miguel Mike "
    "pablo pedro quincy rob sandro shelby steph travis victor zac"
).split()
UNSEEN = "m6 f3 Annie Andy edward2 Linda Mario Michael paul robert steph2 norbert anika klatt4".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--train", type=int, default=2000, help="training rows")
    parser.add_argument("--test", type=int, default=400, help="test rows, spoken by other voices")
    parser.add_argument("--words", type=int, default=1, help="words of a row at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        sys.exit(
            "make_speech.py: there is no espeak-ng; install it (Debian: apt-get install espeak-ng; macOS: brew install espeak-ng)"
        )
    (options.output / "sounds").mkdir(parents=True, exist_ok=True)
    for split, count, voices in (("train", options.train, SEEN), ("test", options.test, UNSEEN)):
        rng = random.Random(f"{options.seed} {split}")
        rows = [row(rng, f"{split}-{i:05d}", i, voices, options.words) for i in range(count)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda one: say(options.output, *one), rows))
        text = "".join(json.dumps(example(name, words), ensure_ascii=False) + "\n" for name, words, *_ in rows)
        (options.output / f"{split}.jsonl").write_text(text, encoding="utf-8")
        print(f"{options.output / split}.jsonl: {count} rows by {len(voices)} voices")


def row(rng: random.Random, name: str, i: int, voices: list[str], most: int) -> tuple[str, list[str], str, int, int]:
    """A row's name, words, voice, speed in words a minute and pitch from 0 to 99."""
    language = list(WORDS)[i % len(WORDS)]
    words = rng.choices(WORDS[language], k=rng.randint(1, most))
    return name, words, f"{language}+{rng.choice(voices)}", rng.randint(130, 190), rng.randint(30, 70)


def say(folder: Path, name: str, words: list[str], voice: str, speed: int, pitch: int) -> None:
    """Write what espeak-ng says.

    Raises:
        subprocess.CalledProcessError: espeak-ng has no such voice.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(folder / f"sounds/{name}.wav")]
    subprocess.run([*command, " ".join(words)], check=True)


def example(name: str, words: list[str]) -> dict:
    """A row of the dataset."""
    question, answer = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": " ".join(words)}
    return {"messages": [question, answer], "audios": [f"sounds/{name}.wav"]}


if __name__ == "__main__":
    main()
