"""RNNT and TDT losses where NeMo has no usable kernel: on a CPU or on Apple silicon.

NeMo 3.0.0 refuses TDT outside CUDA and computes RNNT in Python loops there; transformers ships both, vectorised. Must
never know a batch or a trainer. Used by ``heads.py``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.loss.loss_rnnt import rnnt_loss
from transformers.loss.loss_tdt import tdt_loss


class PortableTransducerLoss(nn.Module):
    """NeMo's own kernel on CUDA and, with the same durations and sigma, transformers' losses on every other device.

    Two settings act on CUDA only: FastEmit, and TDT's omega (the share of steps that train a plain RNNT loss).

    Args:
        kernel: What ``RNNTLoss`` has built, such as ``RNNTLossNumba`` or ``TDTLossNumba``.
    """

    def __init__(self, kernel: Any) -> None:
        super().__init__()
        self.kernel = kernel
        self.reduction = kernel.reduction  # RNNTLoss sets it to None around each call and reduces by itself
        self.durations = list(getattr(kernel, "durations", None) or [])
        if self.durations and 0 not in self.durations:
            # Without it some places of the lattice cannot be reached, and their gradient is NaN.
            raise ValueError(f"a TDT model needs the duration 0, this one has {self.durations}: choose another model")

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """The loss of each utterance, float32 ``[B]``.

        Args:
            acts: Joint output ``[B, F', U + 1, V + 1]``, for TDT with one more column for each duration.
            labels: ``[B, U]``.
            act_lens: ``[B]``, frames.
            label_lens: ``[B]``, labels.
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
    """Let NeMo's ``RNNTLoss`` compute on every device; the object stays the one that a fused joint holds.

    A loss that is neither RNNT nor TDT, such as multi-blank, keeps its own kernel.
    """
    if type(loss._loss).__name__ in ("RNNTLossNumba", "TDTLossNumba"):
        loss._loss = PortableTransducerLoss(loss._loss)
