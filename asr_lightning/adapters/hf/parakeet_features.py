"""Parakeet's log-mel features, made on the device of the batch: on the GPU, if there is one.

Knows no labels, files or network. Used by ``hf_ctc.py`` and ``hf_transducer.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import ParakeetFeatureExtractor
from transformers.models.parakeet.feature_extraction_parakeet import EPSILON, LOG_ZERO_GUARD_VALUE

from asr_lightning.training.devices import in_float32


class ParakeetFeatures:
    """Makes features by the settings of a checkpoint; window and filters are kept for each device that is used.

    Args:
        extractor: The checkpoint's feature extractor.
    """

    def __init__(self, extractor: ParakeetFeatureExtractor) -> None:
        self.extractor = extractor
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, num_samples: Tensor) -> dict[str, Tensor]:
        """Return the network's inputs: ``input_features`` float32 ``[B, F, M]``, ``attention_mask`` int64 ``[B, F]``.

        Args:
            waveforms: Samples ``[B, T]``, padded with zeros.
            num_samples: Number of true samples, int64 ``[B]``.

        Source: transformers 5.23, ``ParakeetFeatureExtractor``.
        """
        audio = torch.arange(waveforms.shape[1], device=waveforms.device) < num_samples[:, None]
        if self.extractor.preemphasis is not None:
            later = waveforms[:, 1:] - self.extractor.preemphasis * waveforms[:, :-1]
            waveforms = torch.cat([waveforms[:, :1], later], dim=1).masked_fill(~audio, 0.0)
        features = self._log_mel(waveforms)
        lengths = (num_samples // self.extractor.hop_length)[:, None]
        inside = torch.arange(features.shape[1], device=features.device) < lengths
        mask = inside[..., None]
        mean = ((features * mask).sum(1) / lengths)[:, None]
        variance = ((features * mask - mean) ** 2 * mask).sum(1) / (lengths - 1)
        features = (features - mean) / (variance.sqrt()[:, None] + EPSILON) * mask
        return {"input_features": features, "attention_mask": inside.long()}

    def _log_mel(self, waveforms: Tensor) -> Tensor:
        window, filters = self._constants_on(waveforms.device)
        with in_float32(waveforms.device):
            stft = torch.stft(
                waveforms,
                self.extractor.n_fft,
                hop_length=self.extractor.hop_length,
                win_length=self.extractor.win_length,
                window=window,
                return_complex=True,
                pad_mode="constant",
            )
            power = torch.view_as_real(stft).pow(2).sum(-1).sqrt().pow(2)
            return torch.log(filters @ power + LOG_ZERO_GUARD_VALUE).transpose(1, 2)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Window ``[win_length]`` and filters ``[M, n_fft / 2 + 1]``."""
        if device not in self._constants:
            window = torch.hann_window(self.extractor.win_length, periodic=False, device=device)
            self._constants[device] = window, self.extractor.mel_filters.to(device)
        return self._constants[device]
