"""Before and after on the same clips: scores two adapters, and writes what a run achieved. Knows no model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from asr_lightning.evaluation import transcribe_all
from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring import ErrorRates, Transcript, score
from asr_lightning.text import normalizer, spreadsheet_cell

Result = dict[str, Any]


class Comparison:
    """Scores the untouched and the specialized model on splits of one data set.

    Args:
        data: The data module, set up.
        device: Where to compute.
        normalizer_name: Text normaliser of every rate.
    """

    def __init__(self, data: Any, device: torch.device | str = "cpu", normalizer_name: str = "basic") -> None:
        self.data = data
        self.device = device
        self.normalize = normalizer(normalizer_name)

    def transcripts(self, adapter: ASRAdapter, split: str) -> list[Transcript]:
        """What ``adapter`` writes for every clip of ``split``."""
        adapter.model.to(self.device)
        loader = self.data.loader(split, adapter.collator(), distributed=False)
        return list(transcribe_all(adapter, loader, self.device))

    def rates(self, adapter: ASRAdapter, split: str) -> ErrorRates:
        """Error rates of ``adapter`` on ``split``."""
        return score(self.transcripts(adapter, split), self.normalize)

    def test(self, base: ASRAdapter, tuned: ASRAdapter) -> tuple[Result, list[tuple[Transcript, str]]]:
        """Rates on the test split, and the texts behind them.

        The untouched model is scored through ``native()``; the specialized one both as it was trained and through
        ``native()``, since a runtime may know nothing of the former.

        Returns:
            ``test`` and ``native_mode`` for the results file; pairs of (specialized transcript, text before).
        """
        before, after = self.transcripts(base.native(), "test"), self.transcripts(tuned, "test")
        native = self.transcripts(tuned.native(), "test") if tuned.native() is not tuned else after
        rates = [score(transcripts, self.normalize) for transcripts in (before, after, native)]
        texts = {transcript.uid: transcript.hypothesis for transcript in before}
        pairs = [(transcript, texts[transcript.uid]) for transcript in after]
        native_mode = {"test": {"wer": beside(rates[0].wer, rates[2].wer)}}
        return {"test": before_after(rates[0], rates[1]), "native_mode": native_mode}, pairs


def beside(before: float, after: float) -> dict[str, float]:
    """Two figures under the names that every report uses."""
    return {"before": before, "after": after}


def before_after(before: ErrorRates, after: ErrorRates) -> dict[str, dict[str, float]]:
    """Every rate before and after, as fractions."""
    return {name: beside(getattr(before, name), getattr(after, name)) for name in ("wer", "cer", "mean_wer")}


def write_json(path: Path, content: Result) -> None:
    """Write ``content`` as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_pairs(path: Path, pairs: Iterable[tuple[Transcript, str]]) -> None:
    """Write one CSV row per clip: uid, reference, before, after. No cell can start a spreadsheet formula."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["uid", "reference", "before", "after"])
        for after, before in sorted(pairs):
            writer.writerow([spreadsheet_cell(cell) for cell in (after.uid, after.reference, before, after.hypothesis)])


def table(result: Result) -> str:
    """The figures of ``result`` as text: a row for each split, WER and CER before and after in percent."""
    lines = [f"{'':22}{'WER before':>12}{'after':>9}{'cut':>9}{'CER before':>14}{'after':>9}"]
    for split in ("dev", "test"):
        if split in result:
            lines.append(_row(f"{split} ({result['clips'][split]} clips)", result[split]["wer"], result[split]["cer"]))
    native = result["native_mode"]["test"]["wer"]
    lines.append(_row("test, native mode", native))
    return "\n".join(lines)


def _row(name: str, wer: dict[str, float], cer: dict[str, float] | None = None) -> str:
    cut = f"{1 - wer['after'] / wer['before']:.0%}" if wer["before"] else "-"
    row = f"{name:22}{wer['before']:>12.1%}{wer['after']:>9.1%}{cut:>9}"
    return row + (f"{cer['before']:>14.1%}{cer['after']:>9.1%}" if cer else "")


def summary(result: Result, run_dir: Path) -> str:
    """The closing lines of a run: the table, what it took, and where things are."""
    clips: Sequence[int] = list(result["clips"].values())
    return "\n".join(
        [
            "",
            f"{result['model']} specialized on {clips[0]} clips",
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
        ]
    )
