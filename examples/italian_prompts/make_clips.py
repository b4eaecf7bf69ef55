"""Makes the sample data set of human speech: one Italian speaker, 289 telephone prompts.

The recordings and transcripts are those of Debian's packages `asterisk-core-sounds-it` and
`asterisk-core-sounds-it-g722`. `source/changes.csv` has the corrected transcripts; prompts without a text there are
left out. Clips, transcripts and the three split tables end up side by side in one folder.

Run:

    apt-get install asterisk-core-sounds-it asterisk-core-sounds-it-g722
    pip install soundfile soxr
    PYTHONPATH=. python examples/italian_prompts/make_clips.py --output NEW_FOLDER
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import asterisk
import clips

HERE = Path(__file__).resolve().parent
CHANGES = HERE / "source" / "changes.csv"
WORDS = 2
SECONDS = (0.8, 15.0)
SPLIT_SEED = 1
COMPRESSION_LEVEL = 0.93  # libsndfile maps this to about 26 kbit/s of Opus


def main() -> None:
    """Reads the command line and makes the data set."""
    parser = argparse.ArgumentParser(description="Make the sample data set of an Italian speaker.")
    folder = clips.output_folder(parser, HERE / "clips").output
    prompts = list(asterisk.prompts("it", CHANGES, WORDS, SECONDS))
    seconds = sum(clips.write_clip(folder, p.uid, p.samples, p.text, COMPRESSION_LEVEL) for p in prompts)
    clips.write_splits(folder, {prompt.uid: prompt.text for prompt in prompts}, SPLIT_SEED)
    print(f"{len(prompts)} clips, {seconds:.0f} s of audio, written to {folder}")


if __name__ == "__main__":
    main()
