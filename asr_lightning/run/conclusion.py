"""What happens once training is over: choose the weights, save them, score test once, write results and report.

``fit`` and ``specialize`` end here. Knows the adapter's contract and no model.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from asr_lightning.adapters import saved
from asr_lightning.callbacks.keep_best import Validation
from asr_lightning.data.fingerprint import data_sha256, split_sha256
from asr_lightning.datamodules.canary import SPOT_CHECK, Canary
from asr_lightning.protocols import ASRAdapter
from asr_lightning.reports import study as reports
from asr_lightning.reports.write import write
from asr_lightning.run.ends import End
from asr_lightning.run.forgetting import AS_TRAINED, NATIVE, Forgetting
from asr_lightning.run.outcome import Cost, Outcome
from asr_lightning.run.selection import Candidate, Selection, SelectionSettings
from asr_lightning.scoring.comparison import Comparison, Tested, pairs, write_json, write_pairs
from asr_lightning.scoring.edits import score
from asr_lightning.scoring.evaluation import Evaluation
from asr_lightning.scoring.rates import Pair
from asr_lightning.scoring.text import normalizer
from asr_lightning.types import Utterance

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
        run_dir: Its folder.
        model: As the user named it.
        seed: Of everything random.
        comparison: Data, device and normaliser.
        settings: How weights are chosen.
        canary: General speech; None for none.
        live: The adapter that was trained.
        source: The untouched one.
        ends: The weights that training has left.
        validations: The learning curve; empty where there were several.
        base_dev: What the untouched model wrote for dev, natively.
        cost: What the run took so far.
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


@dataclass(frozen=True)
class Choice:
    """What a run hands over, and what else it looked at."""

    selection: Selection
    chosen: Candidate


def choose(run: Finished, forgetting: Forgetting | None = None) -> Choice:
    """Choose the weights, and write ``model/``; test is not read.

    Args:
        run: Trained.
        forgetting: Of an earlier run of the same model, which has read the canary; None reads it where there is one.
    """
    compare = run.comparison
    forgetting = forgetting or _forgetting(run)
    selection = Selection(compare.device, compare.normalize, run.settings, forgetting, run.base_dev)
    return Choice(selection, selection.run(run.live, run.source, run.ends, run.run_dir / "model"))


def report(run: Finished, choice: Choice) -> Outcome:
    """Test the chosen model, and write ``results.json``, ``test_transcripts.csv`` and the report."""
    shipped = saved.load(run.run_dir / "model")
    tested = run.comparison.test(run.source, shipped)
    write_pairs(run.run_dir / "test_transcripts.csv", tested.pairs)
    study = _study(run, choice, tested, _of_silence(run.source.native(), run), _of_silence(shipped, run))
    outcome = Outcome.from_report(write(study, run.run_dir), run.run_dir)
    write_json(run.run_dir / "results.json", outcome.as_results())
    return outcome


def _forgetting(run: Finished) -> Forgetting | None:
    if run.canary is None:
        return None
    settings, normalize = run.settings, normalizer(_canary_normalizer(run))
    return Forgetting(run.canary, run.comparison.device, normalize, settings.canary_limit, settings.canary_weight)


def _canary_normalizer(run: Finished) -> str:
    return (run.canary.normalizer if run.canary else None) or run.comparison.normalizer


def decision(selection: Selection, chosen: Candidate, remark: str = "") -> str:
    """What is handed over and why, and what was given up on either side for it; then ``remark``.

    Where that is the untouched model, the reason alone: the report says the rest.
    """
    remark = f"; {remark}" if remark else ""
    if not chosen.alpha:
        others = sorted(selection.candidates[1:], key=lambda candidate: candidate.order)
        reason = f"{others[0].name} at alpha {others[0].alpha:g} {others[0].note}" if others else chosen.note
        return f"{reason}{remark}."
    far = "" if chosen.alpha == 1 else f" at alpha {chosen.alpha:g}"
    better = min(selection.candidates[1:], key=lambda candidate: candidate.order)
    if better is chosen:
        reason = "the lowest dev WER of all candidates"
    else:
        given_up = 100 * (chosen.wer - better.wer)
        reason = f"which gives up {given_up:.1f} points of dev WER so that other people's speech is not forgotten"
    lost = f"; on the canary the WER changed by {chosen.lost.change.points}" if chosen.lost else ""
    return f"Chosen: {chosen.name}{far}, {reason}{lost}{remark}."


def _canary(selection: Selection, chosen: Candidate) -> dict[str, tuple[Pair, ...]]:
    """Pairs by mode, then those of people apart where machines speak too; none where the canary was not read."""
    guard = selection.forgetting
    if guard is None or chosen.lost is None:
        return {}
    found = {mode: pairs(guard.before, after) for mode, after in chosen.lost.transcripts.items()}
    for mode, everything in tuple(found.items()):
        people = tuple(pair for pair in everything if guard.canary.kind(pair.uid) == "human")
        if 0 < len(people) < len(everything):
            found[f"{mode}, human speech"] = people
    return found


def _of_silence(adapter: ASRAdapter, run: Finished) -> str:
    """What ``adapter`` writes for three seconds in which nobody speaks."""
    rate, device = adapter.limits.sample_rate, run.comparison.device
    noise = torch.randn(int(SILENT_SECONDS * rate), generator=torch.Generator().manual_seed(0)) * SILENT_LEVEL
    adapter.model.to(device)
    (text,) = adapter.transcribe(adapter.collator()([Utterance("silence", noise, rate, "")]).to(device))
    return text


def _study(run: Finished, choice: Choice, tested: Tested, silent_before: str, silent_after: str) -> reports.Study:
    data, selection, chosen = run.comparison.data, choice.selection, choice.chosen
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
        silence=(silent_before, silent_after),
        audio={row.uid: data.audio_dir / row.file_name for row in data.splits["test"]},
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
    """Of the mode that the candidate would be used in; None where it was not read, or not to its end."""
    guard = selection.forgetting
    if guard is None or not guard.before or (candidate.alpha and not (candidate.lost and candidate.lost.complete)):
        return None
    transcripts = next(iter(candidate.lost.transcripts.values())) if candidate.lost else guard.before
    return score(transcripts, guard.normalize).wer


def versions(names: Sequence[str]) -> dict[str, str]:
    """Version of Python and of each installed package among ``names``."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
