"""Writes the help pages of ``fit``, ``validate`` and ``test`` to files, because LightningCLI takes seconds to import.

``make help-pages`` runs this, and ``train.py`` prints the files. A test compares them with the parser.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout, suppress
from pathlib import Path

PAGES = Path(__file__).parent / "help"
DESCRIPTIONS = {
    "fit": "Specialize a model on an audio folder, and report WER before and after. The options most used: "
    "--model NAME (python -m asr_lightning models lists them), --config FILE, --data.audio_dir FOLDER, "
    "--run_dir FOLDER, --ckpt_path last to resume, --train_only.groups, --model.optimizer.lr, --trainer.max_epochs, "
    "--trainer.devices. Any option can stand in the configuration file.",
    "validate": "Print the dev WER of a finished run's model. --run_dir FOLDER is enough: its config.yaml is read.",
    "test": "Print WER on the test split before and after a finished run. --run_dir FOLDER is enough.",
}


def page(command: str) -> str:
    """The text that LightningCLI prints for ``command --help``, 100 columns wide and without colour."""
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    from asr_lightning.cli import lightning_cli

    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        lightning_cli.main([command, "--help"])
    return printed.getvalue()


def main() -> None:
    """Write every page."""
    PAGES.mkdir(exist_ok=True)
    for command in ("fit", "validate", "test"):
        (PAGES / f"{command}.txt").write_text(page(command), encoding="utf-8")


if __name__ == "__main__":
    main()
