"""What training may do to a recording: what is drawn for it. Returns new tensors.

What happens to the samples themselves is in ``augment_audio``. Knows no file, no split and no model; every draw comes
from a generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from asr_lightning.datamodules import augment_audio

SHARES = ("join", "room", "noise", "band_fraction", "stretch_fraction")


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew for every training utterance in every epoch; the defaults change nothing.

    Attributes:
        speeds: Speed factors, one is drawn; repeat 1.0 to keep more recordings as they are.
        lead_silence_seconds: Longest silence put before a recording; the length is drawn from 0 up to it.
        trail_silence_seconds: The same, behind it.
        join: Share of recordings that one or two others are put behind, texts likewise, where all of them fit.
        room: Share of recordings that sound as if spoken in a room, with an echo of 0.1 to 0.5 s.
        noise: Share of recordings that get noise of the colour of their own quiet parts.
        noise_snr_db: Least and greatest ratio of recording to noise in dB; the ratio is drawn between them.
        drop_bands: Bands of frequency taken out of each recording: SpecAugment for models that read raw samples.
        band_fraction: Widest band, as a share of the mel scale up to half the sample rate.
        drop_stretches: Stretches of each recording that become noise at its own floor.
        stretch_fraction: Longest stretch, as a share of the recording.
        gain_db: Most by which a recording gets louder or quieter, in dB; a gain that would clip is made smaller.
    """

    speeds: tuple[float, ...] = (1.0,)
    lead_silence_seconds: float = 0.0
    trail_silence_seconds: float = 0.0
    join: float = 0.0
    room: float = 0.0
    noise: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    drop_bands: int = 0
    band_fraction: float = 0.1
    drop_stretches: int = 0
    stretch_fraction: float = 0.05
    gain_db: float = 0.0

    def __post_init__(self) -> None:
        if not self.speeds or not all(0.5 <= factor <= 2 and _is_hundredth(factor) for factor in self.speeds):
            raise ValueError(
                f"speeds must be factors from 0.5 to 2 with two decimals at most, such as 0.9, but are {self.speeds}"
            )
        if min(self.lead_silence_seconds, self.trail_silence_seconds) < 0:
            raise ValueError("lead_silence_seconds and trail_silence_seconds must not be negative")
        for name in SHARES:
            if not 0 <= vars(self)[name] <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {vars(self)[name]}")
        if min(self.drop_bands, self.drop_stretches, self.gain_db) < 0:
            raise ValueError("drop_bands, drop_stretches and gain_db must not be negative")
        if self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError(f"noise_snr_db is [least, greatest] in dB, such as [10, 30], not {self.noise_snr_db}")


def _is_hundredth(factor: float) -> bool:
    """Whether the resampling filter stays small: 1.0333 at 16 kHz would need one of a gigabyte."""
    return abs(factor * 100 - round(factor * 100)) < 1e-6


def partners(index: int, num_clips: int, augmentation: Augmentation, generator: torch.Generator) -> list[int]:
    """The one or two recordings that are put behind the one at ``index``; none where the draw says so."""
    if not _happens(augmentation.join, generator) or num_clips < 2:
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
    waveform = recording = augment_audio.change_speed(waveform, sample_rate, factor)
    share = torch.rand(2, generator=generator).tolist()
    lead = int(share[0] * augmentation.lead_silence_seconds * sample_rate)
    trail = int(share[1] * augmentation.trail_silence_seconds * sample_rate)
    lead = int(min(lead, max(0, most - waveform.numel())))
    trail = int(min(trail, max(0, most - waveform.numel() - lead)))
    waveform = augment_audio.add_silence(waveform, lead, trail, generator)
    return _distort(waveform, recording, sample_rate, augmentation, generator)


def _distort(
    waveform: Tensor, recording: Tensor, sample_rate: int, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """What keeps the length of ``waveform`` ``[T]``, in the order of a microphone: room, noise, gaps, gain.

    What is switched off draws nothing. Noise is measured on ``recording``, which has no silence of ours.
    """
    if _happens(augmentation.room, generator):
        waveform = augment_audio.add_room(waveform, sample_rate, generator)
    if _happens(augmentation.noise, generator):
        snr_db = augment_audio.between(*augmentation.noise_snr_db, generator)
        waveform = augment_audio.add_noise(waveform, recording, snr_db, generator)
    if augmentation.drop_bands:
        waveform = augment_audio.drop_bands(
            waveform, sample_rate, augmentation.drop_bands, augmentation.band_fraction, generator
        )
    if augmentation.drop_stretches:
        waveform = augment_audio.drop_stretches(
            waveform, augmentation.drop_stretches, augmentation.stretch_fraction, generator
        )
    if augmentation.gain_db:
        gain_db = augment_audio.between(-augmentation.gain_db, augmentation.gain_db, generator)
        waveform = augment_audio.change_gain(waveform, gain_db)
    return waveform


def _happens(share: float, generator: torch.Generator) -> bool:
    """True in ``share`` of the calls; draws nothing for a share of 0."""
    return bool(share) and float(torch.rand((), generator=generator)) < share
