"""Whisper's log-mel features at the true length, made on the device of the batch: on the GPU, if there is one.

Knows no tokens, files or network. Used by ``adapter.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import WhisperFeatureExtractor

from asr_lightning.training.devices import in_float32

BUCKET_FRAMES = 16
"""Contexts are multiples of 0.16 s, so that there are few distinct shapes, for at most 4 % more work on a 4 s clip."""

REACH = 2
"""Number of frames after the end of the audio that still hear it: the window is centred and 2.5 hops long."""


class LogMel:
    """Makes features by the settings of a checkpoint; window and filters are kept for each device that is used.

    Args:
        extractor: The checkpoint's feature extractor.
        margin_seconds: Silence after the longest clip; None gives every batch the whole 30 s window.
    """

    def __init__(self, extractor: WhisperFeatureExtractor, margin_seconds: float | None) -> None:
        self.extractor = extractor
        self.margin_seconds = margin_seconds
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def num_frames(self, num_samples: int) -> int:
        """Return the context of a batch whose longest clip has ``num_samples``: even, and at most the whole window."""
        if self.margin_seconds is None:
            return int(self.extractor.nb_max_frames)
        margin = self.margin_seconds * self.extractor.sampling_rate
        frames = math.ceil((num_samples + margin) / self.extractor.hop_length)
        return min(math.ceil(frames / BUCKET_FRAMES) * BUCKET_FRAMES, self.extractor.nb_max_frames)

    def __call__(self, waveforms: Tensor) -> Tensor:
        """Return features ``[B, M, F]`` of ``waveforms`` ``[B, T]``: the first F frames of the 30 s features.

        Two more frames of zeros are computed and cut off: the STFT reflects the audio at its end, which would change
        the last frames of a clip that fills its context. Frames of zeros after those are all alike and are not
        computed, which saves nine tenths of the cost of a 30 s window.
        """
        longest, hop = waveforms.shape[-1], self.extractor.hop_length
        num_frames = self.num_frames(longest)
        computed = min(math.ceil(longest / hop) + REACH, num_frames)
        num_samples = min((computed + 2) * hop, self.extractor.n_samples)
        features = self._log_mel(pad(waveforms, (0, num_samples - longest)))[..., :computed]
        silence = (features.amax((1, 2), keepdim=True) - 2).clamp(min=-1.5)  # log10(1e-10) and the clip's own floor
        padding = silence.expand(-1, features.shape[1], num_frames - computed)
        return torch.cat([features, padding], dim=-1)

    @torch.no_grad()
    def _log_mel(self, waveforms: Tensor) -> Tensor:
        """Compute what ``WhisperFeatureExtractor`` of transformers 5.23 does, but leave the result on the device."""
        window, filters = self._constants_on(waveforms.device)
        if self.extractor.dither:
            waveforms = waveforms + self.extractor.dither * torch.randn_like(waveforms)
        with in_float32(waveforms.device):
            stft = torch.stft(
                waveforms, self.extractor.n_fft, self.extractor.hop_length, window=window, return_complex=True
            )
            power = (stft[..., :-1].abs() ** 2).contiguous()
            log_mel = (filters @ power).clamp(min=1e-10).log10()
        floor = log_mel.amax((1, 2), keepdim=True) - 8.0
        return (torch.maximum(log_mel, floor) + 4.0) / 4.0

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the window ``[n_fft]`` and the filters ``[M, n_fft / 2 + 1]``."""
        if device not in self._constants:
            filters = torch.from_numpy(self.extractor.mel_filters).to(device, torch.float32)
            self._constants[device] = torch.hann_window(self.extractor.n_fft, device=device), filters.T
        return self._constants[device]
