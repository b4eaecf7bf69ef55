"""The smallest complete adapter: a character CTC over spectra that learns four clips in seconds.

It is a test fixture, a smoke test and documentation; ``docs/add_your_own_model.md`` explains it. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

from asr_lightning.adapters import saved
from asr_lightning.adapters.modes import evaluation_mode, loss_and_texts
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.types import AudioLimits, EvaluationOutput, LossOutput, SpeechBatch, Utterance

ALPHABET = "_ 'abcdefghijklmnopqrstuvwxyz"  # position 0 is the CTC blank
SAMPLES = 320  # samples per frame: 40 ms at 8 kHz
BINS = SAMPLES // 2 + 1


class ToyCollator:
    """Makes log spectra of 40 ms frames, and a label for each letter."""

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch ``utterances``; characters outside the alphabet are left out of the targets."""
        features = [self.features(u.waveform) for u in utterances]
        labels = [torch.tensor([ALPHABET.index(c) for c in u.text.lower() if c in ALPHABET[1:]]) for u in utterances]
        return SpeechBatch.of(
            utterances,
            inputs={
                "features": pad_sequence(features, batch_first=True),
                "lengths": torch.tensor([len(f) for f in features]),
            },
            targets=pad_sequence(labels, batch_first=True, padding_value=-100).long(),
            target_lengths=torch.tensor([len(label) for label in labels]),
        )

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Nothing to refuse: what the alphabet lacks is left out."""

    def features(self, waveform: Tensor) -> Tensor:
        """Return log magnitudes ``[F, M = 161]`` of samples ``[T]``; the last frame is filled up with silence."""
        padded = nn.functional.pad(waveform, (0, -len(waveform) % SAMPLES))
        return torch.log1p(torch.fft.rfft(padded.view(-1, SAMPLES)).abs())


class ToyModel(nn.Module):
    """A network of frame-wise layers, so that padding never reaches a true frame."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(BINS, 128), nn.BatchNorm1d(128), nn.SiLU(), nn.Dropout(0.1))
        self.head = nn.Linear(128, len(ALPHABET))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return log-probabilities ``[B, F, V]`` of spectra ``[B, F, M]``; BatchNorm sees true frames only."""
        real = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
        hidden = features.new_zeros(*features.shape[:2], 128)
        hidden[real] = self.encoder(features[real]).to(hidden.dtype)
        return self.head(hidden).log_softmax(-1)


class ToyAdapter:
    """Character CTC on 8 kHz audio.

    Args:
        source: ``toy`` for fresh weights, which are always the same, or a directory written by ``save``.
        max_seconds: Length of the longest clip; longer ones are refused.
    """

    groups: Mapping[str, tuple[str, ...]] = {"encoder": ("encoder",), "head": ("head",)}

    def __init__(self, source: str = "toy", max_seconds: float = 30.0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = ToyModel()
        self.source = source
        if source != "toy":
            self.model.load_state_dict(torch.load(Path(source) / "toy.pt", weights_only=True))
        self.limits = AudioLimits(sample_rate=8000, max_seconds=max_seconds)

    def collator(self) -> Collator:
        """Make a collator, which holds nothing."""
        return ToyCollator()

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the mean CTC loss per utterance."""
        log_probs = self.model(**batch.inputs).transpose(0, 1)
        targets = batch.targets.clamp(min=0)  # CTC goes by the lengths and does not know -100
        lengths = (batch.inputs["lengths"], batch.target_lengths)
        loss = ctc_loss(log_probs, targets, *lengths, reduction="sum", zero_infinity=True) / len(batch)
        return LossOutput(loss, weight=len(batch))

    @torch.no_grad()
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Decode greedily: the best label of each frame, with repeats merged and blanks dropped."""
        with self.evaluating():
            best = self.model(**batch.inputs).argmax(-1).cpu()
        frames = zip(best, batch.inputs["lengths"].tolist(), strict=True)
        labels = (torch.unique_consecutive(row[:length]).tolist() for row, length in frames)
        return ["".join(ALPHABET[i] for i in row if i).strip() for row in labels]

    def evaluate(self, batch: SpeechBatch) -> EvaluationOutput:
        """Return loss and text, which share no work."""
        return loss_and_texts(self, batch)

    def evaluating(self) -> AbstractContextManager[None]:
        """Put the network into eval mode inside the context, and restore the mode of every submodule after it."""
        return evaluation_mode(self.model)

    def native(self) -> ASRAdapter:
        """Return the adapter itself: the toy has only one way of reading audio."""
        return self

    def save(self, directory: Path) -> None:
        """Write ``toy.pt``, a plain state dict."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), directory / "toy.pt")
        saved.describe(directory, self, {"max_seconds": self.limits.max_seconds})
