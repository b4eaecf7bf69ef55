"""Whisper's encoder at the true length of the audio, with the layers of the loaded network. Copies no weights.

Knows no tokens and no files. Used by ``adapter.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.whisper.modeling_whisper import WhisperEncoder


def encode(encoder: WhisperEncoder, features: Tensor) -> Tensor:
    """Return the hidden states of ``features``; for 3000 frames they equal those of Hugging Face's encoder to 1e-5.

    Hugging Face's encoder takes nothing but 3000 frames (30 s), so a 3.4 s clip would pay for nine times its length.

    Args:
        encoder: A loaded ``WhisperEncoder``.
        features: Log-mel ``[B, M, F]`` with F even and at most twice the number of positions (3000).

    Returns:
        ``[B, F/2, D]``.

    Raises:
        ValueError: F is odd, zero or too long.

    Source: transformers 5.23 ``WhisperEncoder.forward``, less its length check.
    """
    num_positions = _num_positions(features.shape[-1], encoder.embed_positions.num_embeddings)
    hidden = F.gelu(encoder.conv1(features))
    hidden = F.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
    # Detached: the sinusoids must not drift, even if a recipe switches the gradients of the whole encoder on.
    hidden = hidden + encoder.embed_positions.weight[:num_positions].detach()
    hidden = F.dropout(hidden, p=encoder.dropout, training=encoder.training)
    for layer in encoder.layers:
        if not _dropped(encoder):
            hidden = layer(hidden, None)
    return encoder.layer_norm(hidden)


def _num_positions(num_frames: int, max_positions: int) -> int:
    if num_frames % 2 or not 0 < num_frames <= 2 * max_positions:
        raise ValueError(
            f"Whisper's encoder takes an even number of frames up to {2 * max_positions}, not {num_frames}: "
            "pad the features to the next even length, and cut longer recordings into clips"
        )
    return num_frames // 2


def _dropped(encoder: WhisperEncoder) -> bool:
    """Draw whether LayerDrop skips the next layer, in upstream's way, so that the same seed gives the same result."""
    return bool(encoder.training and encoder.layerdrop > 0 and torch.rand([]) < encoder.layerdrop)
