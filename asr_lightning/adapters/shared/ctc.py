"""What Hugging Face's CTC models need: a loss in float32 on any device, and greedy labels.

Must never know audio, files or a trainer. Used by ``hf_ctc.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_lightning.training.devices import in_float32
from asr_lightning.types import LossOutput, SpeechBatch


def ctc_loss(logits: Tensor, lengths: Tensor, batch: SpeechBatch, blank: int) -> LossOutput:
    """Mean over utterances of the loss per label, in float32, with cuDNN off (pitfalls T40 to T42).

    A clip with fewer frames than its text needs counts as 0; the collator has named it.

    Args:
        logits: ``[B, F', V]``.
        lengths: ``[B]``, true frames, on the CPU: PyTorch wants the lengths there and would wait for them (2.11).
        batch: Whose labels they are.
        blank: Label between labels.
    """
    device = "cpu" if logits.device.type == "mps" else logits.device  # CTC has no kernel on Apple silicon (T43)
    with in_float32(logits.device), torch.backends.cudnn.flags(enabled=False):
        log_probs = logits.float().to(device).log_softmax(-1).transpose(0, 1)
        targets = batch.targets.clamp(min=0).to(device)  # CTC reads lengths, not -100
        loss = F.ctc_loss(log_probs, targets, lengths, batch.target_lengths, blank, zero_infinity=True)
    return LossOutput(loss.to(logits.device), len(batch))


def greedy_labels(logits: Tensor, lengths: Tensor, blank: int) -> list[list[int]]:
    """The best label of each true frame, equal neighbours as one, blanks dropped."""
    best = logits.argmax(-1).cpu()
    rows = (torch.unique_consecutive(row[:length]) for row, length in zip(best, lengths.tolist(), strict=True))
    return [row[row != blank].tolist() for row in rows]
