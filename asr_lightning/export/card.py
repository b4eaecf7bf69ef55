"""The model card: a README.md that says what a model is, how good it is, for whom, and whose voice is in it.

It never has recordings, texts, names of folders or paths, which may name the person. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from asr_lightning import __version__
from asr_lightning.adapters import registry
from asr_lightning.errors import ModelError
from asr_lightning.export.place import REPORT, Export, Place
from asr_lightning.run.outcome import Outcome
from asr_lightning.runtime.formats import FORMATS
from asr_lightning.runtime.languages import language_of

FILE_NAME = "README.md"
TASK = "automatic-speech-recognition"
LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC-BY-4.0": "cc-by-4.0", "CC-BY-NC-4.0": "cc-by-nc-4.0"}
"""Licences of base models by the names that the hub has for them."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HOME = "https://github.com/ktomanek/asr_specialization"
SPEECH = "held-out recordings of the same person"
PRIVACY = """\
This model was made from recordings of one person's voice, so it is **personal data** of that person.

- It should be passed on, hosted or trained further only with that person's consent, for the purpose they agreed to.
- Phrases that it was trained on can be recovered from it, at least in part: whoever has the weights can learn the
  names, places and habits that were in them.
- It shows how the person speaks, which may say something about their origin or health.
- Keep it private unless the person has decided otherwise, and delete it and every copy when they ask."""
USE_MODEL = """\
```
hf download {name} --local-dir model
pip install 'asr-lightning[train]'
python -m asr_lightning transcribe note.wav --model model
```"""
USE_EXPORT = """\
```
hf download {name} --local-dir model
pip install 'asr-lightning[{extra}]'
python -m asr_lightning transcribe note.wav --model model
```"""
USE_OTHERS = """\
```
hf download {name} --local-dir model    # then give the folder model, or the file in it, to {used_by}
```"""


def card_text(place: Place, name: str) -> str:
    """Return the model card of ``place``.

    Args:
        place: The model or the export.
        name: Its name where it is passed on, such as ``owner/name``.

    Raises:
        MissingExtraError: The package that writes the metadata is not installed.
        ModelError: The report of its run cannot be read.
    """
    from asr_lightning.errors import require_extra

    require_extra("train", "huggingface_hub", "a model card")
    from huggingface_hub import ModelCardData

    report = _report(place)
    base = base_of(place, report)
    language = (language_of(place.model) if place.model is not None else None) or language_of(place.folder)
    outcome = Outcome.from_report(report, place.folder) if report is not None else None
    data = ModelCardData(
        base_model=base,
        eval_results=_results(outcome, report) if outcome is not None and report is not None else None,
        language=language,
        library_name=_library(place),
        model_name=name.rpartition("/")[2],
        pipeline_tag=TASK,
        tags=["asr_lightning", "speech-recognition", "personalized", *([place.record.format] if place.record else [])],
        **_licence(base),
    )
    sections = [f"# {name.rpartition('/')[2]}", _introduction(base, language)]
    if outcome is not None and report is not None:
        sections += ["## How good it is", *_figures(outcome, report)]
        sections += ["## What it was trained on", _data(report)]
    if place.exports():
        sections += ["## Exports", _exports(place)]
    sections += ["## How to use it", *_use(place, name)]
    sections += ["## Intended use", _intended(), "## Privacy", PRIVACY]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def base_of(place: Place, report: Mapping[str, Any] | None) -> str | None:
    """Return the hub id of the untouched model; None if it has none, since a path may name a person."""
    named = str(report["model"]) if report is not None else place.record.model if place.record is not None else ""
    card = registry.card_of(named)
    source = card.source if card is not None else named
    return source if HUB_ID.fullmatch(source) else None


def _report(place: Place) -> Mapping[str, Any] | None:
    from asr_lightning.adapters.model_files import read_object

    if place.run_dir is None:
        return None
    report = read_object(place.run_dir / REPORT)
    try:
        Outcome.from_report(report, place.run_dir)
        report["data"]["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{place.run_dir / REPORT} cannot be read ({error!r}): run fit --ckpt_path last again"
        ) from error
    return report


def _licence(base: str | None) -> dict[str, Any]:
    card = registry.card_of(base) if base is not None else None
    if card is None:
        return {}
    if card.licence in LICENCES:
        return {"license": LICENCES[card.licence]}
    return {
        "license": "other",
        "license_name": card.licence.lower().replace(" ", "-"),
        "license_link": f"https://huggingface.co/{card.source}",
    }


def _library(place: Place) -> str:
    if place.record is not None:
        return place.record.format
    return "nemo" if any(path.suffix == ".nemo" for path in place.folder.iterdir()) else "transformers"


def _results(outcome: Outcome, report: Mapping[str, Any]) -> list[Any]:
    """WER before and after, in percent, as the hub's metadata have it."""
    from huggingface_hub import EvalResult

    args = {"normalizer": report["normalizer"]["version"]}
    wer = outcome.test.wer
    names = {"WER": wer.after, "WER of the untouched model": wer.before}
    return [
        EvalResult(
            task_type=TASK,
            dataset_type="private",
            dataset_name=SPEECH,
            dataset_split="all, out of fold" if outcome.is_out_of_fold else "test",
            dataset_revision=report["data"]["sha256"],
            metric_type="wer",
            metric_name=metric,
            metric_value=round(100 * value, 2),
            metric_args=args,
        )
        for metric, value in names.items()
    ]


def _introduction(base: str | None, language: str | None) -> str:
    of = f"[{base}](https://huggingface.co/{base})" if base is not None else "a speech recogniser"
    spoken = f", who speaks `{language}`" if language else ""
    return (
        f"{of}, specialized to the voice of one person{spoken}, with [asr_lightning]({HOME}) {__version__}. A "
        "model that was made for one person may read other people worse."
    )


def _figures(outcome: Outcome, report: Mapping[str, Any]) -> Iterator[str]:
    wer, interval, section = outcome.test.wer, outcome.interval, report["test"]
    where = "out of fold, by models that were not trained on them" if outcome.is_out_of_fold else "never trained on"
    rows = [f"| this person, {section['clips']} clips, {section['words']} words | {_row(wer)} |"]
    rows += [f"| {_canary_name(report)}, {mode} | {_row(rates.wer)} |" for mode, rates in outcome.canary.items()]
    yield "| | WER before | WER after |\n|---|---|---|\n" + "\n".join(rows)
    yield (
        f"WER is the word error rate: the lower, the better. The clips of this person were {where}. The WER changed by "
        f"{100 * interval.difference:+.1f} points, with a 95 % interval from {100 * interval.low:+.1f} to "
        f"{100 * interval.high:+.1f} (paired bootstrap over distinct texts). Texts were normalised with "
        f"`{report['normalizer']['version']}`{_canary_normalizer(report)}. Before is the untouched model, read as its "
        "makers do."
    )
    if outcome.alpha == 0:
        yield "**The untouched model was kept**, since no specialized weights were clearly better."


def _row(wer: Any) -> str:
    return f"{100 * wer.before:.1f} % | {100 * wer.after:.1f} %"


def _canary_name(report: Mapping[str, Any]) -> str:
    """The name of a bundled canary. That of a user's own may be a path."""
    name = str(report["canary"].get("name") or "")
    return f"other people ({name})" if name.startswith("bundled ") else "other people"


def _canary_normalizer(report: Mapping[str, Any]) -> str:
    normalizer = report["canary"].get("normalizer")
    return f", those of other people with `{normalizer}`" if report["canary"]["modes"] and normalizer else ""


def _data(report: Mapping[str, Any]) -> str:
    data = report["data"]
    minutes = sum(data["seconds"].values()) / 60
    clips = ", ".join(f"{count} for {split}" for split, count in data["clips"].items())
    return (
        f"{minutes:.0f} minutes of one person: {clips}. The recordings and their texts are not published. SHA-256 of "
        f"the data `{data['sha256']}`, of the split `{data['split_sha256']}`."
    )


def _exports(place: Place) -> str:
    """A table of the exports with what was measured in the runtime of each."""
    head = "| export | size | WER there | WER in torch | equal texts | ms a clip | for |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *map(_export_row, place.exports())])


def _export_row(export: Export) -> str:
    record, megabytes = export
    used_by = next((known.used_by for known in FORMATS if known.name == record.format), "")
    measured = record.measured
    figures = (
        "not run here | | | |"
        if measured is None
        else f"{measured.wer:.1%} | {measured.torch_wer:.1%} | {measured.same_text:.0%} | {measured.median_ms:.0f} |"
    )
    return f"| {record.format}, {record.variant} | {megabytes:.0f} MB | {figures} {used_by} |"


def _use(place: Place, name: str) -> Iterator[str]:
    if place.record is None:
        yield USE_MODEL.format(name=name)
        return
    target = next((known for known in FORMATS if known.name == place.record.format), None)
    modules = target.modules.get(place.record.family) if target is not None else None
    if target is None or modules is None or modules.runtime is None:
        yield USE_OTHERS.format(name=name, used_by=target.used_by if target is not None else place.record.format)
        return
    of_runtime = {"ctranslate2", "onnxruntime", "tokenizers"}
    yield USE_EXPORT.format(name=name, extra="runtime" if of_runtime.issuperset(target.packages) else "export")
    yield f"It is also read by {target.used_by}."
    if place.record.note:
        yield place.record.note


def _intended() -> str:
    return (
        "Transcribing what this one person says, on their own devices or for them: dictation, notes, voice control. It "
        "is not meant for other speakers, for recognising who speaks, or for decisions about anybody. Like every "
        "speech recogniser it makes mistakes, above all with names and in noise: have a person check what matters."
    )
