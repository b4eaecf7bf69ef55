"""A model in torch as a model in a runtime: any adapter behind ``RuntimeModel``. Knows the contract and no family.

``recognizer.py`` imports it only when a model is loaded that needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from asr_lightning.adapters import registry, saved
from asr_lightning.errors import OptionError
from asr_lightning.protocols import ASRAdapter
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples
from asr_lightning.scoring.evaluation import transcribe_all
from asr_lightning.training.devices import accelerator_in_use
from asr_lightning.types import SpeechBatch, Utterance

DEVICES = ("auto", "gpu", "cpu", "cuda", "mps")


class TorchModel:
    """An adapter that reads clips on a device. It reads greedily, and tells neither the times of words nor confidence.

    Clips of similar length share a batch, as in training. Where padding is heard (``limits.padding_invariant``), a text
    may differ in a word from that of the clip alone.

    Args:
        adapter: Adapter of the model, of any family, which reads audio as it should be read.
        device: Device that the model runs on: auto, cpu, cuda or mps.
        batch_size: Number of clips that are read at once, at most.

    Raises:
        ValueError: ``batch_size`` is below 1.
        OptionError: There is no such device here.
    """

    def __init__(self, adapter: ASRAdapter, device: str = "auto", batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.adapter = adapter
        self.device = _available_device(device)
        self.batch_size = batch_size
        self.sample_rate = adapter.limits.sample_rate
        self.min_seconds = adapter.limits.min_seconds
        self.max_seconds = adapter.limits.max_seconds
        self.language: str | None = getattr(adapter, "language", None)  # of multilingual families only
        adapter.model.to(self.device)

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order."""
        adapter = self.adapter.native() if decoding.native else self.adapter
        order = sorted(range(len(clips)), key=lambda index: len(clips[index]))
        texts = [""] * len(clips)
        read = transcribe_all(adapter, self._batches(adapter, clips, order), self.device)
        for index, transcript in zip(order, read, strict=True):
            texts[index] = transcript.hypothesis
        return [Hypothesis(text) for text in texts]

    def _batches(self, adapter: ASRAdapter, clips: Sequence[Samples], order: list[int]) -> Iterator[SpeechBatch]:
        collate = adapter.collator()
        for start in range(0, len(order), self.batch_size):
            group = order[start : start + self.batch_size]
            yield collate([Utterance(str(i), torch.from_numpy(clips[i]), self.sample_rate, text="") for i in group])


def load(model: str, device: str, language: str | None, native: bool, batch_size: int, threads: int) -> TorchModel:
    """Load a model from a folder or by its name.

    Args:
        model: A model folder, or a name that ``python -m asr_lightning models`` lists.
        device: Device that the model runs on: auto, cpu, cuda or mps.
        language: Language that a multilingual model reads, if it was not saved with one.
        native: Read audio as the makers of the model do. A model that nobody has specialized is always read this way:
            at true length an untouched Whisper repeats itself.
        batch_size: Number of clips that are read at once, at most.
        threads: Number of CPU threads; 0 leaves it to torch.

    Raises:
        ValueError: There is no such model or device, or the model cannot be loaded.
    """
    if threads:
        torch.set_num_threads(threads)
    adapter = registry.build(model, **({"language": language} if language else {}))
    # Of what was loaded: a folder here may have the name of a model, and a model's card may name a specialized folder.
    is_specialized = saved.record(registry.choose(model).source) is not None
    if native or not is_specialized:
        adapter = adapter.native()
    found = TorchModel(adapter, device, batch_size)
    found.language = found.language or registry.language(model, language)
    return found


def _available_device(requested: str) -> str:
    """The device that ``requested`` stands for.

    Raises:
        OptionError: It is none that this package knows, or this machine does not have it.
    """
    kind = requested.partition(":")[0]
    missing = (kind == "cuda" and not torch.cuda.is_available()) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )
    if kind not in DEVICES or missing:
        raise OptionError(f"there is no device {requested!r} here: take --device auto, or --device cpu", "device")
    return accelerator_in_use(requested)
