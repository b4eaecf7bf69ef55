"""Changes the samples of recordings for training: speed, silence, room, noise, gaps and gain.

All functions return new tensors and use a random generator that is passed in. ``augment.Augmentation`` says how often
and how much is changed. Imports torch and torchaudio only.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torchaudio.transforms import Resample

FLOOR_FRAME = 320  # samples in one frame of the noise estimate: 20 ms at 16 kHz, shorter than a gap between words
FLOOR_QUANTILE = 0.05  # the quietest twentieth of the frames lies between words
COLOUR_FRAME = 512  # samples in one frame of the noise's spectrum: 32 ms at 16 kHz
COLOUR_SHARE = 0.1  # share of the frames, the quietest ones, whose spectrum the noise gets
SILENT = 1e-10  # mean square of digital silence, below that of any noise: rounding to 16 bits alone adds 0.8e-10
RT60_SECONDS = (0.1, 0.5)  # time in which an echo decays by 60 dB: from a car or furnished bedroom to a living room
DIRECT_DB = (0.0, 15.0)  # ratio of direct sound to echo: from a microphone across the table to one at the mouth
BAND_EDGE_MEL = 40.0  # width of the transition beside a dropped band; narrower ones ring for longer


def between(low: float, high: float, generator: torch.Generator) -> float:
    """A number drawn uniformly from ``low`` to ``high``."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def change_speed(waveform: Tensor, sample_rate: int, factor: float) -> Tensor:
    """Play ``waveform`` ``[T]`` ``factor`` times as fast, which also changes the pitch: ``[ceil(T / factor)]`` samples.

    Source: Ko et al. 2015. ``torchaudio.transforms.Speed`` is not used, since it truncates 0.57 * 100 to 56.
    """
    if factor == 1:
        return waveform
    return _resampler(round(factor * sample_rate), sample_rate)(waveform).clamp(-1, 1)


@lru_cache(maxsize=32)
def _resampler(from_rate: int, to_rate: int) -> Resample:
    """A resampler, cached because making its filter takes longer than applying it to a short clip."""
    return Resample(from_rate, to_rate)


def add_silence(waveform: Tensor, lead: int, trail: int, generator: torch.Generator) -> Tensor:
    """Add ``lead`` samples of silence before ``waveform`` ``[T]`` and ``trail`` after it: ``[lead + T + trail]``.

    The silence is Gaussian noise at the recording's own noise floor. In a real recording digital zeros never follow
    speech, and a model would learn to recognise such transitions.
    """
    if lead == trail == 0:
        return waveform
    noise = torch.randn(lead + trail, generator=generator) * noise_floor(waveform)
    return torch.cat([noise[:lead], waveform, noise[lead:]]).clamp(-1, 1)


def noise_floor(waveform: Tensor) -> Tensor:
    """The root mean square of the quietest frames of a recording ``[T]``, a scalar."""
    usable = waveform.numel() // FLOOR_FRAME * FLOOR_FRAME
    if not usable:
        return waveform.new_zeros(())
    frames = waveform[:usable].view(-1, FLOOR_FRAME)
    return frames.square().mean(1).sqrt().quantile(FLOOR_QUANTILE)


def add_room(waveform: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Add the echo of a random room to ``waveform`` ``[T]``; length and root mean square stay the same.

    The room's impulse response is a direct path plus Gaussian noise that decays exponentially (Polack's model). Its
    reverberation time and the ratio of direct sound to echo are drawn from ``RT60_SECONDS`` and ``DIRECT_DB``.
    """
    rt60 = between(*RT60_SECONDS, generator)
    direct_db = between(*DIRECT_DB, generator)
    time = torch.arange(round(rt60 * sample_rate)) / sample_rate
    echo = torch.randn(time.numel(), generator=generator) * torch.exp(-6.9078 * time / rt60)  # e^-6.9078 is -60 dB
    response = echo / echo.norm() * 10 ** (-direct_db / 20)
    response[0] = 1
    padded = _round_length(waveform.numel() + response.numel())  # torchaudio's fftconvolve does not round lengths up
    wet = torch.fft.irfft(torch.fft.rfft(waveform, padded) * torch.fft.rfft(response, padded), padded)
    wet = wet[: waveform.numel()]
    return _without_clipping(wet * (_rms(waveform) / _rms(wet).clamp(min=1e-8)))


def add_noise(waveform: Tensor, recording: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """Add stationary noise with the spectrum of the quiet parts of ``recording`` to ``waveform`` ``[T]``.

    Args:
        waveform: The samples to which the noise is added.
        recording: ``waveform`` before silence was added, ``[T']``; its level and its quiet parts are measured.
        snr_db: Ratio of the root mean squares of ``recording`` and noise, in dB.
        generator: Random generator of the noise.
    """
    padded = _round_length(waveform.numel())
    spectrum = torch.fft.rfft(torch.randn(padded, generator=generator))
    colour = torch.nn.functional.interpolate(
        noise_colour(recording)[None, None], spectrum.numel(), mode="linear", align_corners=True
    )
    noise = torch.fft.irfft(spectrum * colour[0, 0], padded)[: waveform.numel()]
    level = _rms(recording) * 10 ** (-snr_db / 20)
    return _without_clipping(waveform + noise * (level / _rms(noise).clamp(min=1e-8)))


def noise_colour(recording: Tensor) -> Tensor:
    """Magnitude spectrum ``[257]``, from 0 Hz to half the sample rate, of the quietest tenth of a recording ``[T]``.

    It is that of pink noise if the tenth is digital silence, or if the recording is shorter than a frame.
    """
    if recording.numel() >= COLOUR_FRAME:
        frames = recording.unfold(0, COLOUR_FRAME, COLOUR_FRAME // 2)
        power = frames.square().mean(1)
        quiet = power.topk(max(1, round(COLOUR_SHARE * len(power))), largest=False)
        if quiet.values.mean() > SILENT:
            spectra = torch.fft.rfft(frames[quiet.indices] * torch.hann_window(COLOUR_FRAME))
            magnitudes = spectra.abs().square().mean(0).sqrt()
            return magnitudes / magnitudes.max()
    return torch.arange(COLOUR_FRAME // 2 + 1).clamp(min=1).rsqrt()


def drop_bands(waveform: Tensor, sample_rate: int, count: int, widest: float, generator: torch.Generator) -> Tensor:
    """Remove ``count`` frequency bands from ``waveform`` ``[T]``.

    Their widths are drawn uniformly from 0 to ``widest``, a share of the mel scale up to half the sample rate; so are
    their positions. These are the frequency masks of Park et al. 2019 on samples, as in SpeechBrain's ``DropFreq``.
    """
    padded = _round_length(waveform.numel())
    mel = _mel(torch.linspace(0, sample_rate / 2, padded // 2 + 1))
    gain = torch.ones_like(mel)
    for _ in range(count):
        width = between(0, widest * float(mel[-1]), generator)
        low = between(0, float(mel[-1]) - width, generator)
        beside = (torch.maximum(low - mel, mel - low - width) / BAND_EDGE_MEL).clamp(0, 1)
        gain *= 0.5 - 0.5 * torch.cos(torch.pi * beside)
    return _without_clipping(torch.fft.irfft(torch.fft.rfft(waveform, padded) * gain, padded)[: waveform.numel()])


def drop_stretches(waveform: Tensor, count: int, longest: float, generator: torch.Generator) -> Tensor:
    """Replace ``count`` stretches of ``waveform`` ``[T]`` by noise at the recording's own noise floor.

    Their lengths are drawn uniformly from 0 to ``longest``, a share of the recording, and so are their positions. These
    are the time masks of Park et al. 2019 on samples, as in SpeechBrain's ``DropChunk``.
    """
    floor = noise_floor(waveform)
    waveform = waveform.clone()
    for _ in range(count):
        length = int(between(0, longest * waveform.numel(), generator))
        start = int(between(0, waveform.numel() - length, generator))
        waveform[start : start + length] = torch.randn(length, generator=generator) * floor
    return waveform.clamp(-1, 1)


def change_gain(waveform: Tensor, gain_db: float) -> Tensor:
    """Amplify ``waveform`` ``[T]`` by ``gain_db`` dB, or by as much as possible without clipping."""
    return waveform * min(10 ** (gain_db / 20), 1 / max(float(waveform.abs().max()), 1e-8))


def _rms(waveform: Tensor) -> Tensor:
    return waveform.square().mean().sqrt()


def _without_clipping(waveform: Tensor) -> Tensor:
    """Scale ``waveform`` down if its peak is above 1."""
    return waveform / waveform.abs().max().clamp(min=1)


def _round_length(length: int) -> int:
    """Round up to a multiple of 1024, since an FFT of a prime length takes several times as long."""
    return -(-length // 1024) * 1024


def _mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)
