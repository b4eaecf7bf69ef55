"""Compiled layers train like plain ones, are used in training steps only, and are restored afterwards."""

from __future__ import annotations

import os
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch._dynamo.utils import counters

from asr_lightning.adapters import saved
from asr_lightning.adapters.shared.lora import LoRA
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.compile_layers import CompileLayers, forward_of
from asr_lightning.callbacks.train_only import TrainOnly
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.module import ASRModule
from asr_lightning.training.optim import OptimizerSettings
from asr_lightning.training.sharded import layers_of
from tests.tiny_hf import load_tiny, write_tiny
from tests.tiny_models import tiny_whisper
from tests.toy_run import toy_data, toy_fit, toy_module

pytestmark = [
    pytest.mark.once,
    # torch 2.11 imports torch.utils.mkldnn when it compiles, whose classes are of the kind that it has deprecated.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method. is deprecated:DeprecationWarning"),
    # It asks every input for its gradient, and hides the warning from all but those who make errors of warnings.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


class Watch(Callback):
    """Remembers losses, and the hooks in which a layer had another forward than its class."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.compiled: set[str] = set()
        self.hooks: set[str] = set()

    def note(self, hook: str, module: ASRModule) -> None:
        self.hooks.add(hook)
        if compiled_layers(module):
            self.compiled.add(hook)

    def on_train_start(self, trainer, pl_module) -> None:
        self.note("start", pl_module)

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        self.note("step", pl_module)
        self.losses.append(loss.item())

    def on_validation_batch_end(self, trainer, pl_module, *_: Any) -> None:
        self.note("validation", pl_module)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.note("epoch", pl_module)


class KeepFirst(Callback):
    """Saves a checkpoint after the first epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def compiled_layers(module: ASRModule) -> list[torch.nn.Module]:
    return [layer for layer in layers_of(module.model) if "forward" in vars(layer)]


def fit(
    adapter: Any, folder: Path, compiled: CompileLayers, *more: Callback, **options: Any
) -> tuple[ASRModule, Watch]:
    """Two epochs of three batches of three clips, with validations in between."""
    seed_everything(0, verbose=False)
    module, watch = ASRModule(adapter, OptimizerSettings(lr=1e-3, schedule="constant")), Watch()
    data = AudioFolderDataModule(str(folder), 3, 1, collator=adapter.collator(), limits=adapter.limits)
    toy_fit(module, data, [compiled, BaselineWER(), watch, *more], **{"max_epochs": 2, **options})
    return module, watch


def load(kind: str, source: Path, **options: Any) -> Any:
    if kind == "whisper":
        return WhisperAdapter(str(source), **options)
    return load_tiny(source, kind, **options)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper(tmp_path_factory.mktemp("whisper") / "tiny", multilingual=False)


@pytest.fixture(scope="module")
def undisturbed(whisper: Path, tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Watch, Path]:
    """Tiny Whisper, compiled, and its checkpoint after one epoch."""
    path = tmp_path_factory.mktemp("kept") / "first.ckpt"
    compiled = CompileLayers(True, backend="aot_eager")
    return *fit(load("whisper", whisper), tones_once, compiled, KeepFirst(path)), path


def assert_equal_runs(found: tuple[Any, Watch], expected: tuple[Any, Watch], atol: float = 1e-5) -> None:
    assert len(expected[1].losses) == 6
    torch.testing.assert_close(found[1].losses, expected[1].losses, rtol=atol, atol=atol)
    ours, theirs = found[0].state_dict(), expected[0].state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=atol, msg=name)


def test_whisper_trains_as_without(undisturbed: Any, whisper: Path, tones_once: Path, tmp_path: Path) -> None:
    """Losses, weights and their names; and the model that is saved is one that loads."""
    module, watch, _ = undisturbed
    assert_equal_runs((module, watch), fit(load("whisper", whisper), tones_once, CompileLayers()))
    (tmp_path / "model").mkdir()
    module.adapter.save(tmp_path / "model")
    read = saved.load(tmp_path / "model").model.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in module.model.state_dict().items())


def test_compiled_in_training_steps_alone(undisturbed: Any) -> None:
    module, watch, _ = undisturbed
    assert watch.hooks == {"start", "step", "validation", "epoch"}
    assert watch.compiled == {"step"}
    assert not compiled_layers(module)


def test_resumed_run_equals_the_undisturbed_one(undisturbed: Any, whisper: Path, tones_once: Path) -> None:
    module, _, checkpoint = undisturbed
    compiled = CompileLayers(True, backend="aot_eager")
    resumed, watch = fit(load("whisper", whisper), tones_once, compiled, ckpt_path=str(checkpoint))
    assert len(watch.losses) == 3
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in module.state_dict().items())


@pytest.mark.once
@pytest.mark.parametrize(
    ("kind", "backend"),
    [("wav2vec2", "aot_eager"), ("moonshine", "eager")],  # aot_eager was equal as well, but takes 9 s more
)
def test_other_families_train_as_without(kind: str, backend: str, tones_once: Path, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "tiny", kind)
    plain = fit(load(kind, source), tones_once, CompileLayers())
    compiled = fit(load(kind, source), tones_once, CompileLayers(True, backend=backend))
    assert compiled[1].compiled == {"step"}
    assert_equal_runs(compiled, plain)


@pytest.mark.once
def test_lora_in_bfloat16_with_frozen_parts(tones_once: Path, tmp_path: Path) -> None:
    """bfloat16 has 8 bits: what rounds elsewhere moves a loss by a thousandth. Merging finds plain layers."""
    source, runs = write_tiny(tmp_path / "tiny", "wav2vec2"), []
    for compiled in (CompileLayers(), CompileLayers(True, backend="eager")):
        adapter = load("wav2vec2", source, lora=LoRA(rank=2))
        runs.append(fit(adapter, tones_once, compiled, TrainOnly(["encoder"]), precision="bf16-mixed"))
    (plain, expected), (module, found) = runs
    assert found.compiled == {"step"}
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-2, atol=0)
    assert list(module.state_dict()) == list(plain.state_dict())
    (tmp_path / "model").mkdir()
    module.adapter.save(tmp_path / "model")
    read, base = saved.load(tmp_path / "model").model, load("wav2vec2", source).model
    assert read.state_dict().keys() == base.state_dict().keys()


class CompileEncoder(CompileLayers):
    """Compiles one kind of layer only, since the second would take another 14 s."""

    def on_train_start(self, trainer, pl_module) -> None:
        super().on_train_start(trainer, pl_module)
        encoder = layers_of(pl_module.model.model.encoder)
        self._compiled = {layer: compiled for layer, compiled in self._compiled.items() if layer in encoder}


@pytest.mark.once
@pytest.mark.skipif(which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler on a CPU")
def test_inductor_trains_as_eager_does(whisper: Path, tones_once: Path, tmp_path: Path, monkeypatch) -> None:
    """The losses differ by rounding, since inductor's kernels add up in another order."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    both = (CompileLayers(), CompileEncoder(True))
    plain, compiled = (fit(load("whisper", whisper), tones_once, one, max_epochs=1)[1] for one in both)
    assert compiled.compiled == {"step"}
    torch.testing.assert_close(compiled.losses, plain.losses, rtol=1e-4, atol=0)


class Fail(Callback):
    """Raises an error inside the third step."""

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        if trainer.global_step == 2:
            raise OSError("disk full")


def test_exception_leaves_layers_as_they_were(whisper: Path, tones_once: Path) -> None:
    """A layer with a forward of its own keeps it in validations and afterwards."""
    adapter = load("whisper", whisper)
    layer = layers_of(adapter.model)[0]
    own = vars(layer)["forward"] = layer.forward
    with pytest.raises(OSError, match="disk full"):
        fit(adapter, tones_once, CompileLayers(True, backend="eager"), Fail())
    assert [layer for layer in layers_of(adapter.model) if "forward" in vars(layer)] == [layer]
    assert vars(layer)["forward"] is own


def test_equal_layers_are_compiled_once() -> None:
    """More than the 8 variants that torch.compile allows."""
    counters.clear()
    functions: dict = {}
    for layer in [torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(10)]:
        torch.compile(forward_of(layer, functions), backend="eager", dynamic=True)(torch.ones(2, 4))
    assert counters["stats"]["unique_graphs"] == 1


def test_kinds_of_layers_are_compiled_apart(whisper: Path) -> None:
    """transformers gives the layers of encoder and decoder one forward, and torch.compile counts by its code."""
    layers, functions = layers_of(load("whisper", whisper).model), {}
    assert len({id(layer.forward.__code__) for layer in layers}) == 1
    first, second, third, fourth = (id(forward_of(layer, functions).__code__) for layer in layers)
    assert first == second != third == fourth


def test_nothing_to_compile(tones: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = toy_module()
    toy_fit(module, toy_data(tones), [CompileLayers(True)])
    assert "the model has no repeated layers: there is nothing to compile" in caplog.text


def test_no_compiler_is_named_before_training(whisper: Path, tones_once: Path, monkeypatch) -> None:
    from torch._inductor import config, cpp_builder

    torch._dynamo.reset()
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    cpp_builder.cpp_compiler_search.cache_clear()
    watch = Watch()
    with pytest.raises(ValueError, match=r"No working C\+\+ compiler found(.|\n)*set --compile.enabled false"):
        fit(load("whisper", whisper), tones_once, CompileLayers(True), watch)
    assert not watch.hooks
    cpp_builder.cpp_compiler_search.cache_clear()


def test_modes_are_of_inductor() -> None:
    with pytest.raises(ValueError, match="reduce-overhead exists only with the backend inductor"):
        CompileLayers(True, "reduce-overhead", "aot_eager")


def test_unknown_backend_is_named(whisper: Path, tones_once: Path) -> None:
    with pytest.raises(ValueError, match="Invalid backend: 'none'"):
        fit(load("whisper", whisper), tones_once, CompileLayers(True, backend="none"))
