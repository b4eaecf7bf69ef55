"""Makes the texts of the bundled canary by untouched models, which are shipped: a run then starts without reading it.

Each model's texts go into a folder of its name in `asr_lightning/canary_texts`, in place of what was there, for every
way of reading that a run asks for. Make them again when the clips change, or what a text is decoded by (`SCHEMA` in
`asr_lightning/scoring/known_texts.py`); until then a run computes what it does not find. Takes about a minute for
whisper-tiny.en on two cores.

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
    """Reads the canary with the model, as its makers use it, and writes its texts.

    Args:
        name: Of `python -m asr_lightning models`, or a folder; one that needs no language.
        folder: Where to write; emptied first.
        canary: The clips.

    Returns:
        Word error rate.
    """
    shutil.rmtree(folder, ignore_errors=True)
    adapter = registry.build(name).native()
    store = TextStore(folder, model_hash(adapter), canary.batch_hash(adapter.limits.sample_rate))
    wer = score(canary.transcripts(adapter, known=KnownTexts((store,))), basic).wer
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)  # unlike texts of a user's recordings, they are for everyone
    return wer


def main() -> None:
    """Reads the command line and makes the texts of every model that it names."""
    parser = argparse.ArgumentParser(description="Make the texts of the bundled canary by untouched models.")
    parser.add_argument("models", nargs="+", help="names of python -m asr_lightning models, such as whisper-tiny.en")
    parser.add_argument("--output", type=Path, default=SHIPPED, help="where each model gets a folder")
    options = parser.parse_args()
    for name in options.models:
        print(f"{name}: WER {make(name, options.output / Path(name).name, Canary()):.1%}")


if __name__ == "__main__":
    main()
