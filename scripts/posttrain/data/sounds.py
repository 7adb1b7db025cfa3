"""Sound files: checked when a dataset is read, decoded when a model listens; by libsndfile, in blocks.

Every sound becomes one channel of float32 at the rate of the model: several channels are averaged, and another rate is resampled by
a polyphase filter (`scipy.signal.resample_poly`). A header may claim any length, and FLAC packs an hour of silence into kilobytes:
blocks are counted while they are decoded, so neither takes more memory than LONGEST allows.
"""

from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data.files import is_file
from posttrain.runtime.errors import UserError

# libsndfile's names of formats, and the endings of their files.
ENDINGS = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3"}
SOUNDS = tuple(ENDINGS)
SLOWEST, FASTEST = 4_000, 192_000  # samples a second
SHORTEST, LONGEST = 0.2, 600.0  # seconds; a model hears a fifth of a second as a few tokens
MOST_CHANNELS = 16
SILENT = 1e-4  # the largest sample, of 1: three steps of 16 bits
LOUDEST = 1e4  # float formats may exceed 1; more than this is no sound
BLOCK = 1 << 16  # samples


class Sound(NamedTuple):
    """What a sound file holds."""

    seconds: float
    rate: int
    """samples a second"""
    channels: int
    kind: str
    """libsndfile's name of its format"""


def library() -> Any:
    """The package soundfile.

    Raises:
        UserError: it is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: without libsndfile
        raise UserError(
            "missing-package",
            "audios",
            "sound files need soundfile, which is not installed",
            "run: pip install posttrain[audio]",
        ) from None
    return soundfile


def check(file: Path, place: str) -> Sound:
    """Decode all of a sound file, and say what it holds.

    Raises:
        UserError: it is missing or broken, has no sound in it, or is longer than LONGEST; with `place`.
    """
    import numpy as np

    peak = 0.0
    frames = 0
    for block, held in blocks(file, place):  # noqa: B007 (what the header says is the same for each)
        frames += len(block)
        with np.errstate(invalid="ignore"):
            largest = float(np.abs(block).max())
        if not np.isfinite(largest) or largest > LOUDEST:
            raise _refused(file, place, "has samples that are no numbers or far out of range", "write it again")
        peak = max(peak, largest)
    if not frames:
        raise _refused(file, place, "has no samples", "record it again, or take the row out")
    sound = held._replace(seconds=frames / held.rate)
    if sound.seconds < SHORTEST:
        raise _refused(file, place, f"lasts {sound.seconds:.3f} s, less than {SHORTEST} s", "take the row out")
    if peak < SILENT:
        raise _refused(file, place, "is silent", "record it again, or take the row out")
    return sound


def header(file: Path) -> Sound:
    """What the header of a checked sound file says."""
    held = library().info(file)
    return Sound(held.frames / held.samplerate, held.samplerate, held.channels, held.format)


def read(file: Path, rate: int) -> Any:
    """The samples of a checked sound file, float32 (n,), at `rate` samples a second.

    Several channels are averaged. Another rate is resampled by `scipy.signal.resample_poly`, whose filter removes what the new
    rate cannot hold.
    """
    import numpy as np
    from scipy.signal import resample_poly

    parts = []
    for block, held in blocks(file, str(file)):  # noqa: B007 (as above)
        parts.append(block.mean(axis=1, dtype=np.float32))
    samples = np.concatenate(parts)
    if held.rate == rate:
        return samples
    shared = gcd(rate, held.rate)
    return resample_poly(samples, rate // shared, held.rate // shared).astype(np.float32)


def blocks(file: Path, place: str) -> Iterator[tuple[Any, Sound]]:
    """The samples of a file in blocks (at most BLOCK, channels) of float32, each with what the header says.

    Raises:
        UserError: it is missing, broken, of a kind or rate that is not read, or longer than LONGEST.
    """
    soundfile = library()
    if file.exists() and not is_file(file):  # opening a pipe would never end
        raise _refused(file, place, "is no file", "replace it")
    if not file.exists():
        raise UserError("unreadable-sound", place, f"there is no sound file '{file}'", "check the path")
    try:
        with soundfile.SoundFile(file) as opened:
            held = Sound(opened.frames / opened.samplerate, opened.samplerate, opened.channels, opened.format)
            _check_header(file, place, held)
            frames = 0
            while len(block := opened.read(BLOCK, dtype="float32", always_2d=True)):
                frames += len(block)
                if frames > LONGEST * held.rate:
                    raise _too_long(file, place)
                yield block, held
            if frames < opened.frames and held.kind != "MP3":  # an MP3's header only estimates
                raise _refused(file, place, "ends before its last sample", "copy it again")
    except soundfile.SoundFileError:
        raise _refused(file, place, "cannot be read as a sound", f"replace it; read are {', '.join(SOUNDS)}") from None


def _check_header(file: Path, place: str, held: Sound) -> None:
    if held.kind not in SOUNDS:
        raise _refused(file, place, f"is {held.kind}", f"convert it to one of {', '.join(SOUNDS)}")
    if not SLOWEST <= held.rate <= FASTEST:
        raise _refused(file, place, f"has {held.rate:,} samples a second", f"convert it to {SLOWEST:,} to {FASTEST:,}")
    if held.channels > MOST_CHANNELS:
        raise _refused(file, place, f"has {held.channels} channels", f"convert it to {MOST_CHANNELS} at most")
    if held.seconds > LONGEST:
        raise _too_long(file, place)


def _too_long(file: Path, place: str) -> UserError:
    return _refused(file, place, f"is longer than {LONGEST / 60:.0f} minutes", "split it")


def _refused(file: Path, place: str, problem: str, hint: str) -> UserError:
    return UserError("unreadable-sound", place, f"'{file}' {problem}", hint)
