"""Compares the untouched and the specialized model on the same clips, and writes the results. Knows no model."""

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
from asr_lightning.scoring.known_texts import NOTHING_KNOWN, KnownTexts, find_known_texts
from asr_lightning.scoring.rates import Change, Pair, Rates
from asr_lightning.scoring.text import Normalizer, spreadsheet_cell
from asr_lightning.scoring.text import normalizer as normalizer_named


class Tested(NamedTuple):
    """Transcripts of the test split before and after training.

    Attributes:
        pairs: Transcripts of the untouched model in its native mode, and of the specialized model in the mode of
            its training.
        native: Transcripts of both in native mode, the only one that some runtimes know; None if the modes are the
            same.
    """

    pairs: tuple[Pair, ...]
    native: tuple[Pair, ...] | None


class Comparison:
    """Scores the untouched and the specialized model on splits of one data set.

    Args:
        data: The data module, after its ``setup``.
        device: Device that the models run on.
        normalizer: Name of the text normaliser for all error rates.
    """

    def __init__(self, data: Any, device: torch.device | str = "cpu", normalizer: str = "basic") -> None:
        self.data = data
        self.device = device
        self.normalizer = normalizer
        self.normalize = normalizer_named(normalizer)

    @property
    def clips(self) -> dict[str, int]:
        """Number of clips in each split."""
        return {split: len(rows) for split, rows in self.data.splits.items()}

    def transcripts(self, adapter: ASRAdapter, split: str, known: KnownTexts = NOTHING_KNOWN) -> list[Transcript]:
        """Transcribe every clip of ``split``; ``known`` has texts of an untouched model."""
        adapter.model.to(self.device)
        loader = self.data.loader(split, adapter.collator(), distributed=False)
        return list(transcribe_all(adapter, loader, self.device, known))

    def rates(self, adapter: ASRAdapter, split: str) -> ErrorRates:
        """Error rates of ``adapter`` on ``split``."""
        return score(self.transcripts(adapter, split), self.normalize)

    def test(self, base: ASRAdapter, tuned: ASRAdapter) -> Tested:
        """Transcribe the test split with both models; nothing else of a run reads it."""
        untouched = base.native()
        before = self.transcripts(untouched, "test", find_known_texts(untouched, self.device))
        after = pairs(before, self.transcripts(tuned, "test"))
        native = tuned.native()
        return Tested(after, None if native is tuned else pairs(before, self.transcripts(native, "test")))


def pairs(before: Iterable[Transcript], after: Iterable[Transcript]) -> tuple[Pair, ...]:
    """Combine both transcripts of every clip of ``after``, sorted by uid."""
    texts_before = {transcript.uid: transcript.hypothesis for transcript in before}
    return tuple(sorted(Pair(t.uid, t.reference, texts_before[t.uid], t.hypothesis) for t in after))


def rates_of(pairs: Sequence[Pair], normalize: Normalizer) -> Rates:
    """All error rates of ``pairs`` before and after training."""
    before = score((Transcript(pair.uid, pair.reference, pair.before) for pair in pairs), normalize)
    after = score((Transcript(pair.uid, pair.reference, pair.after) for pair in pairs), normalize)
    return Rates(*(Change(getattr(before, name), getattr(after, name)) for name in ("wer", "cer", "mean_wer")))


def write_readable_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` as indented JSON, for people to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write one CSV row per clip: uid, reference, before, after. No cell is a formula for a spreadsheet."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Pair._fields)
        writer.writerows([spreadsheet_cell(cell) for cell in pair] for pair in pairs)
