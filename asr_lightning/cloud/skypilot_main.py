"""``python -m asr_lightning.cloud.skypilot_main VOLUME``: what a SkyPilot machine runs on its folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

from asr_lightning.cloud import remote
from asr_lightning.cloud.provider import RequestDocument
from asr_lightning.cloud.skypilot_task import REQUEST
from asr_lightning.durable.files import read_json
from asr_lightning.training.logs import configure_logging


def main(folder: Path) -> int:
    """Train on the volume in ``folder``; returns the exit status."""
    configure_logging()
    request = read_json(folder / REQUEST)
    if request is None:
        raise ValueError(f"{folder} holds no {REQUEST}: the provider skypilot starts this")
    remote.train(folder, cast(RequestDocument, request), os.sync)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
