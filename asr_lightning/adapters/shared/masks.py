"""SpecAugment: random stretches of frames and bands of bins are blanked out while a model trains.

Knows no model family. Adapters whose features are log-mel spectra, or whose network has masks of its own, offer it as
their option ``spec_augment``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asr_lightning.training.devices import send


@dataclass(frozen=True)
class SpecAugment:
    """Masks that are laid over the features while training. With no masks of either kind nothing is changed.

    Attributes:
        num_time_masks: Number of stretches of frames to blank out in each clip.
        time_fraction: Longest stretch, as a share of the clip.
        num_freq_masks: Number of bands of mel bins to blank out in each clip.
        freq_bins: Widest band, in bins.
    """

    num_time_masks: int = 0
    time_fraction: float = 0.05
    num_freq_masks: int = 0
    freq_bins: int = 8

    def __post_init__(self) -> None:
        if min(self.num_time_masks, self.num_freq_masks, self.freq_bins) < 0 or not 0 <= self.time_fraction <= 1:
            raise ValueError(
                "--model.adapter.init_args.spec_augment.num_time_masks, num_freq_masks and freq_bins must not be "
                f"negative, and time_fraction must lie between 0 and 1: {self}"
            )

    @property
    def active(self) -> bool:
        """Whether there is anything to mask."""
        return self.num_time_masks > 0 or self.num_freq_masks > 0

    def __call__(
        self, features: Tensor, num_frames: Tensor, generator: torch.Generator | None = None, value: float = 0.0
    ) -> Tensor:
        """Return a copy of ``features`` with random stretches of time and bands of frequency set to ``value``.

        Masks lie inside the true frames of each clip, and padding is left alone. torchaudio's masking functions know
        one length for the whole batch, and would mask the padding of short clips instead of speech.

        Args:
            features: ``[B, M, F]``; this tensor is not changed.
            num_frames: Number of true frames of each clip, ``[B]``, on the CPU.
            generator: Source of the random numbers, on the CPU; None takes torch's global one.
            value: Value of everything that is masked.
        """
        num_clips, num_bins, width = features.shape
        lengths = num_frames.clamp(max=width)
        times = _stretches(lengths, self.time_fraction * lengths, self.num_time_masks, width, generator)
        bins, widest = torch.full((num_clips,), num_bins), torch.full((num_clips,), min(self.freq_bins, num_bins))
        bands = _stretches(bins, widest, self.num_freq_masks, num_bins, generator)
        is_audio = torch.arange(width) < lengths[:, None]
        masked = (times[:, None, :] | bands[:, :, None]) & is_audio[:, None, :]
        return features.masked_fill(send(masked, features.device), value)


def _stretches(sizes: Tensor, widest: Tensor, count: int, width: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``count`` stretches in each row, inside its first ``sizes[b]`` places; returns a bool mask ``[B, width]``.

    Lengths are uniform from 0 to ``widest[b]`` and then starts are uniform, as in Park et al. 2019.
    """
    draws = torch.rand(2, len(sizes), count, generator=generator)
    lengths = (draws[0] * (widest[:, None].floor() + 1)).floor()
    starts = (draws[1] * (sizes[:, None] - lengths + 1)).floor()
    places = torch.arange(width)
    inside = (places >= starts[..., None]) & (places < (starts + lengths)[..., None])
    return inside.any(1)
