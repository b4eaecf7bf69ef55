"""RNNT and TDT losses where NeMo has no usable kernel: on a CPU or on Apple silicon.

NeMo 3.0.0 refuses TDT outside CUDA and computes RNNT in Python loops there; transformers has both, vectorised. Knows no
batch and no trainer. Used by ``adapter.py``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.loss.loss_rnnt import rnnt_loss
from transformers.loss.loss_tdt import tdt_loss


class PortableTransducerLoss(nn.Module):
    """Computes with NeMo's own kernel on CUDA, and with transformers' losses on every other device.

    Durations and sigma are the same. Two settings have an effect on CUDA only: FastEmit, and TDT's omega (the share of
    steps that train a plain RNNT loss).

    Args:
        kernel: The kernel that ``RNNTLoss`` has built, such as ``RNNTLossNumba`` or ``TDTLossNumba``.
    """

    def __init__(self, kernel: Any) -> None:
        super().__init__()
        self.kernel = kernel
        self.reduction = kernel.reduction  # RNNTLoss sets it to None around each call, and then reduces the loss itself
        self.durations = list(getattr(kernel, "durations", None) or [])
        if self.durations and 0 not in self.durations:
            # Without it no path reaches some places of the lattice, and their gradient is NaN.
            raise ValueError(f"a TDT model needs the duration 0, this one has {self.durations}: choose another model")

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """Return the loss of each utterance, float32 ``[B]``.

        Args:
            acts: Output of the joint, ``[B, F', U + 1, V + 1]``, for TDT with one more column for each duration.
            labels: Labels ``[B, U]``.
            act_lens: Number of frames of each utterance, ``[B]``.
            label_lens: Number of labels of each utterance, ``[B]``.
        """
        if acts.is_cuda:
            return self.kernel(acts=acts, labels=labels, act_lens=act_lens, label_lens=label_lens)
        lengths = (act_lens.to(acts.device), label_lens.to(acts.device))
        if not self.durations:
            return rnnt_loss(acts, labels, *lengths, self.kernel.blank, reduction="none")
        tokens, durations = acts.split([acts.shape[-1] - len(self.durations), len(self.durations)], dim=-1)
        return tdt_loss(
            tokens, durations, labels, *lengths, self.kernel.blank, self.durations, self.kernel.sigma, reduction="none"
        )


def make_portable(loss: Any) -> None:
    """Let NeMo's ``RNNTLoss`` compute on every device, in place: a fused joint holds the same object.

    A loss that is neither RNNT nor TDT, such as multi-blank, keeps its own kernel.
    """
    if type(loss._loss).__name__ in ("RNNTLossNumba", "TDTLossNumba"):
        loss._loss = PortableTransducerLoss(loss._loss)
