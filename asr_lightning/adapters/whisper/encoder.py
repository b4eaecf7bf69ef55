"""Whisper's encoder at the true length of the audio, on the loaded network's own layers. Copies no weights.

Must never know tokens or files. Used by ``adapter.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.whisper.modeling_whisper import WhisperEncoder


def encode(encoder: WhisperEncoder, features: Tensor) -> Tensor:
    """Hidden states of ``features``; equals Hugging Face's encoder to 1e-5 where that accepts the length.

    Hugging Face raises for every input that is not 3000 frames (30 s), so a 3.4 s clip pays nine times its length.

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
    # Detached: the sinusoids must not drift even if a recipe switches every encoder gradient on (pitfall T10).
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
    """Whether LayerDrop skips the next layer; drawn as upstream does, so that seeds agree."""
    return bool(encoder.training and encoder.layerdrop > 0 and torch.rand([]) < encoder.layerdrop)
