"""Float operations of a Whisper for a clip, by a formula, and the peak of a device. Used by ``gpu.py``.

A formula is used because PyTorch's counter counts padding as work, and does not count PyTorch's attention on a CPU.
``tests/unit/test_gpu_benchmark.py`` compares the formula with that counter on a clip without padding.
"""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

FRAMES_PER_SECOND = 100
MEL = 80


class Shape(NamedTuple):
    """The shape of an English-only Whisper, the same for encoder and decoder.

    Source: ``config.json`` of openai/whisper-*.en.
    """

    width: int
    layers: int
    heads: int
    vocabulary: int = 51864

    def changes(self) -> dict[str, int]:
        """Return all entries in which its configuration differs from that of whisper-tiny.en."""
        sides = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in {"layers": self.layers, "attention_heads": self.heads, "ffn_dim": 4 * self.width}.items()
        }
        return {"d_model": self.width, "num_hidden_layers": self.layers, "vocab_size": self.vocabulary, **sides}


SHAPES = {"tiny": Shape(384, 4, 6), "base": Shape(512, 6, 8), "small": Shape(768, 12, 12)}


def encoder_forward(shape: Shape, seconds: float) -> tuple[float, float]:
    """Operations of the first convolution, whose input needs no gradient, and of all else, for audio without padding.

    With S positions of width d, a layer has four projections and two of four times the width, 24 S d^2, and two
    products of attention, 4 S^2 d.
    """
    frames, d = seconds * FRAMES_PER_SECOND, shape.width
    places = frames / 2
    first, second = 2 * frames * 3 * MEL * d, 2 * places * 3 * d**2
    return first, second + shape.layers * (24 * places * d**2 + 4 * places**2 * d)


def decoder_forward(shape: Shape, seconds: float, inputs: int, scored: int) -> float:
    """Operations of the decoder over ``inputs`` tokens, including the audio's keys and values, and of the head.

    The head is computed at ``scored`` tokens.
    """
    places, d = seconds * FRAMES_PER_SECOND / 2, shape.width
    own = 24 * inputs * d**2 + 4 * inputs**2 * d
    audio = 4 * inputs * d**2 + 4 * places * d**2 + 4 * inputs * places * d
    return shape.layers * (own + audio) + 2 * scored * d * shape.vocabulary


def training_flops(shape: Shape, seconds: float, tokens: int, prompt: int = 2) -> float:
    """Operations of a training step of one clip with the decoder frozen.

    The backward pass costs twice the forward pass in the encoder, and once in the decoder, through which the gradient
    only passes. Work that an implementation does twice, as attention does to save memory, counts once.

    Args:
        shape: Shape of the network.
        seconds: Length of the clip.
        tokens: Number of tokens of its text alone.
        prompt: Number of tokens before the text; after it comes one more, the end token.
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
"""Dense bf16 FLOP/s with float32 sums, by the full name that PyTorch gives. Parts of a GPU (MIG), and cards with other
clocks such as H100 PCIe and NVL, have other names; their peak is measured."""


def data_sheet_peak(name: str) -> float | None:
    """Return the peak of the GPU ``name``; None if it is not in the table."""
    return next((peak for pattern, peak in PEAKS.items() if re.fullmatch(pattern, name) and "MIG" not in name), None)


def measured_peak(dtype: Any, size: int = 8192, repeats: int = 20) -> float:
    """Measure the FLOP/s of square matrix products on the GPU: the best of ``repeats``."""
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
    """Return the peak FLOP/s of ``device`` in the precision of training, and the source of the figure in words."""
    if device == "cpu":
        from train_speed import matmul_peak

        return matmul_peak(), "a float32 matrix product, measured"
    import torch

    known = data_sheet_peak(torch.cuda.get_device_name())
    if known is not None:
        return known, "the data sheet"
    dtype = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    return measured_peak(dtype), f"a product of {dtype} matrices, measured: this GPU is not in the table"
