"""What training may do to a recording or its features: speed, silence around it, masks. Returns new tensors.

torch and torchaudio only. Knows no file, no split and no model; every draw comes from a generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torchaudio.transforms import Resample

from asr_lightning.devices import send

FLOOR_FRAME = 320  # samples in one frame of the noise estimate: 20 ms at 16 kHz, shorter than a gap between words
FLOOR_QUANTILE = 0.05  # the quietest twentieth of the frames lies between words


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew for every training utterance in every epoch; the defaults change nothing.

    Attributes:
        speeds: Speed factors, one is drawn; repeat 1.0 to keep more recordings as they are.
        lead_silence_seconds: Longest silence put before a recording; the length is drawn from 0 up to it.
        trail_silence_seconds: The same, behind it.
        join: Share of recordings that one or two others are put behind, texts likewise, where all of them fit.
    """

    speeds: tuple[float, ...] = (1.0,)
    lead_silence_seconds: float = 0.0
    trail_silence_seconds: float = 0.0
    join: float = 0.0

    def __post_init__(self) -> None:
        if not self.speeds or not all(0.5 <= factor <= 2 and _is_hundredth(factor) for factor in self.speeds):
            raise ValueError(
                f"speeds must be factors from 0.5 to 2 with two decimals at most, such as 0.9, but are {self.speeds}"
            )
        if min(self.lead_silence_seconds, self.trail_silence_seconds) < 0:
            raise ValueError("lead_silence_seconds and trail_silence_seconds must not be negative")
        if not 0 <= self.join <= 1:
            raise ValueError(f"join is a share between 0 and 1, not {self.join}")


def partners(index: int, num_clips: int, augmentation: Augmentation, generator: torch.Generator) -> list[int]:
    """The one or two recordings that are put behind the one at ``index``; none where the draw says so."""
    if not augmentation.join or torch.rand((), generator=generator) >= augmentation.join or num_clips < 2:
        return []
    count = int(torch.randint(1, 3, (), generator=generator))
    others = torch.randperm(num_clips - 1, generator=generator)[:count].tolist()
    return [other + (other >= index) for other in others]


def perturb(
    waveform: Tensor,
    sample_rate: int,
    augmentation: Augmentation,
    generator: torch.Generator,
    max_seconds: float | None = None,
) -> Tensor:
    """One random variant ``[T']`` of a recording ``[T]``, never longer than ``max_seconds``.

    Where a slower or longer variant would not fit, it is left out: nothing is ever cut.
    """
    most = float("inf") if max_seconds is None else max_seconds * sample_rate
    speeds = [factor for factor in augmentation.speeds if math.ceil(waveform.numel() / factor) <= most] or [1.0]
    factor = speeds[int(torch.randint(len(speeds), (), generator=generator))]
    waveform = change_speed(waveform, sample_rate, factor)
    share = torch.rand(2, generator=generator).tolist()
    lead = int(share[0] * augmentation.lead_silence_seconds * sample_rate)
    trail = int(share[1] * augmentation.trail_silence_seconds * sample_rate)
    lead = int(min(lead, max(0, most - waveform.numel())))
    trail = int(min(trail, max(0, most - waveform.numel() - lead)))
    return add_silence(waveform, lead, trail, generator)


def change_speed(waveform: Tensor, sample_rate: int, factor: float) -> Tensor:
    """``waveform`` ``[T]`` played ``factor`` times as fast: ``[ceil(T / factor)]`` samples, pitch and all.

    Source: Ko et al. 2015, as ``torchaudio.transforms.Speed``, which truncates 0.57 * 100 to 56.
    """
    if factor == 1:
        return waveform
    return _resampler(round(factor * sample_rate), sample_rate)(waveform).clamp(-1, 1)


@lru_cache(maxsize=32)
def _resampler(from_rate: int, to_rate: int) -> Resample:
    """Cached, because making the filter takes longer than applying it to a short clip."""
    return Resample(from_rate, to_rate)


def _is_hundredth(factor: float) -> bool:
    """Whether the resampling filter stays small: 1.0333 at 16 kHz would need one of a gigabyte."""
    return abs(factor * 100 - round(factor * 100)) < 1e-6


def add_silence(waveform: Tensor, lead: int, trail: int, generator: torch.Generator) -> Tensor:
    """``waveform`` ``[T]`` with ``lead`` and ``trail`` samples around it: ``[lead + T + trail]``.

    The silence is Gaussian noise at the recording's own noise floor, because digital zeros never follow speech in
    a real recording and a model learns such seams.
    """
    if lead == trail == 0:
        return waveform
    noise = torch.randn(lead + trail, generator=generator) * noise_floor(waveform)
    return torch.cat([noise[:lead], waveform, noise[lead:]]).clamp(-1, 1)


def noise_floor(waveform: Tensor) -> Tensor:
    """Root mean square of the quietest frames of a recording ``[T]``, a scalar."""
    usable = waveform.numel() // FLOOR_FRAME * FLOOR_FRAME
    if not usable:
        return waveform.new_zeros(())
    frames = waveform[:usable].view(-1, FLOOR_FRAME)
    return frames.square().mean(1).sqrt().quantile(FLOOR_QUANTILE)


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
