"""A study -> every figure of its report, as plain values for JSON. Knows no model, no page layout and no file.

Fractions stay fractions here; only the sentences are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from asr_lightning import __version__
from asr_lightning.reports.statistics import MIN_GROUPS, Verdict, bootstrap, different_texts, verdict
from asr_lightning.reports.study import Study
from asr_lightning.reports.words import confusions, difference, worst_words
from asr_lightning.scoring.edits import Transcript, UtteranceCounts, count_edits, error_rates, score
from asr_lightning.scoring.rates import Pair
from asr_lightning.scoring.text import Normalizer, none, normalizer

Report = dict[str, Any]

SCHEMA = 1
FEW_WORDS = 100  # below it, one word more or less moves the WER by over a point
LISTED = 15  # confusions and words that a report names
UNITS = {"seconds": "s", "mb": "MB"}
KEPT = "The untouched model was kept"
FLATTERED = (
    "There is no test split: each clip was read by a model that was not trained on it, out of fold. The same texts "
    "chose how far the result steps back towards the untouched model, which flatters the figures a little."
)
NOT_CHOSEN_ON = "Nothing was trained or chosen on them."
STARTS: dict[Verdict, str] = {"better": "Better", "no clear change": "No clear change", "worse": "Worse"}


def build(study: Study) -> Report:
    """Everything that the pages show, ready for ``json.dumps``.

    Raises:
        ValueError: There is no test clip, or no normaliser of that name.
    """
    if not study.test:
        raise ValueError("no test clip to report on: give the test split at least one clip")
    normalize = normalizer(study.normalizer)
    test, canary = section(study.test, normalize), _canary(study)
    report = {
        "schema": SCHEMA,
        "verdict": _verdict(study, test, canary),
        "model": study.model,
        "source": study.source,
        "mode": study.mode,
        "kept_base": study.kept_base,
        "decision": _decision(study),
        "given_up": study.given_up,
        "other_choice": study.other_choice,
        "out_of_fold": study.is_out_of_fold,
        "normalizer": {"name": study.normalizer, "version": f"{study.normalizer} (asr_lightning {__version__})"},
        "test": test,
        "dev": section(study.dev, normalize) if study.dev else None,
        "native": section(study.native, normalize) if study.native else None,
        "canary": canary,
        "silence": {"before": study.silence[0], "after": study.silence[1]} if study.silence else None,
        "confusions": _shown(confusions(study.test, normalize)),
        "worst_words": _shown(worst_words(study.test, normalize)),
        "utterances": _utterances(study.test, normalize),
        "candidates": [asdict(candidate) for candidate in study.candidates],
        "history": [asdict(validation) for validation in study.history],
        "data": _data(study),
        "cost": dict(study.cost),
        "seed": study.seed,
        "versions": {"asr_lightning": __version__, **study.versions},
        "device": study.device,
    }
    return _finite(report)


def section(pairs: Sequence[Pair], normalize: Normalizer) -> Report:
    """Every rate of ``pairs`` before and after, with the interval of the change and the verdict on it."""
    change = bootstrap(pairs, normalize)
    return {
        "clips": len(pairs),
        "words": sum(len(normalize(pair.reference).split()) for pair in pairs),
        "empty_references": sum(not normalize(pair.reference) for pair in pairs),
        "before": _rates([Transcript(p.uid, p.reference, p.before) for p in pairs], normalize),
        "after": _rates([Transcript(p.uid, p.reference, p.after) for p in pairs], normalize),
        "change": asdict(change),
        "verdict": verdict(change),
    }


def sections(report: Report) -> dict[str, Report]:
    """The sections on the speaker's clips, by the names that the pages give them."""
    if report["out_of_fold"]:
        named = {"Out of fold": report["test"], "Out of fold, native mode": report["native"]}
    else:
        named = {"Test": report["test"], "Test, native mode": report["native"], "Dev": report["dev"]}
    return {name: part for name, part in named.items() if part}


def said_of_test(report: Report) -> str:
    """What a reader must know of the test clips."""
    return FLATTERED if report["out_of_fold"] else NOT_CHOSEN_ON


def _rates(transcripts: Sequence[Transcript], normalize: Normalizer) -> Report:
    counts = [count_edits(t.reference, t.hypothesis, normalize) for t in transcripts]
    rates, raw = error_rates(counts), score(transcripts, none)
    return {
        "wer": rates.wer,
        "raw_wer": raw.wer,
        "cer": rates.cer,
        "mean_wer": rates.mean_wer,
        "exact": sum(_exact(count) for count in counts) / len(counts),
        "substitutions": rates.words.substitutions,
        "deletions": rates.words.deletions,
        "insertions": rates.words.insertions,
    }


def _exact(counts: UtteranceCounts) -> bool:
    return counts.words.errors == 0


def _canary(study: Study) -> Report:
    name = study.canary_normalizer or study.normalizer
    modes = {mode: section(pairs, normalizer(name)) for mode, pairs in study.canary.items() if pairs}
    return {"name": study.canary_name, "normalizer": name, "note": study.canary_note, "modes": modes}


def _verdict(study: Study, test: Report, canary: Report) -> Report:
    """The word, the sentence with its start apart, and the warnings; a clear loss on the canary is in the sentence."""
    parts = [_kept_sentence(study, test) if study.kept_base else _test_sentence(study, test)]
    losses = [(mode, part) for mode, part in canary["modes"].items() if part["verdict"] == "worse"]
    if losses:
        mode, part = max(losses, key=lambda loss: loss[1]["change"]["difference"])
        name = canary["name"] or "ordinary speech of other people"
        parts.append(f"On {name} ({mode}) it clearly got worse: {_from_to(part)}.")
    return {
        "word": test["verdict"],
        "start": KEPT if study.kept_base else STARTS[test["verdict"]],
        "canary_loss": bool(losses),
        "sentence": " ".join(parts),
        "warnings": _warnings(study, test),
    }


def _test_sentence(study: Study, test: Report) -> str:
    before, after = test["before"]["wer"], test["after"]["wer"]
    verb = "stayed at" if before == after else "fell" if after < before else "rose"
    figures = percent(after) if before == after else _from_to(test)
    change = test["change"]
    interval = f"95 % interval of the change {points(change['low'])} to {points(change['high'])} points"
    if test["verdict"] == "no clear change" and before != after:
        interval += ", so it may be chance"
    clips = f"on {test['clips']} test clips that it never heard" if test["clips"] > 1 else "on one test clip"
    if study.is_out_of_fold:
        clips = f"on {test['clips']} clips, each read by a model that was not trained on it"
    return f"{STARTS[test['verdict']]}: {clips}, the word error rate {verb} {figures} ({interval})."


def _decision(study: Study) -> str:
    return f"{KEPT}: {study.decision.rstrip('.')}." if study.kept_base else study.decision


def _kept_sentence(study: Study, test: Report) -> str:
    clips = f"{test['clips']} test clips" if test["clips"] > 1 else "one test clip"
    if study.is_out_of_fold:
        clips = f"all {test['clips']} clips"
    return f"{_decision(study)} Its word error rate on {clips} is {percent(test['before']['wer'])}."


def _warnings(study: Study, test: Report) -> list[str]:
    warnings = [FLATTERED] if study.is_out_of_fold and not study.kept_base else []
    if test["words"] < FEW_WORDS:
        more = "clips" if study.is_out_of_fold else "test clips"
        warnings.append(
            f"The test is short: {test['words']} reference words. Every figure here is rough; record more {more}."
        )
    if test["change"]["groups"] < MIN_GROUPS:
        warnings.append(
            f"The test holds {different_texts(test['change']['groups'])}; from fewer than {MIN_GROUPS} no verdict is "
            "drawn. Record more phrases."
        )
    if test["empty_references"]:
        warnings.append(
            f"{test['empty_references']} test clips have no words left after normalisation; whatever is written for "
            "them counts as inserted. Check their transcripts."
        )
    return warnings


def _from_to(part: Report) -> str:
    return f"from {percent(part['before']['wer'])} to {percent(part['after']['wer'])}"


def percent(fraction: float) -> str:
    """``0.0858`` as "8.6 %"."""
    return f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """A change in percentage points with its sign, "-23.4"; no change has none."""
    return f"{100 * fraction:+.1f}" if round(100 * fraction, 1) else "0.0"


def measure(name: str, value: float) -> tuple[str, str]:
    """A cost for people: ``train_seconds``, 85.23 as "Train", "85.2 s"."""
    label, _, unit = name.rpartition("_")
    figure = f"{value:,.1f}".removesuffix(".0")
    if unit not in UNITS or not label:
        return name.replace("_", " ").capitalize(), figure
    return label.replace("_", " ").capitalize(), f"{figure} {UNITS[unit]}"


def _shown(items: Sequence[Any]) -> Report:
    return {"total": len(items), "listed": [item._asdict() for item in items[:LISTED]]}


def _utterances(pairs: Iterable[Pair], normalize: Normalizer) -> list[Report]:
    """Every clip, most errors after first, then by uid."""
    rows = [
        {
            "uid": pair.uid,
            "reference": pair.reference,
            "before": _written(pair.reference, pair.before, normalize),
            "after": _written(pair.reference, pair.after, normalize),
        }
        for pair in pairs
    ]
    return sorted(rows, key=lambda row: (-row["after"]["errors"], row["uid"]))


def _written(reference: str, hypothesis: str, normalize: Normalizer) -> Report:
    pieces = difference(normalize(reference), normalize(hypothesis))
    errors = count_edits(reference, hypothesis, normalize).words.errors
    return {"text": hypothesis, "errors": errors, "pieces": [list(piece) for piece in pieces]}


def _data(study: Study) -> Report:
    return {
        "name": study.data_name,
        "sha256": study.data_sha256,
        "split_sha256": study.split_sha256,
        "clips": dict(study.clips),
        "seconds": dict(study.seconds),
    }


def _finite(value: Any) -> Any:
    """``value`` with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
