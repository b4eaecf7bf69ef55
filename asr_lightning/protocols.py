"""The contract between the training loop and a model family, and nothing else.

An adapter is a plain object that owns a network; no base class. Copy the signatures verbatim:
``python -m asr_lightning check-adapter`` compares them and then checks every promise made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn

from asr_lightning.types import AudioLimits, EvaluationOutput, LossOutput, SpeechBatch, Utterance


class Collator(Protocol):
    """Turns utterances into a batch: tokens, shifted targets, padding, and features that are cheap on a CPU.

    It must be small and picklable, since it is sent to loader workers: it holds tokenizer and audio settings, never the
    model. It must be deterministic: equal utterances give equal batches. Expensive features, such as log-mel, are made
    in ``loss`` and ``transcribe``, on the GPU.
    """

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch ``utterances`` in their order.

        Raises:
            ValueError: A target is longer than ``AudioLimits.max_target_tokens``; the message names the uid.
        """
        ...

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Refuse, before training, transcripts that cannot be targets, and log doubtful ones.

        Args:
            texts: Transcripts, by the name that the user knows each recording by.
            seconds: Length of each recording in seconds, by the same names.

        Raises:
            ValueError: Some transcripts cannot be targets. The message lists them, each with its reason.
        """
        ...


@runtime_checkable
class ASRAdapter(Protocol):
    """A model family behind eleven members: four properties and seven methods.

    Convention for constructors: the first parameter is ``source: str``, a hub id or a directory written by ``save``;
    all others have types and defaults. The constructor loads the model, so a bad source fails before training starts.
    """

    @property
    def model(self) -> nn.Module:
        """The loaded network, with every parameter that the adapter has."""
        ...

    @property
    def source(self) -> str:
        """The origin of the weights, in words, for reports."""
        ...

    @property
    def limits(self) -> AudioLimits:
        """The recordings and texts that this checkpoint accepts."""
        ...

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Prefixes of module paths inside ``model`` for each part that can be frozen; the longest prefix wins.

        Standard names of the parts are frontend, encoder, decoder, joint and head. Every parameter is in exactly one
        group; a tied weight counts once, by the first name that ``model.named_parameters()`` has for it.
        """
        ...

    def collator(self) -> Collator:
        """Make the collator of this adapter's batches."""
        ...

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the mean training loss in float32. Never changes the batch and never logs."""
        ...

    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Decode greedily: return the model's own text of each utterance, in the order of the batch, without gradients.

        Train and eval modes and ``requires_grad`` are afterwards as they were before.
        """
        ...

    def evaluate(self, batch: SpeechBatch) -> EvaluationOutput:
        """Return what ``loss`` and ``transcribe`` return for ``batch``, in eval mode and without gradients.

        This is one call so that an adapter can share the work: the encoder need not run twice for every dev clip.
        """
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Wrap a whole evaluation pass: eval mode inside, and the mode of every submodule restored after it."""
        ...

    def native(self) -> ASRAdapter:
        """Return an adapter over the *same* network that feeds it as upstream does, or ``self`` if that is the same.

        The untouched model is scored through it, so that no gain is flattered: Whisper reads its 30 s window.
        """
        ...

    def save(self, directory: Path) -> None:
        """Write upstream's own format into ``directory``, which is empty or does not exist yet.

        The result can be loaded without this package, and by ``type(self)(str(directory))``.
        """
        ...
