"""Functions shared by the scripts that make data sets: random variation of a recording, its files, the splits.

Needs `pip install soundfile soxr`.
"""

import argparse
import csv
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000  # Hz, what speech recognisers want
# libsndfile maps this to about 37 kbit/s of Opus: no telephone sound, and small enough to be kept in a repository.
COMPRESSION_LEVEL = 0.87
SPLIT_SIZES = {"train": 166, "dev": 74, "test": 49}

# The value of each clip is drawn from these ranges, so that clips differ like recordings made on different days.
PITCH = (0.97, 1.03)  # factor; wider and it would no longer be one speaker
SILENCE = (0.15, 0.4)  # seconds before and after the sentence
PEAK = (-9.0, -2.0)  # dB relative to full scale
NOISE = (-40.0, -32.0)  # dB relative to the speech: a quiet room, not a challenge

Rules = Iterable[tuple[str, str, float]]
"""Pattern, its replacement, and the probability of replacing it. Applied from top to bottom, drawn for each match."""

Say = Callable[[str, random.Random], tuple[np.ndarray, int]]
"""A voice: turns a text and a random generator into plain mono speech and its sample rate in Hz."""


def output_folder(parser: argparse.ArgumentParser, default: Path | None = None) -> argparse.Namespace:
    """Reads the command line and makes the folder for the clips, which must not hold any unless `--overwrite` is given.

    Args:
        parser: Parser to which `--output` and `--overwrite` are added.
        default: The folder if the command line names none.

    Returns:
        The arguments, including `output`.
    """
    about = "folder for the clips" + (f" (default: {default})" if default else "")
    parser.add_argument("--output", type=Path, default=default, required=default is None, help=about)
    parser.add_argument("--overwrite", action="store_true", help="replace the clips already in that folder")
    arguments = parser.parse_args()
    if any(arguments.output.glob("*.ogg")) and not arguments.overwrite:
        parser.error(f"{arguments.output} already holds clips; name another folder or add --overwrite")
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def numbered(path: Path) -> dict[str, str]:
    """Reads the phrases, one on each line.

    Args:
        path: The text file.

    Returns:
        The phrases by UID, which is the number of the line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return {f"{number:03d}": phrase for number, phrase in enumerate(lines, start=1)}


def separated(sounds: str) -> str:
    """Separates "the" from the word before it: espeak-ng joins them ("ʌvðə"), and accents depend on where words end.

    Args:
        sounds: A sentence in espeak-ng's phonemes.

    Returns:
        The same sentence with spaces between all words.
    """
    return re.sub(r"(?<=\S)ð(?=(?:ə|ɪʲ)\s)", " ð", sounds)


def accented(sounds: str, rules: Rules, rng: random.Random) -> str:
    """Puts an accent on a sentence.

    Args:
        sounds: The sentence in espeak-ng's American English phonemes.
        rules: The accent.
        rng: Random generator that decides when a rule applies that does not apply always.

    Returns:
        The sentence as the speaker says it, in phonemes.
    """
    for pattern, said, how_often in rules:
        sounds = re.sub(pattern, lambda match, said=said, p=how_often: said if rng.random() < p else match[0], sounds)
    return sounds


def recorded(speech: np.ndarray, rate: int, rng: random.Random) -> np.ndarray:
    """Makes a clip from plain speech: pitch, silence around it, level and room noise vary from clip to clip.

    Args:
        speech: Mono audio.
        rate: Its sample rate in Hz.
        rng: Random generator for the values of this clip.

    Returns:
        Mono audio at `SAMPLE_RATE`.
    """
    # Resampling as if the rate were another one shifts the pitch (and the pace by the same few percent).
    speech = soxr.resample(speech, rate * rng.uniform(*PITCH), SAMPLE_RATE)
    before, after = (round(rng.uniform(*SILENCE) * SAMPLE_RATE) for _ in range(2))
    clip = np.pad(speech, (before, after))
    white = np.random.default_rng(rng.getrandbits(32)).standard_normal(clip.size)
    room = np.convolve(white, np.ones(8) / 8, mode="same")  # a moving average: rooms sound duller than white noise
    clip = clip + room * (np.std(speech) / np.std(room) * 10 ** (rng.uniform(*NOISE) / 20))
    return clip / np.abs(clip).max() * 10 ** (rng.uniform(*PEAK) / 20)


def write_clip(
    folder: Path, uid: str, clip: np.ndarray, text: str, compression_level: float = COMPRESSION_LEVEL
) -> float:
    """Writes a clip and its transcript.

    Args:
        folder: Folder of both files.
        uid: The name of both files.
        clip: Mono audio at `SAMPLE_RATE`.
        text: The words that are said.
        compression_level: Compression level of libsndfile, from 0 to 1; the higher, the fewer bits.

    Returns:
        The number of seconds of audio.
    """
    path = folder / f"{uid}.ogg"
    soundfile.write(path, clip, SAMPLE_RATE, "OPUS", format="OGG", compression_level=compression_level)
    (folder / f"{uid}.txt").write_text(f"{text}\n", encoding="utf-8")
    return clip.size / SAMPLE_RATE


def record(
    folder: Path, uid: str, text: str, say: Say, seed: int, compression_level: float = COMPRESSION_LEVEL
) -> float:
    """Synthesizes a text, and writes clip and transcript.

    Args:
        folder: Folder of both files.
        uid: The name of both files.
        text: The words to say.
        say: The voice.
        seed: Seed of the clip's random values, together with its name.
        compression_level: Compression level of the audio file, 0 to 1.

    Returns:
        The number of seconds of audio.
    """
    rng = random.Random(f"{seed}/{uid}")
    speech, rate = say(text, rng)
    return write_clip(folder, uid, recorded(speech, rate, rng), text, compression_level)


def write_splits(folder: Path, phrases: dict[str, str], seed: int) -> None:
    """Writes the train, dev and test tables, each a random draw from all phrases.

    Args:
        folder: Folder of the clips.
        phrases: The phrases by UID.
        seed: Seed of the draw.
    """
    shuffled = sorted(phrases)
    random.Random(seed).shuffle(shuffled)
    for split, size in SPLIT_SIZES.items():
        uids, shuffled = sorted(shuffled[:size]), shuffled[size:]
        with (folder / f"{split}_files.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["uid", "file_name", "text"])
            table.writerows([uid, f"{uid}.ogg", phrases[uid]] for uid in uids)


def make_data_set(folder: Path, phrases: Path, say: Say, seed: int, split_seed: int) -> None:
    """Makes one speaker's data set: clips, transcripts and the three split tables; prints the number of clips.

    Args:
        folder: Folder of the data set.
        phrases: Text file with one phrase on each line.
        say: The voice.
        seed: Seed of the random values of all clips.
        split_seed: Seed of the split.
    """
    texts = numbered(phrases)
    seconds = sum(record(folder, uid, text, say, seed) for uid, text in texts.items())
    write_splits(folder, texts, split_seed)
    print(f"{len(texts)} clips, {seconds:.0f} s of audio, written to {folder}")
