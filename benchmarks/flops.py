"""What a clip costs a Whisper in float operations, counted on paper, and what a device could do. Used by ``gpu.py``.

On paper, because a counter counts padding as work, and knows no attention of PyTorch's on a CPU. ``tests/unit`` holds
the formula against that counter on a clip without padding.
"""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

FRAMES_PER_SECOND = 100
MEL = 80


class Shape(NamedTuple):
    """An English-only Whisper of OpenAI's; the same on both sides. Source: ``config.json`` of openai/whisper-*.en."""

    width: int
    layers: int
    heads: int
    vocabulary: int = 51864

    def changes(self) -> dict[str, int]:
        """To the configuration of whisper-tiny.en, from which no other entry differs."""
        sides = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in {"layers": self.layers, "attention_heads": self.heads, "ffn_dim": 4 * self.width}.items()
        }
        return {"d_model": self.width, "num_hidden_layers": self.layers, "vocab_size": self.vocabulary, **sides}


SHAPES = {"tiny": Shape(384, 4, 6), "base": Shape(512, 6, 8), "small": Shape(768, 12, 12)}


def encoder_forward(shape: Shape, seconds: float) -> tuple[float, float]:
    """First convolution, whose input needs no gradient, and all else; ``seconds`` of audio and no padding.

    A layer is four projections and two of four times the width, 24 S d^2, and two products of attention, 4 S^2 d.
    """
    frames, d = seconds * FRAMES_PER_SECOND, shape.width
    places = frames / 2
    first, second = 2 * frames * 3 * MEL * d, 2 * places * 3 * d**2
    return first, second + shape.layers * (24 * places * d**2 + 4 * places**2 * d)


def decoder_forward(shape: Shape, seconds: float, inputs: int, scored: int) -> float:
    """Decoder over ``inputs`` tokens, keys and values of the audio included, and the head at ``scored`` of them."""
    places, d = seconds * FRAMES_PER_SECOND / 2, shape.width
    own = 24 * inputs * d**2 + 4 * inputs**2 * d
    audio = 4 * inputs * d**2 + 4 * places * d**2 + 4 * inputs * places * d
    return shape.layers * (own + audio) + 2 * scored * d * shape.vocabulary


def training_flops(shape: Shape, seconds: float, tokens: int, prompt: int = 2) -> float:
    """A training step of one clip with the decoder frozen.

    Backward is twice forward in the encoder, and once in the decoder, through which the gradient only passes. Work that
    an implementation does twice, as attention does to save memory, counts once.

    Args:
        shape: Of the network.
        seconds: Of the clip.
        tokens: Of its text alone.
        prompt: Tokens before the text; behind it is one more, the end.
    """
    first, rest = encoder_forward(shape, seconds)
    return 2 * first + 3 * rest + 2 * decoder_forward(shape, seconds, prompt + tokens, tokens + 1)


PEAKS = {
    r"NVIDIA H100 80GB HBM3": 989e12,  # NVIDIA H100 data sheet, SXM: 1979 TFLOPS with sparsity, half of it dense
    r"NVIDIA H200": 989e12,  # NVIDIA H200 data sheet, SXM: 1979 TFLOPS with sparsity
    r"NVIDIA A100[- ].*": 312e12,  # NVIDIA A100 data sheet, PCIe and SXM alike
    r"NVIDIA L40S": 362e12,  # NVIDIA L40S data sheet: 362 dense, 733 with sparsity
    r"NVIDIA L4": 121e12,  # NVIDIA L4 data sheet: 242 TFLOPS with sparsity
    r"(NVIDIA )?Tesla T4": 65e12,  # NVIDIA T4 data sheet; float16, it has no bf16
}
"""Dense bf16 FLOP/s with float32 sums, by the whole name as PyTorch gives it. A part of a GPU (MIG), and cards of other
clocks such as H100 PCIe and NVL, have other names; they are measured."""


def data_sheet_peak(name: str) -> float | None:
    """The peak of the GPU ``name``; None if it is not in the table."""
    return next((peak for pattern, peak in PEAKS.items() if re.fullmatch(pattern, name) and "MIG" not in name), None)


def measured_peak(dtype: Any, size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s of square matrix products on the GPU: the best of some."""
    import torch

    left, right = torch.randn(2, size, size, device="cuda", dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_of(device: str) -> tuple[float, str]:
    """FLOP/s that ``device`` could do in the precision that is trained in, and where the figure is from."""
    if device == "cpu":
        from train_speed import matmul_peak

        return matmul_peak(), "a float32 matrix product, measured"
    import torch

    known = data_sheet_peak(torch.cuda.get_device_name())
    if known is not None:
        return known, "the data sheet"
    dtype = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    return measured_peak(dtype), f"a product of {dtype} matrices, measured: this GPU is not in the table"
