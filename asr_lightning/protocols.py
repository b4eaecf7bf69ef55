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
    """Turns utterances into a batch: tokens, shift, padding, and features that need no device.

    Small and picklable, since it travels to loader workers: it holds tokenizer and audio settings, never the model.
    Deterministic: equal utterances give equal batches. Heavy features, such as log-mel, belong into ``loss`` and
    ``transcribe``, where they are made on the GPU.
    """

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch ``utterances`` in their order.

        Raises:
            ValueError: A target is longer than ``AudioLimits.max_target_tokens``; the message names the uid.
        """
        ...

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Find, before training, what the model cannot learn from; log what is doubtful.

        Args:
            texts: Transcripts, by the name that the user knows a recording by.
            seconds: Length of each recording, by the same names.

        Raises:
            ValueError: Lists every transcript that cannot be a target, each with its reason.
        """
        ...


@runtime_checkable
class ASRAdapter(Protocol):
    """One model family behind eleven members: four facts, seven verbs.

    Constructor convention: the first parameter is ``source: str``, a hub id or a directory written by ``save``; the
    rest are typed and have defaults. Loading happens there, so a bad source fails before training starts.
    """

    @property
    def model(self) -> nn.Module:
        """The loaded network with every parameter the adapter has."""
        ...

    @property
    def source(self) -> str:
        """Where the weights came from, in words, for reports."""
        ...

    @property
    def limits(self) -> AudioLimits:
        """What this checkpoint accepts."""
        ...

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Freezable part -> module-path prefixes inside ``model``; the longest prefix wins.

        Standard names: frontend, encoder, decoder, joint, head. Every parameter is in exactly one group; a tied
        weight counts once, where ``model.named_parameters()`` finds it first.
        """
        ...

    def collator(self) -> Collator:
        """The collator that makes this adapter's batches."""
        ...

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Mean training loss in float32. Never changes the batch, never logs."""
        ...

    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Raw model text, greedy, ``B`` strings in input order, without gradients.

        Leaves train and eval modes and ``requires_grad`` as found.
        """
        ...

    def evaluate(self, batch: SpeechBatch) -> EvaluationOutput:
        """``loss`` and ``transcribe`` of ``batch`` in eval mode and without gradients.

        One call, so that an adapter can share the work: the encoder need not run twice for every dev clip.
        """
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Wraps a whole evaluation pass: eval mode inside, every submodule's mode restored after."""
        ...

    def native(self) -> ASRAdapter:
        """An adapter over the *same* network that feeds it as upstream does; ``self`` where that is no different.

        The untouched model is scored through it, so that no gain is flattered (Whisper: the 30 s window).
        """
        ...

    def save(self, directory: Path) -> None:
        """Write upstream's own format into ``directory``, which is empty or will be made.

        Loadable without this package, and by ``type(self)(str(directory))``.
        """
        ...
