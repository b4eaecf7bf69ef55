"""The result of a run: its figures, its verdict and where its files are. Loads no torch.

``results.json``, the tables and the metrics of a job are all made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr_lightning.reports.statistics import Verdict
from asr_lightning.scoring.rates import Change, Rates


@dataclass(frozen=True)
class Interval:
    """The change of a WER with its confidence interval, as fractions; below zero is better.

    Attributes:
        difference: After minus before.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p_better: Share of the bootstrap's draws in which the WER is lower after.
    """

    difference: float
    low: float
    high: float
    p_better: float

    @classmethod
    def from_section(cls, section: Mapping[str, Any]) -> Interval:
        """The interval in one section of ``report.json``."""
        return cls(**{name: section["change"][name] for name in ("difference", "low", "high", "p_better")})


@dataclass(frozen=True)
class Cost:
    """The time and the memory that a run took.

    Attributes:
        best_epoch: Epoch of the best validation; 0 if there was none.
        train_seconds: Time spent in training steps.
        train_utterances_per_second: Throughput of the training steps.
        validation_seconds: Time spent in validation during training.
        total_seconds: Time since the process started.
        peak_memory_mb: Peak memory of the GPU if one was used, otherwise of the process.
    """

    best_epoch: float
    train_seconds: float
    train_utterances_per_second: float
    validation_seconds: float
    total_seconds: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Scores:
    """How well the model of a run reads the test clips, or all clips out of fold if it has no test split.

    Attributes:
        run_dir: Folder of the run.
        model: The model as the user named it.
        source: Where its weights came from.
        normalizer: Name of the text normaliser of every rate except those of the canary.
        clips: Number of clips in each split.
        test: Rates on the test clips, read in the mode in which the model is used; ``before`` is the untouched model
            in its native mode.
        native: WER on test with both models read natively.
    """

    run_dir: Path
    model: str
    source: str
    normalizer: str
    clips: Mapping[str, int]
    test: Rates
    native: Change

    @property
    def model_dir(self) -> Path:
        """Folder of the model that is handed over, in the format of the model's makers."""
        return self.run_dir / "model"

    def as_results(self) -> dict[str, object]:
        """The content of ``test.json``."""
        return {
            "model": self.model,
            "source": self.source,
            "normalizer": self.normalizer,
            "clips": dict(self.clips),
            "saved": self.model_dir.name,
            "test": self.test.as_dict(),
            "native_mode": {"test": {"wer": self.native._asdict()}},
        }

    @property
    def table(self) -> str:
        """The figures as text: one row for each set of clips, with WER and CER before and after in percent."""
        head = f"{'':22}{'WER before':>12}{'after':>9}{'cut':>9}{'CER before':>14}{'after':>9}"
        return "\n".join([head, *self._rows()])

    def _rows(self) -> list[str]:
        test = _row(f"test ({self.clips['test']} clips)", self.test.wer, self.test.cer)
        return [test, _row("test, native mode", self.native)]


@dataclass(frozen=True)
class Outcome(Scores):
    """A finished run.

    Attributes:
        alpha: Share of the specialized weights in what is handed over; 0 is the untouched model.
        chosen: Name of the weights that were chosen, such as ``average of 4 folds``.
        decision: Why they were chosen, in one sentence.
        verdict: Whether specializing helped, in one or two sentences.
        verdict_word: The verdict in one word.
        dev: Rates on the clips that the weights were chosen by.
        interval: The change on the test clips with its confidence interval.
        canary: Rates on the speech of other people, by mode.
        canary_intervals: Their changes with confidence intervals, by mode.
        cost: Time and memory that the run took.
        is_out_of_fold: Whether there is no test split: dev and test are then both all clips, each read by a model that
            was not trained on it.
        given_up: Which weights are better on dev, and why others were chosen, in one sentence; empty if none are.
        other_choice: The command that takes those weights; empty if there is none.
    """

    alpha: float
    chosen: str
    decision: str
    verdict: str
    verdict_word: Verdict
    dev: Rates
    interval: Interval
    canary: Mapping[str, Rates]
    canary_intervals: Mapping[str, Interval]
    cost: Cost
    is_out_of_fold: bool = False
    given_up: str = ""
    other_choice: str = ""

    @classmethod
    def from_report(cls, report: Mapping[str, Any], run_dir: Path) -> Outcome:
        """The outcome that ``report``, the content of ``report.json`` in ``run_dir``, describes."""
        (chosen,) = (candidate for candidate in report["candidates"] if candidate["chosen"])
        modes = report["canary"]["modes"]
        return cls(
            run_dir=run_dir,
            model=report["model"],
            source=report["source"],
            normalizer=report["normalizer"]["name"],
            clips=report["data"]["clips"],
            test=Rates.from_report(report["test"]),
            native=Rates.from_report(report["native"] or report["test"]).wer,
            alpha=chosen["alpha"],
            chosen=chosen["name"],
            decision=report["decision"],
            verdict=report["verdict"]["sentence"],
            verdict_word=report["verdict"]["word"],
            dev=Rates.from_report(report["dev"]),
            interval=Interval.from_section(report["test"]),
            canary={mode: Rates.from_report(section) for mode, section in modes.items()},
            canary_intervals={mode: Interval.from_section(section) for mode, section in modes.items()},
            cost=Cost(**report["cost"]),
            is_out_of_fold=report.get("out_of_fold", False),  # reports of earlier versions have none of these
            given_up=report.get("given_up", ""),
            other_choice=report.get("other_choice", ""),
        )

    @property
    def report(self) -> Path:
        """The report as a page for a browser."""
        return self.run_dir / "report.html"

    def as_results(self) -> dict[str, object]:
        """The content of ``results.json``."""
        return {
            **super().as_results(),
            "alpha": self.alpha,
            "chosen": self.chosen,
            "decision": self.decision,
            "dev": self.dev.as_dict(),
            "canary": {mode: rates.as_dict() for mode, rates in self.canary.items()},
            **asdict(self.cost),
            "verdict": self.verdict,
            "out_of_fold": self.is_out_of_fold,
            "given_up": self.given_up,
            "other_choice": self.other_choice,
        }

    def as_metrics(self) -> dict[str, object]:
        """The figures that a job of the server or a rented machine shows."""
        canary = {
            mode: {**rates.wer._asdict(), "delta": self.canary_intervals[mode].difference}
            for mode, rates in self.canary.items()
        }
        return {
            **self.test.wer._asdict(),
            "delta": self.interval.difference,
            "interval": [self.interval.low, self.interval.high],
            "p_better": self.interval.p_better,
            "canary": canary or None,
            "verdict": self.verdict,
        }

    def _rows(self) -> list[str]:
        canary = [_row(f"canary, {mode}", rates.wer, rates.cer) for mode, rates in self.canary.items()]
        if self.is_out_of_fold:
            test = _row(f"out of fold ({self.clips['dev']} clips)", self.test.wer, self.test.cer)
            return [test, _row("out of fold, native", self.native), *canary]
        dev = _row(f"dev ({self.clips['dev']} clips)", self.dev.wer, self.dev.cer)
        return [dev, *super()._rows(), *canary]

    @property
    def summary(self) -> str:
        """The closing lines of a run: the table, its cost, the paths of its files, and the verdict."""
        cost = self.cost
        return "\n".join(
            [
                "",
                f"{self.model} specialized on {self.clips['train']} clips",
                f"weights from: {self.source}",
                "",
                self.table,
                "",
                f"training {cost.train_seconds:.0f} s ({cost.train_utterances_per_second:.1f} utterances/s), "
                f"validation {cost.validation_seconds:.0f} s, whole run {cost.total_seconds:.0f} s, "
                f"peak memory {cost.peak_memory_mb:.0f} MB",
                f"model:   {self.model_dir}",
                f"results: {self.run_dir / 'results.json'}",
                f"texts:   {self.run_dir / 'test_transcripts.csv'}",
                f"report:  {self.report}",
                "",
                *([self.decision] if self.alpha else []),  # else the verdict begins with it
                *([self.given_up] if self.given_up else []),
                *([f"To take it instead: {self.other_choice}"] if self.other_choice else []),
                self.verdict,
            ]
        )


def _row(name: str, wer: Change, cer: Change | None = None) -> str:
    cut = f"{wer.cut:.0%}" if wer.before else "-"
    row = f"{name:22}{wer.before:>12.1%}{wer.after:>9.1%}{cut:>9}"
    return row + (f"{cer.before:>14.1%}{cer.after:>9.1%}" if cer else "")
