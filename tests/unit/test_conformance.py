"""Each conformance check fails on an adapter that breaks its promise, and says which."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from asr_lightning import conformance
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.types import AudioLimits, LossOutput, SpeechBatch


class NoSave(ToyAdapter):
    def save(self, directory, extra=None):  # type: ignore[override]
        super().save(directory)


class CollatorWithModel(ToyAdapter):
    def collator(self):
        collator = super().collator()
        collator.model = self.model  # type: ignore[attr-defined]
        return collator


class UnpaddedTargets(ToyAdapter):
    def collator(self):
        return ZeroPadding()


class ZeroPadding:
    def check(self, texts, seconds) -> None:
        pass

    def __call__(self, utterances) -> SpeechBatch:
        batch = ToyAdapter().collator()(utterances)
        return dataclasses.replace(batch, targets=batch.targets.clamp(min=0))


class DoubleLoss(ToyAdapter):
    def loss(self, batch: SpeechBatch) -> LossOutput:
        output = super().loss(batch)
        return LossOutput(output.loss.double(), output.weight)


class FrozenEncoder(ToyAdapter):
    def loss(self, batch: SpeechBatch) -> LossOutput:
        self.model.encoder.requires_grad_(False)
        return super().loss(batch)


class InPlaceNoise(ToyAdapter):
    def loss(self, batch: SpeechBatch) -> LossOutput:
        batch.inputs["features"].add_(0.01)
        return super().loss(batch)


class LeavesEval(ToyAdapter):
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        texts = super().transcribe(batch)
        self.model.eval()
        return texts


class ForgetsHead(ToyAdapter):
    groups = {"encoder": ("encoder",)}  # noqa: RUF012


class EmptyGroup(ToyAdapter):
    groups = {"encoder": ("encoder",), "head": ("head",), "joint": ("joint",)}  # noqa: RUF012


class PaddingMatters(ToyAdapter):
    def loss(self, batch: SpeechBatch) -> LossOutput:
        output = super().loss(batch)
        return LossOutput(output.loss * batch.inputs["features"].shape[1], output.weight)


class SavesOldWeights(ToyAdapter):
    def save(self, directory):
        ToyAdapter().save(directory)


class NeverLearns(ToyAdapter):
    def loss(self, batch: SpeechBatch) -> LossOutput:
        output = super().loss(batch)
        return LossOutput(0 * output.loss, output.weight)


class TextsByPosition(ToyAdapter):
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        return [f"clip {position}" for position in range(len(batch))]


class NativeCopies(ToyAdapter):
    def native(self):
        return ToyAdapter()


def trained(kind: type[ToyAdapter]) -> ToyAdapter:
    adapter = kind()
    with torch.no_grad():
        adapter.model.head.weight.add_(0.01)
    return adapter


@pytest.mark.parametrize(
    ("kind", "check", "reason"),
    [
        (NoSave, "signatures equal the protocol", r"save differs from the protocol:\n  - save.*\n  \+ save.*extra"),
        (CollatorWithModel, "collator pickles without the model", "it holds a model"),
        (UnpaddedTargets, "batch invariants", "a target after target_lengths is not -100"),
        (DoubleLoss, "loss is finite with gradients in every group", "float64, not float32"),
        (FrozenEncoder, "loss is finite with gradients in every group", "no gradient reaches the group encoder"),
        (InPlaceNoise, "loss and transcribe change nothing", "loss changed the batch"),
        (LeavesEval, "loss and transcribe change nothing", "changed train mode"),
        (ForgetsHead, "groups partition the parameters", "in no group: head.weight"),
        (EmptyGroup, "groups partition the parameters", "no parameter in the group joint"),
        (PaddingMatters, "padding is as declared", "declare padding_invariant=False"),
        (SavesOldWeights, "save and reload", "saved weights differ: head.weight"),
        (NeverLearns, "ten steps reduce the loss", "ten steps took the loss"),
        (TextsByPosition, "transcribe keeps order and length", "the order of the batch changes"),
        (NativeCopies, "native input convention", "must share the network"),
    ],
)
def test_a_broken_promise_is_named(kind: type[ToyAdapter], check: str, reason: str) -> None:
    with pytest.raises(conformance.ConformanceError, match=reason):
        conformance.CHECKS[check](trained(kind))


def test_frozen_groups_that_leak_are_named() -> None:
    """A head that updates itself while only the encoder trains."""

    class Leaks(ToyAdapter):
        def loss(self, batch: SpeechBatch) -> LossOutput:
            with torch.no_grad():
                self.model.head.bias.add_(1)
            return super().loss(batch)

    with pytest.raises(conformance.ConformanceError, match=r"training encoder alone changed head.bias"):
        conformance.check_freezing(Leaks())


def test_an_exception_is_a_failure_with_its_type() -> None:
    class Raises(ToyAdapter):
        def __init__(self) -> None:
            super().__init__()
            self.limits = AudioLimits(sample_rate=0)

    results = list(conformance.check_adapter(Raises))
    assert len(results) == len(conformance.CHECKS)
    assert any("Error:" in result.detail for result in results if not result.passed)
