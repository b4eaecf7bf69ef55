"""Before and after on the same clips: scores two adapters, and writes what a run achieved. Knows no model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring.edits import ErrorRates, Transcript, score
from asr_lightning.scoring.evaluation import transcribe_all
from asr_lightning.scoring.known_texts import NOTHING_KNOWN, KnownTexts, of_untouched
from asr_lightning.scoring.rates import Change, Pair, Rates
from asr_lightning.scoring.text import Normalizer, spreadsheet_cell
from asr_lightning.scoring.text import normalizer as normalizer_named


class Tested(NamedTuple):
    """Texts of the test split.

    Attributes:
        pairs: The untouched model, natively, beside the specialized one as it is used.
        native: Both natively, since a runtime may know nothing of another way; None where that is the same.
    """

    pairs: tuple[Pair, ...]
    native: tuple[Pair, ...] | None


class Comparison:
    """Scores the untouched and the specialized model on splits of one data set.

    Args:
        data: The data module, set up.
        device: Where to compute.
        normalizer: Name of the text normaliser of every rate.
    """

    def __init__(self, data: Any, device: torch.device | str = "cpu", normalizer: str = "basic") -> None:
        self.data = data
        self.device = device
        self.normalizer = normalizer
        self.normalize = normalizer_named(normalizer)

    @property
    def clips(self) -> dict[str, int]:
        """How many, by split."""
        return {split: len(rows) for split, rows in self.data.splits.items()}

    def transcripts(self, adapter: ASRAdapter, split: str, known: KnownTexts = NOTHING_KNOWN) -> list[Transcript]:
        """What ``adapter`` writes for every clip of ``split``; ``known`` are texts of an untouched model."""
        adapter.model.to(self.device)
        loader = self.data.loader(split, adapter.collator(), distributed=False)
        return list(transcribe_all(adapter, loader, self.device, known))

    def rates(self, adapter: ASRAdapter, split: str) -> ErrorRates:
        """Error rates of ``adapter`` on ``split``."""
        return score(self.transcripts(adapter, split), self.normalize)

    def test(self, base: ASRAdapter, tuned: ASRAdapter) -> Tested:
        """Texts of the test split, which is read for this and nothing else."""
        untouched = base.native()
        before = self.transcripts(untouched, "test", of_untouched(untouched, self.device))
        after = pairs(before, self.transcripts(tuned, "test"))
        native = tuned.native()
        return Tested(after, None if native is tuned else pairs(before, self.transcripts(native, "test")))


def pairs(before: Iterable[Transcript], after: Iterable[Transcript]) -> tuple[Pair, ...]:
    """Both texts of every clip of ``after``, by uid."""
    earlier = {transcript.uid: transcript.hypothesis for transcript in before}
    return tuple(sorted(Pair(t.uid, t.reference, earlier[t.uid], t.hypothesis) for t in after))


def rates_of(found: Sequence[Pair], normalize: Normalizer) -> Rates:
    """Every rate before and after."""
    before = score((Transcript(pair.uid, pair.reference, pair.before) for pair in found), normalize)
    after = score((Transcript(pair.uid, pair.reference, pair.after) for pair in found), normalize)
    return Rates(*(Change(getattr(before, name), getattr(after, name)) for name in ("wer", "cer", "mean_wer")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_pairs(path: Path, found: Iterable[Pair]) -> None:
    """Write one CSV row per clip: uid, reference, before, after. No cell can start a spreadsheet formula."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Pair._fields)
        writer.writerows([spreadsheet_cell(cell) for cell in pair] for pair in found)
