"""SpecAugment as an option of an adapter: stretches of frames and bands of bins, blanked out while training.

Must never know a model family. Used by the adapters whose features are log-mel spectra or whose model has masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asr_lightning.training.devices import send


@dataclass(frozen=True)
class SpecAugment:
    """Masks on the features while training; off unless a number of masks is given.

    Attributes:
        num_time_masks: Stretches of frames to blank out in each clip.
        time_fraction: Longest stretch as a fraction of the clip.
        num_freq_masks: Bands of mel bins to blank out in each clip.
        freq_bins: Widest band.
    """

    num_time_masks: int = 0
    time_fraction: float = 0.05
    num_freq_masks: int = 0
    freq_bins: int = 8

    @property
    def active(self) -> bool:
        """Whether there is anything to mask."""
        return self.num_time_masks > 0 or self.num_freq_masks > 0

    def __call__(self, features: Tensor, num_frames: Tensor) -> Tensor:
        """A masked copy of ``features`` ``[B, M, F]``; the first ``num_frames`` (``[B]``, on the CPU) are audio."""
        return spec_augment(
            features, num_frames, self.num_time_masks, self.time_fraction, self.num_freq_masks, self.freq_bins
        )


def spec_augment(
    features: Tensor,
    num_frames: Tensor,
    num_time_masks: int = 2,
    time_fraction: float = 0.05,
    num_freq_masks: int = 2,
    freq_bins: int = 10,
    generator: torch.Generator | None = None,
    value: float = 0.0,
) -> Tensor:
    """A copy of ``features`` with random stretches of time and bands of frequency set to ``value``.

    Masks lie inside each clip's true frames, and padding stays as it is. torchaudio's masking functions know one
    length for the whole batch and would mask padding of short clips instead of speech.

    Args:
        features: ``[B, M, F]``, left as found.
        num_frames: ``[B]``, true frames of each clip, on the CPU.
        num_time_masks: Stretches for each clip; 0 for none.
        time_fraction: Widest stretch, as a share of the clip's true frames.
        num_freq_masks: Bands for each clip; 0 for none.
        freq_bins: Widest band, in mel bins.
        generator: On the CPU; None takes torch's own.
        value: What masked places become.
    """
    num_clips, num_bins, width = features.shape
    lengths = num_frames.clamp(max=width)
    times = _stretches(lengths, time_fraction * lengths, num_time_masks, width, generator)
    bins = torch.full((num_clips,), num_bins)
    bands = _stretches(bins, torch.full((num_clips,), min(freq_bins, num_bins)), num_freq_masks, num_bins, generator)
    real = torch.arange(width) < lengths[:, None]
    masked = (times[:, None, :] | bands[:, :, None]) & real[:, None, :]
    return features.masked_fill(send(masked, features.device), value)


def _stretches(sizes: Tensor, widest: Tensor, count: int, width: int, generator: torch.Generator | None) -> Tensor:
    """Bool ``[B, width]``: ``count`` random stretches in each row, inside its first ``sizes[b]`` places.

    Widths are uniform from 0 up to ``widest[b]``, then starts are uniform, as in Park et al. 2019.
    """
    draws = torch.rand(2, len(sizes), count, generator=generator)
    lengths = (draws[0] * (widest[:, None].floor() + 1)).floor()
    starts = (draws[1] * (sizes[:, None] - lengths + 1)).floor()
    place = torch.arange(width)
    inside = (place >= starts[..., None]) & (place < (starts + lengths)[..., None])
    return inside.any(1)
