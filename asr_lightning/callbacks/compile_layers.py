"""Compiles the layers of a model with torch.compile, for training steps only. Knows no model."""

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

    Equal layers share their compiled code. Scoring and decoding are not compiled; names, checkpoints and saved models
    stay the same. With a time budget, the steps that are timed to plan the run are not compiled.

    Args:
        enabled: Whether to compile the layers. The start takes at least half a minute longer, so only long runs gain.
        mode: The mode of torch.compile, for the inductor backend only. On a GPU, reduce-overhead and max-autotune use
            CUDA graphs, one for each shape of a batch.
        backend: The backend of torch.compile. inductor needs a C++ compiler on a CPU, and Triton and a C compiler on a
            GPU.
    """

    def __init__(
        self,
        enabled: bool = False,
        mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default",
        backend: str = "inductor",
    ) -> None:
        if mode != "default" and backend != "inductor":
            raise ValueError(f"--compile.mode {mode} exists only with the backend inductor, not with {backend}")
        self.enabled = enabled
        self.mode = mode
        self.backend = backend
        self._compiled: dict[nn.Module, Forward] = {}
        self._instance_forwards: dict[nn.Module, Forward | None] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Test whether torch.compile works on this machine, before anything is scored or trained.

        Raises:
            ValueError: torch.compile does not work; the message says why.
        """
        if not self.enabled or stage != "fit":
            return
        if layers := _layers_with_submodules(pl_module.model):
            self._try_backend(trainer.strategy.root_device)
            logger.info("compiling %d layers of %d kinds", len(layers), len({type(layer) for layer in layers}))
        else:
            logger.warning("the model has no repeated layers: there is nothing to compile")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap each layer, after FSDP has changed its class; it is compiled at its first call.

        Batches differ in length. By default torch compiles one variant for the first shape and others when they occur.
        For wav2vec2 that exceeds torch's limit of 8 variants, and it depends on where a run was resumed. Therefore
        ``dynamic`` is set.
        """
        if self.enabled:
            compiler = torch.compile(dynamic=True, backend=self.backend, mode=self.mode)
            functions: dict[type, FunctionType] = {}
            layers = _layers_with_submodules(pl_module.model)
            self._compiled = {layer: compiler(forward_of(layer, functions)) for layer in layers}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Switch to the compiled forwards, set as attributes of the layers: hooks still run, and no state is added."""
        if self._compiled:
            # Otherwise each layer without gradients would start a new step and overwrite the previous layer's output:
            # https://docs.pytorch.org/docs/stable/generated/torch.compiler.cudagraph_mark_step_begin.html
            torch.compiler.cudagraph_mark_step_begin()
        for layer, compiled in self._compiled.items():
            if vars(layer).get("forward") is not compiled:
                self._instance_forwards[layer] = vars(layer).get("forward")
                vars(layer)["forward"] = compiled

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Switch back before a validation, where the decoder's cache grows with each token and would be recompiled."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the layers."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the layers, and drop the compiled code."""
        self._restore()
        self._compiled.clear()

    def _restore(self) -> None:
        while self._instance_forwards:
            layer, forward = self._instance_forwards.popitem()
            del vars(layer)["forward"]
            if forward is not None:
                vars(layer)["forward"] = forward

    def _try_backend(self, device: torch.device) -> None:
        """Compile a tiny function, since only the backend itself knows what it lacks on this machine."""
        try:
            torch.compile(torch.nn.functional.relu, backend=self.backend)(torch.zeros(2, device=device))
        except RuntimeError as error:
            raise ValueError(
                f"torch.compile does not work here: {str(error).splitlines()[0]}\n"
                "inductor, the default, needs a C++ compiler on a CPU (such as g++ with its headers; CXX names "
                "another), and Triton and a C compiler on a GPU: install them, or set --compile.enabled false"
            ) from error


def _layers_with_submodules(model: nn.Module) -> list[nn.Module]:
    """Layers with submodules: a single operator, such as a convolution before Parakeet's encoder, gains nothing."""
    return [layer for layer in layers_of(model) if any(True for _ in layer.children())]


def forward_of(layer: nn.Module, functions: dict[type, FunctionType]) -> Forward:
    """The forward of ``layer``, with a code object that only layers of the same class share.

    torch.compile allows 8 variants of a code object. transformers wraps the forwards of all kinds of layers in the
    same one (``modeling_layers.py``, ``forward_with_checkpointing``), so encoder and decoder together would exceed
    the limit.
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
