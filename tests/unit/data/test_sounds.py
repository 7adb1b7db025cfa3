"""Sound files: what is read of each kind, and the sentence for each that is refused."""

import os

import numpy as np
import pytest
import soundfile

from posttrain.data import sounds
from posttrain.runtime.errors import UserError

RATE = 16_000


def tone(rate: int = RATE, seconds: float = 0.5, pitch: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)


def pitch_of(samples: np.ndarray, rate: int) -> float:
    """The strongest frequency."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_every_kind_is_read_at_the_rate_of_the_model(tmp_path, kind):
    file = tmp_path / f"a.{kind}"
    soundfile.write(file, tone(44_100), 44_100)
    held = sounds.check(file, "rows line 1")
    assert (held.rate, held.channels) == (44_100, 1)
    assert held.seconds == pytest.approx(0.5, abs=0.06)  # an MP3 has whole frames only
    samples = sounds.read(file, RATE)
    assert samples.dtype == np.float32 and len(samples) == pytest.approx(held.seconds * RATE, abs=1)
    assert pitch_of(samples, RATE) == pytest.approx(440, abs=4)


def test_what_a_lower_rate_cannot_hold_is_filtered_out(tmp_path):
    file = tmp_path / "high.wav"
    soundfile.write(file, tone(44_100, pitch=12_000), 44_100)  # would be heard at 4,000 Hz
    assert np.abs(sounds.read(file, RATE)[100:-100]).max() < 0.01


def test_channels_are_averaged(tmp_path):
    file = tmp_path / "stereo.wav"
    soundfile.write(file, np.stack([tone(), np.zeros(RATE // 2)], axis=1), RATE)
    assert sounds.check(file, "").channels == 2
    np.testing.assert_allclose(sounds.read(file, RATE), tone() / 2, atol=1e-4)


def test_a_file_longer_than_a_block_is_read_whole(tmp_path):
    file = tmp_path / "long.wav"
    samples = np.linspace(-0.5, 0.5, 3 * sounds.BLOCK + 7).astype(np.float32)
    soundfile.write(file, samples, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(sounds.read(file, RATE), samples)


def claims_more(file) -> None:
    """A WAV whose header has ten times the samples of the file."""
    soundfile.write(file, tone(), RATE)
    raw = bytearray(file.read_bytes())
    at = raw.index(b"data") + 4
    raw[at : at + 4] = (10 * len(raw)).to_bytes(4, "little")
    file.write_bytes(raw)


def cut(file) -> None:
    flac = file.with_suffix(".flac")
    soundfile.write(flac, np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    file.write_bytes(flac.read_bytes()[:9000])


def of(samples: np.ndarray, rate: int = RATE, **options):
    return lambda file: soundfile.write(file, samples, rate, **options)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda file: None, "there is no sound file"),
        (lambda file: file.write_bytes(b""), "cannot be read as a sound"),
        (lambda file: file.write_text("<html>not found</html>"), "cannot be read as a sound"),
        (lambda file: file.mkdir(), "is no file"),
        (lambda file: os.mkfifo(file), "is no file"),
        (cut, "cannot be read as a sound"),
        (of(np.zeros(0)), "has no samples"),
        (of(np.zeros(RATE)), "is silent"),
        (of(tone(seconds=0.1)), "lasts 0.100 s, less than 0.2 s"),
        (of(np.where(np.arange(RATE) == 9, np.nan, 0.1), subtype="FLOAT"), "no numbers or far out of range"),
        (of(np.where(np.arange(RATE) == 9, np.inf, 0.1), subtype="FLOAT"), "no numbers or far out of range"),
        (of(np.full(RATE, 1e6), subtype="FLOAT"), "no numbers or far out of range"),
        (of(tone(1000), 1000), "has 1,000 samples a second"),
        (of(np.ones((RATE, 17)) / 2), "has 17 channels"),
        (of(np.zeros(int(RATE * sounds.LONGEST) + 1)), "is longer than 10 minutes"),
    ],
)
def test_what_is_no_sound_is_refused_in_one_sentence(tmp_path, write, said):
    file = tmp_path / "a.wav"
    write(file)
    with pytest.raises(UserError, match=said) as refused:
        sounds.check(file, "rows.jsonl line 3")
    assert refused.value.code == "unreadable-sound"
    assert str(refused.value).startswith("rows.jsonl line 3: ") and "\n" not in str(refused.value)


def test_a_header_that_promises_more_than_the_file_has(tmp_path):
    file = tmp_path / "a.wav"
    claims_more(file)
    try:
        assert sounds.check(file, "").seconds == pytest.approx(0.5)  # libsndfile corrects a WAV's header itself
    except UserError as refused:
        assert "ends before its last sample" in str(refused)


def test_another_program_s_kind_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.au", tone(), RATE)
    with pytest.raises(UserError, match="is AU; convert it"):
        sounds.check(tmp_path / "a.au", "line 1")
