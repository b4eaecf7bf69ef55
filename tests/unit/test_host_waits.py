"""Training never waits for its device: whole steps of Lightning on one that cannot be read at all.

A tensor of PyTorch's ``meta`` device has a shape and no content. Whatever asks for content raises there: ``item``,
``if tensor``, ``nonzero``, a boolean index, ``cpu``; on a GPU each of them would make the host wait until everything
that is queued has been computed. A copy to the device waits too, unless it is told not to; those are counted.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils._python_dispatch import TorchDispatchMode

from asr_lightning.adapters.moonshine import MoonshineAdapter
from asr_lightning.adapters.shared import masks
from asr_lightning.adapters.shared.attention_masks import no_host_reads
from asr_lightning.adapters.shared.lora import LoRA
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.callbacks.finite import FiniteGradients
from asr_lightning.conformance import make_batch
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.module import ASRModule
from asr_lightning.training.optim import OptimizerSettings
from asr_lightning.training.step_log import StepLog
from tests.tiny_hf import CTC_KINDS, TRANSDUCER_KINDS, load_tiny, tiny_moonshine, write_tiny
from tests.tiny_models import tiny_whisper

pytestmark = pytest.mark.once
CLIPS = Path(__file__).parents[2] / "examples" / "german_accent" / "clips"
META = torch.device("meta")


class MetaAccelerator(Accelerator):
    """One device without content."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [META]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "meta"


class OnMeta(SingleDeviceStrategy):
    """A single device whose weights stay where they are at the end."""

    def __init__(self) -> None:
        super().__init__(META, accelerator=MetaAccelerator())

    def teardown(self) -> None:
        pass


class Copies(TorchDispatchMode):
    """Counts copies between devices that the host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            devices = {tensor.device for tensor in (*args, result) if isinstance(tensor, torch.Tensor)}
            is_non_blocking = (kwargs or {}).get("non_blocking", False) or args[2:] == (True,)
            self.waited_for += len(devices) > 1 and not is_non_blocking
        return result


class Watch(Callback):
    """Counts from the second batch on: features keep what they need on a device from the first."""

    def __init__(self) -> None:
        self.copies = Copies()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            self.copies.__enter__()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.copies.__exit__(None, None, None)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """As ``devices.send`` does it on CUDA, less the page-locked memory, of which there is none without a GPU."""
    return tensor.to(device, non_blocking=True)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read by choice, every few seconds, is left out; the fused optimizer takes the device for a GPU."""
    monkeypatch.setattr(StepLog, "read", lambda log: log._batches.clear() or {})
    monkeypatch.setattr(FiniteGradients, "_read", lambda callback: callback._unread.clear())
    monkeypatch.setattr(masks, "send", send)
    monkeypatch.setattr("lightning.pytorch.loops.fit_loop.has_len_all_ranks", lambda *_, **__: True)  # before training
    optimizers = sys.modules["torch.optim.optimizer"]  # torch.optim deletes the name
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["meta"])


SEQ2SEQ: dict[str, Callable[[Path], Any]] = {
    "whisper": lambda folder: WhisperAdapter(str(tiny_whisper(folder, multilingual=False))),
    "whisper, masks": lambda folder: WhisperAdapter(
        str(tiny_whisper(folder, multilingual=False)),
        spec_augment=SpecAugment(2, num_freq_masks=2),
        label_smoothing=0.1,
    ),
    "whisper, lora": lambda folder: WhisperAdapter(str(tiny_whisper(folder, multilingual=False)), lora=LoRA(rank=2)),
    "moonshine": lambda folder: MoonshineAdapter(str(tiny_moonshine(folder))),
    "moonshine streaming": lambda folder: MoonshineAdapter(str(tiny_moonshine(folder, streaming=True))),
}


def fit(adapter: Any, data: AudioFolderDataModule) -> tuple[Trainer, Watch]:
    """Two epochs on the device without content, two batches to a step, gradients clipped."""
    watch = Watch()
    trainer = Trainer(
        strategy=OnMeta(), max_epochs=2, accumulate_grad_batches=2,
        gradient_clip_val=1.0, limit_val_batches=0, use_distributed_sampler=False, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[FiniteGradients(), watch],
    )  # fmt: skip
    trainer.fit(ASRModule(adapter, OptimizerSettings(fused=True)), data)
    return trainer, watch


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_no_step_waits_for_the_device(tmp_path: Path, kind: str) -> None:
    for path in sorted(CLIPS.glob("*.txt"))[:16]:
        for of_one in path.parent.glob(f"{path.stem}.*"):
            shutil.copy(of_one, tmp_path)
    adapter = SEQ2SEQ[kind](tmp_path / "model")
    data = AudioFolderDataModule(str(tmp_path), batch_size=2, collator=adapter.collator(), limits=adapter.limits)
    trainer, watch = fit(adapter, data)
    assert trainer.global_step >= 6
    assert watch.copies.waited_for == 0


@pytest.mark.parametrize("kind", [*CTC_KINDS, *TRANSDUCER_KINDS])
def test_no_network_waits_for_the_device(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the loss: PyTorch's CTC copies its lengths, and transformers' TDT and torchaudio's RNNT read theirs."""
    monkeypatch.setattr(masks, "send", send)
    adapter = load_tiny(write_tiny(tmp_path / "model", kind), kind)
    adapter.model.train().to(META)
    batch = make_batch(adapter).to(META)
    for _ in range(2):
        with Copies() as copies:
            if kind in TRANSDUCER_KINDS:
                with no_host_reads(META):
                    out = adapter.model(**adapter.inputs(batch), decoder_input_ids=batch.targets.clamp(min=0)).logits
            else:
                out, _ = adapter._logits(batch)
            out.sum().backward()
    assert copies.waited_for == 0


def test_the_device_would_tell() -> None:
    """The tests above can fail, since each of these operations waits."""
    tensor = torch.ones(3, device=META)
    for wait in (lambda: tensor.sum().item(), lambda: bool(tensor[0]), lambda: tensor[tensor > 0], tensor.cpu):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            wait()
    with Copies() as copies:
        torch.ones(3).to(META)
        torch.ones(3).to(META, non_blocking=True)
    assert copies.waited_for == 1
