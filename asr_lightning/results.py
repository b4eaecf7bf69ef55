"""Before and after on the same clips: scores two adapters, and writes what a run achieved. Knows no model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from asr_lightning.evaluation import transcribe_all
from asr_lightning.known_texts import NOTHING_KNOWN, KnownTexts, of_untouched
from asr_lightning.protocols import ASRAdapter
from asr_lightning.reports.study import Pair
from asr_lightning.scoring import ErrorRates, Transcript, score
from asr_lightning.text import Normalizer, spreadsheet_cell
from asr_lightning.text import normalizer as normalizer_named

Result = dict[str, Any]


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

    def rates_of(self, tested: Tested) -> Result:
        """``test`` and ``native_mode`` as the results file has them."""
        native = rates_of(tested.native or tested.pairs, self.normalize)
        return {"test": rates_of(tested.pairs, self.normalize), "native_mode": {"test": {"wer": native["wer"]}}}


def pairs(before: Iterable[Transcript], after: Iterable[Transcript]) -> tuple[Pair, ...]:
    """Both texts of every clip of ``after``, by uid."""
    earlier = {transcript.uid: transcript.hypothesis for transcript in before}
    return tuple(sorted(Pair(t.uid, t.reference, earlier[t.uid], t.hypothesis) for t in after))


def rates_of(found: Sequence[Pair], normalize: Normalizer) -> dict[str, dict[str, float]]:
    """Every rate before and after, as fractions."""
    before = score((Transcript(pair.uid, pair.reference, pair.before) for pair in found), normalize)
    after = score((Transcript(pair.uid, pair.reference, pair.after) for pair in found), normalize)
    return {
        name: {"before": getattr(before, name), "after": getattr(after, name)} for name in ("wer", "cer", "mean_wer")
    }


def write_json(path: Path, content: Result) -> None:
    """Write ``content`` as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_pairs(path: Path, found: Iterable[Pair]) -> None:
    """Write one CSV row per clip: uid, reference, before, after. No cell can start a spreadsheet formula."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Pair._fields)
        writer.writerows([spreadsheet_cell(cell) for cell in pair] for pair in found)


def table(result: Result) -> str:
    """The figures of ``result`` as text: a row for each set, WER and CER before and after in percent."""
    lines = [f"{'':22}{'WER before':>12}{'after':>9}{'cut':>9}{'CER before':>14}{'after':>9}"]
    for split in ("dev", "test"):
        if split in result:
            lines.append(_row(f"{split} ({result['clips'][split]} clips)", result[split]))
    lines.append(_row("test, native mode", result["native_mode"]["test"]))
    lines += [_row(f"canary, {mode}", rates) for mode, rates in result.get("canary", {}).items()]
    return "\n".join(lines)


def _row(name: str, rates: dict[str, dict[str, float]]) -> str:
    wer, cer = rates["wer"], rates.get("cer")
    cut = f"{1 - wer['after'] / wer['before']:.0%}" if wer["before"] else "-"
    row = f"{name:22}{wer['before']:>12.1%}{wer['after']:>9.1%}{cut:>9}"
    return row + (f"{cer['before']:>14.1%}{cer['after']:>9.1%}" if cer else "")


def summary(result: Result, run_dir: Path) -> str:
    """The closing lines of a run: the table, what it took, where things are, and the verdict."""
    return "\n".join(
        [
            "",
            f"{result['model']} specialized on {result['clips']['train']} clips",
            f"weights from: {result['source']}",
            "",
            table(result),
            "",
            f"training {result['train_seconds']:.0f} s ({result['train_utterances_per_second']:.1f} utterances/s), "
            f"validation {result['validation_seconds']:.0f} s, whole run {result['total_seconds']:.0f} s, "
            f"peak memory {result['peak_memory_mb']:.0f} MB",
            f"model:   {run_dir / result['saved']}",
            f"results: {run_dir / 'results.json'}",
            f"texts:   {run_dir / 'test_transcripts.csv'}",
            f"report:  {run_dir / 'report.html'}",
            "",
            *([] if result["verdict"].startswith(result["decision"].rstrip(".")) else [result["decision"]]),
            result["verdict"],
        ]
    )
