"""The end of a run: chooses the weights, saves them, scores test once, and writes results and report.

Knows the adapter contract and no model.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from asr_lightning.adapters import saved
from asr_lightning.callbacks.keep_best import Validation
from asr_lightning.data.fingerprint import data_sha256, split_sha256
from asr_lightning.datamodules.canary import SPOT_CHECK, Canary
from asr_lightning.protocols import ASRAdapter
from asr_lightning.reports import study as reports
from asr_lightning.reports.write import write
from asr_lightning.run import out_of_fold
from asr_lightning.run.ends import End
from asr_lightning.run.forgetting import AS_TRAINED, NATIVE, Forgetting
from asr_lightning.run.outcome import Cost, Outcome
from asr_lightning.run.price import price_of
from asr_lightning.run.selection import Candidate, Selection, SelectionSettings
from asr_lightning.scoring.comparison import Comparison, Tested, pairs, write_pairs, write_readable_json
from asr_lightning.scoring.edits import score
from asr_lightning.scoring.evaluation import Evaluation
from asr_lightning.scoring.rates import Pair
from asr_lightning.scoring.text import normalizer
from asr_lightning.types import Utterance

logger = logging.getLogger(__name__)

TOOLS = ("torch", "lightning", "transformers", "nemo_toolkit", "jiwer", "numpy")
TWO_MODES = (
    "Before is the untouched model in its native mode, the one that it was made for, whatever the mode after. "
    f"Natively, one clip in {SPOT_CHECK} was read after."
)
OUT_OF_FOLD = "dev is out of fold: each clip was read by a model that was not trained on it"
SILENT_SECONDS = 3.0
SILENT_LEVEL = 1e-4  # -80 dBFS: no microphone gives zeros


@dataclass(frozen=True)
class Finished:
    """A run that has been trained.

    Attributes:
        run_dir: Folder of the run.
        model: The model as the user named it.
        seed: Seed of every random choice.
        comparison: Scores models on the splits of the data.
        settings: How the weights are chosen.
        canary: Speech of other people; None for a run without a canary.
        live: The adapter that was trained.
        source: The adapter of the untouched model.
        ends: The specialized weights that training has left.
        validations: All validations of the training; empty for folds, each of which has its own.
        base_dev: Transcripts and loss of the untouched model on dev, in its native mode.
        cost: Computes the cost of the run so far.
        can_choose_again: Whether the weights can be chosen again in ``run_dir``, by ``fit --ckpt_path last``.
    """

    run_dir: Path
    model: str
    seed: int
    comparison: Comparison
    settings: SelectionSettings
    canary: Canary | None
    live: ASRAdapter
    source: ASRAdapter
    ends: tuple[End, ...]
    validations: Sequence[Validation]
    base_dev: Evaluation
    cost: Callable[[], Cost]
    can_choose_again: bool = True

    @property
    def is_out_of_fold(self) -> bool:
        """Whether there is no test split, so that the texts out of fold are the test."""
        return not self.comparison.data.splits["test"]


@dataclass(frozen=True)
class Choice:
    """The candidate that a run hands over, and the selection with all others."""

    selection: Selection
    chosen: Candidate


def choose(run: Finished, forgetting: Forgetting | None = None) -> Choice:
    """Choose the weights, and write ``model/``; test is not read.

    Args:
        run: The run after training.
        forgetting: The measure of an earlier run of the same model, which has read the canary already; None for a
            new one.
    """
    compare = run.comparison
    forgetting = forgetting or _forgetting(run)
    selection = Selection(compare.device, compare.normalize, run.settings, forgetting, run.base_dev)
    return Choice(selection, selection.run(run.live, run.source, run.ends, run.run_dir / "model"))


def report(run: Finished, choice: Choice) -> Outcome:
    """Test the chosen model, and write ``results.json``, ``test_transcripts.csv`` and the report."""
    shipped = saved.load(run.run_dir / "model")
    silent = _silence_text(run.source.native(), run), _silence_text(shipped, run)
    if run.is_out_of_fold:
        tested = out_of_fold.tested(run.comparison, run.ends[0], choice.selection, choice.chosen, shipped)
    else:
        logger.info("the untouched and the chosen model read %d test clips", run.comparison.clips["test"])
        tested = run.comparison.test(run.source, shipped)
    write_pairs(run.run_dir / "test_transcripts.csv", tested.pairs)
    study = _study(run, choice, tested, silent)
    outcome = Outcome.from_report(write(study, run.run_dir), run.run_dir)
    write_readable_json(run.run_dir / "results.json", outcome.as_results())
    return outcome


def _forgetting(run: Finished) -> Forgetting | None:
    if run.canary is None:
        return None
    settings, normalize = run.settings, normalizer(_canary_normalizer(run))
    return Forgetting(run.canary, run.comparison.device, normalize, settings.canary_limit, settings.canary_weight)


def _canary_normalizer(run: Finished) -> str:
    return (run.canary.normalizer if run.canary else None) or run.comparison.normalizer


def decision(selection: Selection, chosen: Candidate, remark: str = "") -> str:
    """A sentence on what is handed over, why, and what is given up for it; then ``remark``.

    For the untouched model it is the reason alone, because the report says the rest.
    """
    remark = f"; {remark}" if remark else ""
    if not chosen.alpha:
        others = sorted(selection.candidates[1:], key=lambda candidate: candidate.order)
        reason = f"{others[0].name} at alpha {others[0].alpha:g} {others[0].note}" if others else chosen.note
        return f"{reason}{remark}."
    far = "" if chosen.alpha == 1 else f" at alpha {chosen.alpha:g}"
    better = min(selection.candidates[1:], key=lambda candidate: candidate.order)
    lowest = "the lowest dev WER of all candidates"
    reason = lowest if better is chosen else f"with {100 * chosen.wer:.1f} % WER on dev"
    lost = f"; on the canary the WER changed by {chosen.lost.change.points}" if chosen.lost else ""
    return f"Chosen: {chosen.name}{far}, {reason}{lost}{remark}."


def _canary(selection: Selection, chosen: Candidate) -> dict[str, tuple[Pair, ...]]:
    """The pairs of the canary by mode; empty if it was not read.

    If it holds synthetic clips too, those of people are listed separately as well.
    """
    guard = selection.forgetting
    if guard is None or chosen.lost is None:
        return {}
    modes = {mode: pairs(guard.before, after) for mode, after in chosen.lost.transcripts.items()}
    for mode, everything in tuple(modes.items()):
        people = tuple(pair for pair in everything if guard.canary.kind(pair.uid) == "human")
        if 0 < len(people) < len(everything):
            modes[f"{mode}, human speech"] = people
    return modes


def _silence_text(adapter: ASRAdapter, run: Finished) -> str:
    """The transcript of ``adapter`` for three seconds without speech."""
    rate, device = adapter.limits.sample_rate, run.comparison.device
    noise = torch.randn(int(SILENT_SECONDS * rate), generator=torch.Generator().manual_seed(0)) * SILENT_LEVEL
    adapter.model.to(device)
    (text,) = adapter.transcribe(adapter.collator()([Utterance("silence", noise, rate, "")]).to(device))
    return text


def _study(run: Finished, choice: Choice, tested: Tested, silent: tuple[str, str]) -> reports.Study:
    data, selection, chosen = run.comparison.data, choice.selection, choice.chosen
    price = price_of(selection, chosen)
    return reports.Study(
        model=run.model,
        source=run.source.source,
        normalizer=run.comparison.normalizer,
        kept_base=not chosen.alpha,
        decision=decision(selection, chosen, OUT_OF_FOLD if any(len(end.parts) > 1 for end in run.ends) else ""),
        mode=AS_TRAINED if chosen.alpha and tested.native else NATIVE,
        dev=pairs(run.base_dev.transcripts, chosen.dev.transcripts),
        test=tested.pairs,
        native=tested.native,
        canary=_canary(selection, chosen),
        canary_name=run.canary.name if run.canary else "",
        canary_normalizer=_canary_normalizer(run),
        canary_note=_canary_note(selection, two_modes=tested.native is not None),
        candidates=tuple(_candidate(candidate, selection) for candidate in selection.candidates),
        history=tuple(reports.Validation(v.step, v.epoch, v.train_loss, v.loss, v.wer) for v in run.validations),
        clips=run.comparison.clips,
        seconds={split: sum(data.dataset(split).seconds) for split in data.splits},
        data_name=str(data.audio_dir),
        data_sha256=data_sha256(data.audio_dir, data.splits),
        split_sha256=split_sha256(data.splits),
        cost=asdict(run.cost()),
        seed=run.seed,
        versions=versions(TOOLS),
        device=str(run.comparison.device),
        silence=silent,
        audio={row.uid: data.audio_dir / row.file_name for row in data.splits["test"] or data.splits["dev"]},
        is_out_of_fold=run.is_out_of_fold,
        given_up=price.sentence if price else "",
        other_choice=price.command(run.run_dir) if price and run.can_choose_again else "",
    )


def _canary_note(selection: Selection, two_modes: bool) -> str:
    note = selection.forgetting.note if selection.forgetting else ""
    return note or (TWO_MODES if two_modes else "")


def _candidate(candidate: Candidate, selection: Selection) -> reports.Candidate:
    return reports.Candidate(
        name=candidate.name,
        alpha=candidate.alpha,
        dev_wer=candidate.wer,
        dev_loss=candidate.dev.loss,
        canary_wer=_canary_wer(candidate, selection),
        chosen=candidate.chosen,
        note=candidate.note,
    )


def _canary_wer(candidate: Candidate, selection: Selection) -> float | None:
    """WER on the canary in the mode in which the candidate would be used; None if it was not read completely."""
    guard = selection.forgetting
    if guard is None or not guard.before or (candidate.alpha and not (candidate.lost and candidate.lost.complete)):
        return None
    transcripts = next(iter(candidate.lost.transcripts.values())) if candidate.lost else guard.before
    return score(transcripts, guard.normalize).wer


def versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of the installed packages among ``names``."""
    installed = {"python": platform.python_version()}
    for name in names:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
