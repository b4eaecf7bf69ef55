"""Makes the shipped texts that untouched models write for the bundled canary, so that runs need not compute them.

The texts of each model replace those in the folder of its name in `asr_lightning/canary_texts`. Make them again when
the clips or the rules of decoding change (`SCHEMA` in `asr_lightning/scoring/known_texts.py`); until then a run
computes the texts that it does not find. This takes about a minute for whisper-tiny.en on two cores.

Run:

    python benchmarks/make_canary_texts.py whisper-tiny.en
"""

import argparse
import shutil
from pathlib import Path

from asr_lightning.adapters import registry
from asr_lightning.datamodules.canary import Canary
from asr_lightning.scoring.edits import score
from asr_lightning.scoring.known_texts import SHIPPED, KnownTexts, TextStore, model_hash
from asr_lightning.scoring.text import basic


def make(name: str, folder: Path, canary: Canary) -> float:
    """Transcribes the canary with the model as its makers use it, and writes the texts.

    Args:
        name: Name in `python -m asr_lightning models`, or a folder, of a model that needs no language.
        folder: Folder of the texts, which is emptied first.
        canary: The clips.

    Returns:
        The word error rate.
    """
    shutil.rmtree(folder, ignore_errors=True)
    adapter = registry.build(name).native()
    store = TextStore(folder, model_hash(adapter), canary.batch_hash(adapter.limits.sample_rate))
    wer = score(canary.transcripts(adapter, known=KnownTexts((store,))), basic).wer
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)  # unlike texts of a user's recordings, these are public
    return wer


def main() -> None:
    """Reads the command line and makes the texts of every model that it names."""
    parser = argparse.ArgumentParser(description="Make the texts of the bundled canary by untouched models.")
    parser.add_argument("models", nargs="+", help="names in python -m asr_lightning models, such as whisper-tiny.en")
    parser.add_argument("--output", type=Path, default=SHIPPED, help="folder in which each model gets its folder")
    options = parser.parse_args()
    for name in options.models:
        print(f"{name}: WER {make(name, options.output / Path(name).name, Canary()):.1%}")


if __name__ == "__main__":
    main()
