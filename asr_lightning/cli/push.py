"""``push``: upload a model or an export to the Hugging Face hub, with its model card. Private, unless asked for."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from asr_lightning.errors import OptionError, require_extra

logger = logging.getLogger(__name__)

EPILOG = (
    "Uploaded are the files of the model or of the export, and a README.md with what was measured; never recordings, "
    "texts, checkpoints or reports. The token comes from HF_TOKEN or from hf auth login."
)


def parser() -> argparse.ArgumentParser:
    """The parser for ``push``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning push", description=__doc__, epilog=EPILOG, allow_abbrev=False
    )
    options.add_argument("source", type=Path, help="a run such as runs/demo, a model folder, or an export")
    options.add_argument("name", metavar="OWNER/NAME", help="the repository on the hub; it is made if there is none")
    options.add_argument("--public", action="store_true", help="let everybody read it; needs --confirm")
    options.add_argument(
        "--confirm", metavar="OWNER/NAME", help="with --public: the name again, since a personal model is personal data"
    )
    options.add_argument(
        "--dry_run", action="store_true", help="print the card and the names of the files; upload none"
    )
    return options


def run(command: str, arguments: list[str]) -> int:
    """Upload the model, or print what would be uploaded."""
    options = parser().parse_args(arguments)
    if options.public and options.confirm != options.name:
        raise OptionError(
            "whoever reads this model can learn what the person said in its recordings, so --public needs their "
            f"consent: if they agree, add --confirm {options.name}",
            "confirm",
        )
    require_extra("train", "huggingface_hub", "push")
    from asr_lightning.export import card, place, push

    found = place.find(options.source)
    if options.dry_run:
        print(card.card_text(found, options.name))
        for path in found.files():
            print(f"{path.stat().st_size:>12}  {path.relative_to(found.folder).as_posix()}")
        return 0
    pushed = push.push(found, options.name, options.public)
    whose = "private" if pushed.is_private else "PUBLIC"
    print(f"{pushed.url}: {len(pushed.files)} files, {whose}")
    return 0
