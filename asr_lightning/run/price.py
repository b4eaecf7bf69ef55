"""What a choice of weights gives up on dev, for what, and which options take the other weights. Knows no model."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import NamedTuple

from asr_lightning.run.selection import Candidate, Selection


class Price(NamedTuple):
    """The weights that are best on dev, where others are handed over.

    Attributes:
        sentence: What is given up, and for what.
        options: Options of ``fit`` with which the choice falls on those weights.
    """

    sentence: str
    options: tuple[str, ...]

    def command(self, run_dir: Path) -> str:
        """The command that chooses again in ``run_dir``, with the other options."""
        config = shlex.quote(str(run_dir / "config.yaml"))
        return f"python -m asr_lightning fit --config {config} --ckpt_path last {' '.join(self.options)}"


def price_of(selection: Selection, chosen: Candidate) -> Price | None:
    """The price of ``chosen``; None if it is the best on dev, or if the best on dev cannot be taken at all."""
    best = min(selection.candidates, key=lambda candidate: candidate.order)
    if best is chosen or best.wer >= chosen.wer or not best.alpha:
        return None
    reason, options = _barrier(selection, best, chosen)
    if not options:
        return None
    given_up = f"{best.name} at alpha {best.alpha:g} has {100 * best.wer:.1f} % WER on dev"
    sentence = f"Given up: {given_up}, and what was chosen {100 * chosen.wer:.1f} %; it was left out because {reason}."
    return Price(sentence, options)


def _barrier(selection: Selection, best: Candidate, chosen: Candidate) -> tuple[str, tuple[str, ...]]:
    """Why ``best`` was not chosen, and the options with which it is; no options if none would help."""
    least = selection.settings.min_probability
    if best.lost:
        own = f", and the chosen one by {chosen.lost.points}" if chosen.lost else ""
        reason = f"it changes the WER of other people on the canary by {best.lost.points}{own}"
        return reason, ("--selection.canary_weight 0",)
    if best.p_better is None or best.p_better >= least:
        return "", ()
    enough = f"--selection.min_probability {math.floor(1000 * best.p_better) / 1000:g}"
    reason = f"it beats the untouched model with a probability of {best.p_better:.2f} only, less than {least:g}"
    # The canary was not read with it, and could be what keeps it out next.
    return reason, (enough, *(["--selection.canary_weight 0"] if selection.forgetting else []))
