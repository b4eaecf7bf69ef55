"""CTC for Hugging Face's models: a loss in float32 on any device, and greedy decoding.

Knows no audio, file or trainer. Used by ``hf_ctc.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_lightning.training.devices import in_float32
from asr_lightning.types import LossOutput, SpeechBatch


def ctc_loss(logits: Tensor, lengths: Tensor, batch: SpeechBatch, blank: int) -> LossOutput:
    """Return the mean over utterances of the CTC loss per label, in float32.

    cuDNN is off: older versions of it got targets of 256 labels and more wrong. A clip with fewer frames than its text
    needs counts as 0; the collator has warned of it.

    Args:
        logits: ``[B, F', V]``.
        lengths: Number of true frames, ``[B]``, on the CPU: PyTorch 2.11 reads the lengths there, and would wait for
            them.
        batch: Batch with the labels.
        blank: Id of the blank label.
    """
    device = "cpu" if logits.device.type == "mps" else logits.device  # PyTorch has no CTC kernel for Apple silicon
    with in_float32(logits.device), torch.backends.cudnn.flags(enabled=False):
        log_probs = logits.float().to(device).log_softmax(-1).transpose(0, 1)
        targets = batch.targets.clamp(min=0).to(device)  # CTC goes by the lengths and does not know -100
        loss = F.ctc_loss(log_probs, targets, lengths, batch.target_lengths, blank, zero_infinity=True)
    return LossOutput(loss.to(logits.device), len(batch))


def greedy_labels(logits: Tensor, lengths: Tensor, blank: int) -> list[list[int]]:
    """Return the best label of each true frame, with repeats merged and blanks dropped."""
    best = logits.argmax(-1).cpu()
    rows = (torch.unique_consecutive(row[:length]) for row, length in zip(best, lengths.tolist(), strict=True))
    return [row[row != blank].tolist() for row in rows]
