"""SpecAugment as an option of an adapter: stretches of frames and bands of bins, blanked out while training.

Must never know a model family. Used by the adapters whose features are log-mel spectra or whose model has masks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
        from asr_lightning import augment  # torchaudio, and only where masks are wanted

        return augment.spec_augment(
            features, num_frames, self.num_time_masks, self.time_fraction, self.num_freq_masks, self.freq_bins
        )
