"""Conformance checks: does an adapter keep the promises of ``protocols.py``? Knows no model family.

The test suite and ``python -m asr_lightning check-adapter`` run them. A check raises with a reason or returns a note.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from asr_lightning.protocols import ASRAdapter
from asr_lightning.training.groups import group_of, train_only
from asr_lightning.types import LossOutput, SpeechBatch, Utterance

TOLERANCE = 1e-5
TEXTS = ("open the window", "close the old door")


class ConformanceError(AssertionError):
    """An adapter breaks a promise of the contract; the message says which one."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one conformance check; ``detail`` is the reason of a failure, or a note."""

    name: str
    passed: bool
    detail: str = ""


def require(condition: bool, reason: str) -> None:
    """Raise ``ConformanceError(reason)`` unless ``condition``."""
    if not condition:
        raise ConformanceError(reason)


def check_adapter(make: Callable[[], ASRAdapter]) -> Iterator[CheckResult]:
    """Run every conformance check, each on a fresh adapter from ``make``, because some checks train it."""
    for name, check in CHECKS.items():
        try:
            yield CheckResult(name, True, check(make()) or "")
        except Exception as error:
            reason = str(error) if isinstance(error, ConformanceError) else f"{type(error).__name__}: {error}"
            yield CheckResult(name, False, reason)


def utterances(adapter: ASRAdapter, texts: Sequence[str] = TEXTS) -> list[Utterance]:
    """Make bursts of noise of unequal length, one for each text, at the adapter's sample rate; always the same ones."""
    generator = torch.Generator().manual_seed(0)
    rate = adapter.limits.sample_rate
    lengths = [int(rate * (1.2 + 0.7 * number)) for number in range(len(texts))]
    waves = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    return [Utterance(f"check-{n}", wave, rate, text) for n, (wave, text) in enumerate(zip(waves, texts, strict=True))]


def make_batch(adapter: ASRAdapter, texts: Sequence[str] = TEXTS) -> SpeechBatch:
    """Make a batch of ``utterances``."""
    return adapter.collator()(utterances(adapter, texts))


def check_signatures(adapter: ASRAdapter) -> None:
    """Require the members and signatures of the protocol."""
    for name, expected in vars(ASRAdapter).items():
        if name.startswith("_"):
            continue
        require(hasattr(adapter, name), f"member {name!r} is missing")
        if isinstance(expected, property):
            continue
        wanted, actual = _signature(expected), _signature(getattr(type(adapter), name))
        require(wanted == actual, f"{name} differs from the protocol:\n  - {name}{wanted}\n  + {name}{actual}")
    first = next(iter(inspect.signature(type(adapter)).parameters.values()), None)
    require(first is not None and first.name == "source", "the constructor's first parameter must be `source: str`")


def _signature(function: Callable[..., object]) -> str:
    """Return parameters and annotations as text; the parser of the command line needs both as in the protocol."""
    return str(inspect.signature(function)).replace("'", "")


def check_collator_pickles(adapter: ASRAdapter) -> str:
    """Require that the collator can be pickled and holds no model."""
    collator = adapter.collator()
    size = len(pickle.dumps(collator))
    attributes = vars(collator).values() if hasattr(collator, "__dict__") else ()
    require(not any(isinstance(value, nn.Module) for value in attributes), "it holds a model")
    again = pickle.loads(pickle.dumps(collator))(utterances(adapter))
    require(_equal(again, make_batch(adapter)), "a pickled collator makes another batch")
    return f"{size:,} bytes"


def check_batch(adapter: ASRAdapter) -> None:
    """Require that lengths, dtypes and padding of a batch agree."""
    batch = make_batch(adapter)
    require(batch.texts == tuple(TEXTS), f"texts were altered: {batch.texts}")
    tensors = {"seconds": batch.seconds, "targets": batch.targets, "target_lengths": batch.target_lengths}
    for name, tensor in {**tensors, **batch.inputs}.items():
        require(len(tensor) == len(TEXTS), f"{name} has first dimension {len(tensor)}, not {len(TEXTS)}")
        require(tensor.dtype != torch.float64, f"{name} is float64, which MPS lacks")
    require(batch.targets.dtype == torch.int64, f"targets are {batch.targets.dtype}, not int64")
    for row, length in zip(batch.targets, batch.target_lengths.tolist(), strict=True):
        require(bool((row[length:] == -100).all()), "a target after target_lengths is not -100")
        require(int(row[length - 1]) != -100, "the last position inside target_lengths is not scored")


def check_loss(adapter: ASRAdapter) -> None:
    """Require a loss that is a finite float32 scalar with a gradient in every group."""
    adapter.model.train()
    for parameter in adapter.model.parameters():
        parameter.grad = None
    output = adapter.loss(make_batch(adapter))
    require(output.loss.shape == (), f"loss has shape {tuple(output.loss.shape)}, not a scalar")
    require(output.loss.dtype == torch.float32, f"loss is {output.loss.dtype}, not float32")
    require(bool(torch.isfinite(output.loss)), f"loss is {output.loss.item()}")
    require(output.weight > 0, f"weight is {output.weight}; it counts the terms averaged")
    output.loss.backward()
    reached = {group_of(name, adapter.groups) for name, p in adapter.model.named_parameters() if p.grad is not None}
    missing = sorted(set(adapter.groups) - reached)
    require(not missing, f"no gradient reaches the group {', '.join(missing)}")


def check_untouched(adapter: ASRAdapter) -> None:
    """Require that ``loss``, ``transcribe`` and ``evaluate`` change neither batch nor modes nor requires_grad."""
    batch = make_batch(adapter)
    before = batch.clone()
    for training in (True, False):
        adapter.model.train(training)
        state = _state(adapter.model)
        adapter.loss(batch)
        require(_equal(batch, before), "loss changed the batch; clone before masking or adding noise")
        adapter.transcribe(batch), adapter.evaluate(batch)
        require(_equal(batch, before), "transcribe or evaluate changed the batch")
        require(_state(adapter.model) == state, "loss, transcribe or evaluate changed train mode or requires_grad")


def _state(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]


def _equal(left: SpeechBatch, right: SpeechBatch) -> bool:
    pairs = [(left.targets, right.targets), (left.seconds, right.seconds), (left.target_lengths, right.target_lengths)]
    pairs += [(left.inputs[name], right.inputs[name]) for name in right.inputs]
    return left.uids == right.uids and left.texts == right.texts and all(torch.equal(a, b) for a, b in pairs)


def check_groups(adapter: ASRAdapter) -> str:
    """Require that groups partition the parameters and that no group is empty."""
    names = [name for name, _ in adapter.model.named_parameters()]
    owners = {name: group_of(name, adapter.groups) for name in names}
    orphans = [name for name, group in owners.items() if group is None]
    require(not orphans, f"in no group: {', '.join(orphans[:5])}")
    empty = sorted(set(adapter.groups) - set(owners.values()))
    require(not empty, f"no parameter in the group {', '.join(empty)}")
    sizes = {g: sum(p.numel() for n, p in adapter.model.named_parameters() if owners[n] == g) for g in adapter.groups}
    return ", ".join(f"{group} {size:,}" for group, size in sizes.items())


def check_freezing(adapter: ASRAdapter) -> None:
    """Require that a step with all groups but one frozen leaves weights and buffers of the others bit-identical."""
    trainable = {group_of(name, adapter.groups) for name, p in adapter.model.named_parameters() if p.requires_grad}
    trained = next((group for group in adapter.groups if group in trainable), None)  # LoRA may freeze the first one
    if trained is None:
        raise ConformanceError("no parameter is trainable")
    adapter.model.train()
    train_only(adapter, [trained])
    before = copy.deepcopy(adapter.model.state_dict())
    _train(adapter, make_batch(adapter), steps=1)
    changed = [n for n, t in adapter.model.state_dict().items() if not torch.equal(t, before[n])]
    leaked = [name for name in changed if group_of(name, adapter.groups) != trained and not _tied(adapter, name)]
    require(not leaked, f"training {trained} alone changed {', '.join(leaked[:5])}")
    require(bool(changed), f"training {trained} alone changed nothing")


def _tied(adapter: ASRAdapter, name: str) -> bool:
    """Return whether ``name`` is a second name of a parameter, which is listed by its first name."""
    listed = {n for n, _ in adapter.model.named_parameters()} | {n for n, _ in adapter.model.named_buffers()}
    return name not in listed


def _train(adapter: ASRAdapter, batch: SpeechBatch, steps: int, lr: float = 1e-3) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in adapter.model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = adapter.loss(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def check_padding(adapter: ASRAdapter) -> str:
    """Require, if ``padding_invariant``, that the loss of a clip alone equals its loss in a padded batch."""
    both = utterances(adapter)
    collate = adapter.collator()
    with adapter.evaluating():
        together = adapter.loss(collate(both))
        alone = [adapter.loss(collate([utterance])) for utterance in both]
    mean = torch.stack([o.loss * o.weight for o in alone]).sum() / sum(o.weight for o in alone)
    difference = float((together.loss - mean).abs() / mean.abs().clamp(min=1e-12))
    invariant = adapter.limits.padding_invariant
    require(
        not invariant or difference <= TOLERANCE,
        f"padding changes the loss by {difference:.1e} (relative); declare padding_invariant=False or mask the padding",
    )
    return f"relative difference {difference:.1e}, declared {'invariant' if invariant else 'not invariant'}"


def check_save(adapter: ASRAdapter) -> None:
    """Require equal weights and equal text of ``type(adapter)(directory)`` after ``save``, which makes the folder."""
    batch = make_batch(adapter)
    with tempfile.TemporaryDirectory() as temporary:
        adapter.save(directory := Path(temporary, "models", "mine"))
        again: ASRAdapter = type(adapter)(str(directory))  # type: ignore[call-arg]
        before, after = adapter.model.state_dict(), again.model.state_dict()
        require(before.keys() == after.keys(), f"saved keys differ: {sorted(before.keys() ^ after.keys())[:5]}")
        changed = [name for name in before if not torch.equal(before[name].cpu(), after[name].cpu())]
        require(not changed, f"saved weights differ: {', '.join(changed[:5])}")
        require(adapter.transcribe(batch) == again.transcribe(batch), "the saved model writes other text")
        require(adapter.limits == again.limits, f"limits changed: {adapter.limits} became {again.limits}")


def check_learning(adapter: ASRAdapter) -> str:
    """Require that ten steps on two utterances reduce the loss."""
    adapter.model.train()
    losses = _train(adapter, make_batch(adapter), steps=10)
    require(losses[-1] < losses[0], f"ten steps took the loss from {losses[0]:.3f} to {losses[-1]:.3f}")
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f}"


def check_transcribe(adapter: ASRAdapter) -> None:
    """Require a text for each utterance in its order, also for silence, and the same modes after ``evaluating``."""
    clips = utterances(adapter, ("one", "two words", "three short words"))
    clips[1] = replace(clips[1], waveform=torch.zeros_like(clips[1].waveform), text="")
    collate = adapter.collator()
    texts = adapter.transcribe(collate(clips))
    require(len(texts) == 3 and all(isinstance(t, str) for t in texts), f"3 utterances gave {texts!r}")
    if adapter.limits.padding_invariant:
        backwards = adapter.transcribe(collate(clips[::-1]))
        require(texts == backwards[::-1], "the order of the batch changes the texts")
    adapter.model.train()
    before = _state(adapter.model)
    with adapter.evaluating():
        require(not any(m.training for m in adapter.model.modules()), "evaluating() leaves a part in train mode")
    require(_state(adapter.model) == before, "evaluating() does not restore the modes")


def check_evaluate(adapter: ASRAdapter) -> None:
    """Require that ``evaluate`` gives what ``loss`` and ``transcribe`` give, whatever was called before it."""
    batch, native = make_batch(adapter), adapter.native()
    other = native.collator()(utterances(adapter))
    with torch.no_grad(), adapter.evaluating():
        loss, texts, others = adapter.loss(batch), adapter.transcribe(batch), native.loss(other)
    output = adapter.evaluate(batch)
    require(not output.loss.loss.requires_grad, "the loss of evaluate has a gradient: wrap it in torch.no_grad")
    require(_close(output.loss, loss), f"evaluate gives the loss {output.loss.loss.item()}, loss {loss.loss.item()}")
    require(output.texts == texts, f"evaluate writes {output.texts}, transcribe {texts}")
    require(_close(native.evaluate(other).loss, others), "the loss of native() depends on what was asked before it")


def _close(left: LossOutput, right: LossOutput) -> bool:
    return left.weight == right.weight and bool(torch.isclose(left.loss, right.loss, rtol=TOLERANCE, atol=0))


def check_native(adapter: ASRAdapter) -> str:
    """Require that ``native()`` shares the network, and that ``native()`` of it writes the same text."""
    native = adapter.native()
    require(native.model is adapter.model, "native() must share the network, not copy it")
    texts = native.transcribe(native.collator()(utterances(adapter)))
    require(len(texts) == len(TEXTS), f"{len(TEXTS)} utterances gave {len(texts)} texts")
    again = native.native()
    require(again.transcribe(again.collator()(utterances(adapter))) == texts, "native() of native() differs")
    return "itself" if native is adapter else "another input convention"


Check = Callable[[ASRAdapter], "str | None"]
CHECKS: dict[str, Check] = {
    "signatures equal the protocol": check_signatures,
    "collator pickles without the model": check_collator_pickles,
    "batch invariants": check_batch,
    "loss is finite with gradients in every group": check_loss,
    "loss and transcribe change nothing": check_untouched,
    "groups partition the parameters": check_groups,
    "frozen groups stay bit-identical": check_freezing,
    "padding is as declared": check_padding,
    "save and reload": check_save,
    "ten steps reduce the loss": check_learning,
    "transcribe keeps order and length": check_transcribe,
    "evaluate is loss and transcribe": check_evaluate,
    "native input convention": check_native,
}
