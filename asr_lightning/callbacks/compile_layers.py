"""torch.compile for the layers of a model, in training steps alone. Knows no model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import isfunction
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from asr_lightning.training.sharded import layers_of

logger = logging.getLogger(__name__)

Forward = Callable[..., Any]


class CompileLayers(Callback):
    """Compile each layer of the encoder and of the decoder with torch.compile, for training steps only.

    Equal layers share what is compiled. Scoring and decoding stay as they are, and so do names, checkpoints and saved
    models. The budget of a run times steps that are not compiled.

    Args:
        enabled: Compile the layers. The start takes half a minute longer or more, so only long runs can gain.
        mode: What torch.compile tunes for, with the inductor backend; reduce-overhead and max-autotune use CUDA
            graphs on a GPU, one for each shape of a batch.
        backend: Of torch.compile. inductor needs a C++ compiler on a CPU, and Triton and a C compiler on a GPU.
    """

    def __init__(
        self,
        enabled: bool = False,
        mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default",
        backend: str = "inductor",
    ) -> None:
        if mode != "default" and backend != "inductor":
            raise ValueError(f"compile.mode {mode} is one of the backend inductor, not of {backend}")
        self.enabled = enabled
        self.mode = mode
        self.backend = backend
        self._compiled: dict[nn.Module, Forward] = {}
        self._own: dict[nn.Module, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out whether anything can be compiled here, before anything is scored or trained.

        Raises:
            ValueError: Nothing can, and why.
        """
        if not self.enabled or stage != "fit":
            return
        if layers := _composed(pl_module.model):
            self._try_backend(trainer.strategy.root_device)
            logger.info("compiling %d layers of %d kinds", len(layers), len({type(layer) for layer in layers}))
        else:
            logger.warning("the model has no repeated layers: there is nothing to compile")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare each layer, after FSDP has given it another class; it is compiled when it is first called.

        Batches differ in length. By default torch compiles the first shape for itself and others as they come, which
        for wav2vec2 exceeds its 8 variants, and depends on where a run was resumed: hence ``dynamic``.
        """
        if self.enabled:
            compiler = torch.compile(dynamic=True, backend=self.backend, mode=self.mode)
            functions: dict[type, FunctionType] = {}
            self._compiled = {layer: compiler(forward_of(layer, functions)) for layer in _composed(pl_module.model)}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Compiled from here on: as an attribute of each layer, below its hooks, and no part of its state."""
        if self._compiled:
            # Otherwise each layer without gradients would begin a step, and overwrite what the one before it gave:
            # https://docs.pytorch.org/docs/stable/generated/torch.compiler.cudagraph_mark_step_begin.html
            torch.compiler.cudagraph_mark_step_begin()
        for layer, compiled in self._compiled.items():
            if vars(layer).get("forward") is not compiled:
                self._own[layer] = vars(layer).get("forward")
                vars(layer)["forward"] = compiled

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks may follow. A decoder's cache grows token by token: compiled, it would be compiled each time."""
        self._take_out()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the layers as they were."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """For good."""
        self._take_out()
        self._compiled.clear()

    def _take_out(self) -> None:
        while self._own:
            layer, own = self._own.popitem()
            del vars(layer)["forward"]
            if own is not None:
                vars(layer)["forward"] = own

    def _try_backend(self, device: torch.device) -> None:
        """Compile next to nothing: what a backend lacks on this machine is known to that backend alone."""
        try:
            torch.compile(torch.nn.functional.relu, backend=self.backend)(torch.zeros(2, device=device))
        except RuntimeError as error:
            raise ValueError(
                f"torch.compile does not work here: {str(error).splitlines()[0]}\n"
                "inductor, the default, needs a C++ compiler on a CPU (such as g++ with its headers; CXX names "
                "another), and Triton and a C compiler on a GPU: install them, or leave compile.enabled off"
            ) from error


def _composed(model: nn.Module) -> list[nn.Module]:
    """Layers with parts: a single operator, such as the convolutions before Parakeet's encoder, gains nothing."""
    return [layer for layer in layers_of(model) if any(True for _ in layer.children())]


def forward_of(layer: nn.Module, functions: dict[type, FunctionType]) -> Forward:
    """The forward of ``layer``, with a code object of its class.

    torch.compile allows 8 variants of a code object, and transformers wraps the forward of all kinds of layers in one
    (``modeling_layers.py``, ``forward_with_checkpointing``): together, encoder and decoder would exceed that.
    """
    forward = type(layer).forward
    if "forward" in vars(layer) or not isfunction(forward):
        return layer.forward
    if type(layer) not in functions:
        copy = FunctionType(
            forward.__code__.replace(), forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__
        )
        copy.__kwdefaults__ = forward.__kwdefaults__
        functions[type(layer)] = copy
    return MethodType(functions[type(layer)], layer)
