"""Reads Asterisk's telephone prompts: one professional speaker for each language, with transcripts, at 16 kHz.

Debian's packages `asterisk-core-sounds-XX` hold the transcripts, `asterisk-core-sounds-XX-g722` the recordings; the
licences are in `/usr/share/doc/asterisk-core-sounds-XX/copyright`. Needs `pip install av numpy`.
"""

import csv
import gzip
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from asr_lightning.scoring.text import basic

SOUNDS = Path("/usr/share/asterisk/sounds")
TRANSCRIPTS = "/usr/share/doc/asterisk-core-sounds-{0}/core-sounds-{0}.txt.gz"
SAMPLE_RATE = 16_000  # Hz, of G.722
# Notes are in brackets, and a symbol does not show the word that is said for it.
NOTE_OR_SYMBOL = re.compile(r"[][()<>{}#*@$]")


class Speaker(NamedTuple):
    """The speaker of a language's prompts.

    Attributes:
        voice: The beginning of the UIDs of the clips.
        folder: The folder of the recordings, below `SOUNDS`.
    """

    voice: str
    folder: str


SPEAKERS = {
    "en": Speaker("allison", "en_US_f_Allison"),
    "es": Speaker("allison", "es_MX_f_Allison"),
    "fr": Speaker("june", "fr_CA_f_June"),
    "it": Speaker("carlo", "it_IT_m_Carlo"),
    "ru": Speaker("ivrvoice", "ru_RU_f_IvrvoiceRU"),
}


class Prompt(NamedTuple):
    """One recording.

    Attributes:
        uid: Voice and name, such as "allison_vm-goodbye".
        text: The words that are said.
        samples: Mono audio at `SAMPLE_RATE`, float64 from -1 to 1, shape (samples,).
    """

    uid: str
    text: str
    samples: np.ndarray


def prompts(language: str, changes: Path, words: int, seconds: tuple[float, float]) -> Iterator[Prompt]:
    """Reads the prompts that make a data set, in the package's order.

    Prompts are left out if the transcript has notes or symbols or too few words, if the recording is too short or too
    long, or if an earlier prompt has the same words.

    Args:
        language: Language code, a key of `SPEAKERS`.
        changes: Table of corrected transcripts, with the columns prompt and text; an empty text leaves the prompt out.
        words: Smallest number of words in a prompt.
        seconds: Shortest and longest duration.

    Yields:
        The prompts.
    """
    speaker, seen = SPEAKERS[language], set()
    for name, text in transcripts(language, read_changes(changes)):
        path, key = SOUNDS / speaker.folder / f"{name}.g722", basic(text)
        if NOTE_OR_SYMBOL.search(text) or len(text.split()) < words or key in seen or not path.is_file():
            continue
        samples = decoded(path)
        if seconds[0] <= samples.size / SAMPLE_RATE <= seconds[1]:
            seen.add(key)
            yield Prompt(f"{speaker.voice}_{name.replace('/', '-')}", text, samples)


def transcripts(language: str, changes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Reads the text of each prompt, without the dots that join it to another prompt.

    Args:
        language: Language code, a key of `SPEAKERS`.
        changes: Corrected text by name of the prompt; an empty text leaves the prompt out.

    Yields:
        The name and the text of a prompt.
    """
    with gzip.open(TRANSCRIPTS.format(language), "rt", encoding="utf-8-sig") as file:
        for line in file:
            name, colon, text = line.partition(":")
            text = changes.get(name, text)
            text = " ".join(re.sub(r"\.{2,}|…", " ", text).split()).strip('" ')
            if colon and text and not line.startswith(";"):
                yield name, text


def read_changes(path: Path) -> dict[str, str]:
    """Reads the table of corrected transcripts.

    Args:
        path: CSV with the columns prompt and text.

    Returns:
        The text by name of the prompt.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return {row["prompt"]: row["text"] for row in csv.DictReader(file)}


def decoded(path: Path) -> np.ndarray:
    """Decodes a recording.

    Args:
        path: The recording in raw G.722.

    Returns:
        Mono audio at `SAMPLE_RATE`, float64 from -1 to 1, shape (samples,); no samples for an empty file.
    """
    if not path.stat().st_size:
        return np.zeros(0)
    with av.open(str(path), format="g722") as file:
        frames = [frame.to_ndarray().ravel() for frame in file.decode(audio=0)]
    return np.concatenate(frames) / 32768
