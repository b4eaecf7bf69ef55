"""All that a report shows, as plain values. Computes nothing; knows no model, no metric and no file format.

A run fills one ``Study``; ``build`` makes every figure of it, so that the report cannot disagree with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asr_lightning.scoring.rates import Pair


@dataclass(frozen=True)
class Validation:
    """One validation during training.

    Attributes:
        step: Optimizer steps done by then.
        epoch: Passes over the training clips by then, halves included.
        train_loss: Mean loss since the validation before; None at the first.
        dev_loss: Loss on the dev clips.
        dev_wer: Corpus WER on the dev clips, a fraction.
    """

    step: int
    epoch: float
    train_loss: float | None
    dev_loss: float
    dev_wer: float


@dataclass(frozen=True)
class Candidate:
    """One set of weights that could have been shipped.

    Attributes:
        name: For example "epoch 3.5" or "average of the best 4".
        alpha: Share of the specialized weights: 0 is the untouched model, 1 the fully specialized one.
        dev_wer: Corpus WER on the dev clips, a fraction.
        dev_loss: Loss on the dev clips; None where it was not computed.
        canary_wer: Corpus WER on the canary, of the worse mode that was read; None where none was.
        chosen: Whether this one is shipped.
        note: Why it was left out or chosen, in a few words; may be empty.
    """

    name: str
    alpha: float
    dev_wer: float
    dev_loss: float | None = None
    canary_wer: float | None = None
    chosen: bool = False
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A finished run, ready to be reported.

    Attributes:
        model: The model as the user named it.
        source: Where its weights came from.
        normalizer: Name of the text normaliser of every rate that names no other.
        kept_base: Whether the untouched model is shipped.
        decision: One sentence: what was chosen, and why; where the untouched model is kept, the reason alone.
        mode: How the shipped model reads audio, for example "true length" or "30 s window".
        dev: The dev clips, which chose the weights.
        test: The test clips in the shipped mode.
        native: The test clips with both models in the native mode; None where there is only one mode.
        canary: Ordinary speech of other people, by mode; may be empty.
        canary_name: What the canary clips are.
        canary_normalizer: Name of the text normaliser of its rates; empty for that of the others.
        canary_note: What a reader must know of them.
        candidates: The weights that were compared.
        history: The validations, in order.
        clips: Number of clips by split.
        seconds: Length of the audio by split.
        data_name: The data set as the user knows it.
        data_sha256: Hash of the recordings and transcripts.
        split_sha256: Hash of the split.
        cost: Figures such as ``train_seconds``, ``total_seconds`` and ``peak_memory_mb``.
        seed: Random seed of the run.
        versions: Versions of the tools, by name.
        device: Where it was computed.
        silence: Words written for a silent clip, before and after; None where that was not tried.
        audio: Audio files of the test clips, by uid.
        is_out_of_fold: Whether the test clips are those of all folds, each read by a model that was not trained on it.
        given_up: One sentence: which weights are better on dev, and why others were chosen; empty if none are.
        other_choice: The command that takes those weights; empty if there is none.
    """

    model: str
    source: str
    normalizer: str
    kept_base: bool
    decision: str
    mode: str
    dev: tuple[Pair, ...]
    test: tuple[Pair, ...]
    native: tuple[Pair, ...] | None = None
    canary: Mapping[str, tuple[Pair, ...]] = field(default_factory=dict)
    canary_name: str = ""
    canary_normalizer: str = ""
    canary_note: str = ""
    candidates: tuple[Candidate, ...] = ()
    history: tuple[Validation, ...] = ()
    clips: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    data_name: str = ""
    data_sha256: str = ""
    split_sha256: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    silence: tuple[str, str] | None = None
    audio: Mapping[str, Path] = field(default_factory=dict)
    is_out_of_fold: bool = False
    given_up: str = ""
    other_choice: str = ""
