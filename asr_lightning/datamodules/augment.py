"""Draws random variations of recordings for training; ``augment_audio`` applies them to samples.

All functions return new tensors and use a random generator that is passed in. Knows no file, no split and no model.
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
    """Random variations, drawn again for every training utterance in every epoch; the defaults change nothing.

    Attributes:
        speeds: Speed factors, one of which is drawn; repeat 1.0 to keep the speed of more recordings.
        lead_silence_seconds: Longest silence before a recording; its length is drawn from 0 to this value.
        trail_silence_seconds: Longest silence after a recording; its length is drawn from 0 to this value.
        join: Share of recordings to which one or two others are appended, with their texts, if the result is not too
            long for the model.
        room: Share of recordings that get the echo of a room, of 0.1 to 0.5 s.
        noise: Share of recordings that get noise with the spectrum of their own quiet parts.
        noise_snr_db: Smallest and largest signal-to-noise ratio in dB; the ratio is drawn between them.
        drop_bands: Number of frequency bands removed from each recording: SpecAugment for models that read raw samples.
        band_fraction: Largest width of a band, as a share of the mel scale up to half the sample rate.
        drop_stretches: Number of stretches of each recording that are replaced by noise at its noise floor.
        stretch_fraction: Largest length of a stretch, as a share of the recording.
        gain_db: Largest change of the volume, louder or quieter, in dB; a gain that would clip is reduced.
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
                f"--data.augmentation.speeds must be factors from 0.5 to 2 with two decimals at most, such as 0.9, "
                f"but are {self.speeds}"
            )
        if min(self.lead_silence_seconds, self.trail_silence_seconds) < 0:
            raise ValueError("--data.augmentation.lead_silence_seconds and trail_silence_seconds must not be negative")
        for name in SHARES:
            if not 0 <= vars(self)[name] <= 1:
                raise ValueError(f"--data.augmentation.{name} is a share between 0 and 1, not {vars(self)[name]}")
        if min(self.drop_bands, self.drop_stretches, self.gain_db) < 0:
            raise ValueError("--data.augmentation.drop_bands, drop_stretches and gain_db must not be negative")
        if self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError(
                f"--data.augmentation.noise_snr_db is [least, greatest] in dB, such as [10,30], not {self.noise_snr_db}"
            )


def _is_hundredth(factor: float) -> bool:
    """Whether ``factor`` has at most two decimals: 1.0333 at 16 kHz would need a resampling filter of a gigabyte."""
    return abs(factor * 100 - round(factor * 100)) < 1e-6


def partners(index: int, num_clips: int, augmentation: Augmentation, generator: torch.Generator) -> list[int]:
    """Draw one or two recordings to append to the one at ``index``, or none."""
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
    """Draw a variant ``[T']`` of a recording ``[T]`` that is not longer than ``max_seconds``.

    Speeds that would make it too long are not drawn, and silences are shortened; the recording itself is never cut.
    """
    max_samples = float("inf") if max_seconds is None else max_seconds * sample_rate
    speeds = [factor for factor in augmentation.speeds if math.ceil(waveform.numel() / factor) <= max_samples] or [1.0]
    factor = speeds[int(torch.randint(len(speeds), (), generator=generator))]
    waveform = recording = augment_audio.change_speed(waveform, sample_rate, factor)
    share = torch.rand(2, generator=generator).tolist()
    lead = int(share[0] * augmentation.lead_silence_seconds * sample_rate)
    trail = int(share[1] * augmentation.trail_silence_seconds * sample_rate)
    lead = int(min(lead, max(0, max_samples - waveform.numel())))
    trail = int(min(trail, max(0, max_samples - waveform.numel() - lead)))
    waveform = augment_audio.add_silence(waveform, lead, trail, generator)
    return _distort(waveform, recording, sample_rate, augmentation, generator)


def _distort(
    waveform: Tensor, recording: Tensor, sample_rate: int, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Apply variations that keep the length of ``waveform`` ``[T]``, in their physical order: room, noise, gaps, gain.

    Variations that are switched off draw no random numbers. Noise is measured on ``recording``, to which no silence was
    added.
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
    """Draw True with the probability ``share``; a share of 0 draws no random number."""
    return bool(share) and float(torch.rand((), generator=generator)) < share
