from __future__ import annotations

import pytest
import torch

from asr_lightning.datamodules.augment_audio import (
    add_noise,
    add_room,
    add_silence,
    change_gain,
    change_speed,
    drop_bands,
    drop_stretches,
    noise_colour,
    noise_floor,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sine(hertz: float, seconds: float = 1.0, sample_rate: int = 16_000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * sample_rate)) / sample_rate)


def white(seconds: float = 1.0, level: float = 0.1, seed: int = 0) -> torch.Tensor:
    return level * torch.randn(round(seconds * 16_000), generator=generator(seed))


def decibels(one: torch.Tensor, other: torch.Tensor) -> float:
    """Power of one recording over that of another."""
    return 10 * float(torch.log10(one.square().mean() / other.square().mean()))


def spectrum_db(waveform: torch.Tensor) -> torch.Tensor:
    """Power in dB in 100 bands from 0 Hz to half the sample rate."""
    power = torch.fft.rfft(waveform).abs().square()
    return 10 * power[: len(power) // 100 * 100].view(100, -1).mean(1).log10()


@pytest.mark.parametrize("factor", [0.57, 0.9, 0.95, 1.05, 1.1, 2.0])
@pytest.mark.parametrize("sample_rate", [8000, 16_000])
def test_speed_changes_length_and_pitch(factor, sample_rate):
    fast = change_speed(sine(400, 1.0, sample_rate), sample_rate, factor)
    assert fast.dtype == torch.float32
    assert abs(len(fast) - sample_rate / factor) <= 1
    pitch = torch.fft.rfft(fast).abs().argmax() * sample_rate / len(fast)
    assert float(pitch) == pytest.approx(400 * factor, rel=0.01)


def test_speed_one_changes_nothing():
    waveform = sine(400)
    assert change_speed(waveform, 16_000, 1.0) is waveform


def test_silence_has_the_recordings_own_floor():
    waveform = torch.cat([sine(400, 0.5), torch.zeros(3200)]) + 0.01 * torch.randn(11_200, generator=generator())
    longer = add_silence(waveform, 1600, 800, generator())
    assert torch.equal(longer[1600:-800], waveform) and len(longer) == 11_200 + 2400
    assert float(longer[:1600].std()) == pytest.approx(0.01, rel=0.15)
    assert float(longer[-800:].std()) == pytest.approx(0.01, rel=0.15)
    assert add_silence(waveform, 0, 0, generator()) is waveform


def test_noise_floor_of_odd_recordings():
    assert noise_floor(torch.ones(10)) == 0
    assert noise_floor(torch.zeros(5000)) == 0
    assert float(noise_floor(torch.full((5000,), 0.1))) == pytest.approx(0.1)


def test_rooms_keep_length_and_level():
    speech = torch.cat([white(0.3), torch.zeros(8000), white(0.3, seed=1), torch.zeros(8003)])
    before = speech.clone()
    for seed in range(10):
        wet = add_room(speech, 16_000, generator(seed))
        assert wet.shape == speech.shape and wet.dtype == torch.float32 and torch.equal(speech, before)
        assert decibels(wet, speech) == pytest.approx(0, abs=0.01)
        assert torch.equal(wet, add_room(speech, 16_000, generator(seed)))
    assert not torch.equal(wet, add_room(speech, 16_000, generator()))


def test_echo_decays_as_fast_as_that_of_a_room():
    """A click's echo falls by 60 dB in 0.1 to 0.5 s, and has 0 to 15 dB less energy than the direct sound."""
    click = torch.zeros(16_000)
    click[0] = 0.5
    times, ratios = [], []
    for seed in range(40):
        energy = add_room(click, 16_000, generator(seed)).square()
        left = 10 * torch.log10(energy[1:].flip(0).cumsum(0).flip(0).clamp(min=1e-20) / energy[1:].sum())
        times.append(3 * float((left > -20).sum()) / 16_000)  # Schroeder's integral, to -20 dB
        ratios.append(10 * float(torch.log10(energy[0] / energy[1:].sum())))
    assert 0.08 < min(times) < 0.2 and 0.4 < max(times) < 0.55
    assert -1.5 < min(ratios) < 3 and 12 < max(ratios) < 15.5


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 25.0])
def test_noise_has_the_ratio_asked_for(snr_db):
    waveform = sine(300) + white(level=0.001)
    noise = add_noise(waveform, waveform, snr_db, generator()) - waveform
    if snr_db:  # at 0 dB the sum would clip, so that both parts are made quieter
        assert decibels(waveform, noise) == pytest.approx(snr_db, abs=0.1)
    assert add_noise(waveform, waveform, snr_db, generator()).abs().max() <= 1


def test_noise_has_the_colour_of_the_pauses():
    """The pause hums between 1 and 2 kHz, the louder part is white."""
    band = torch.fft.rfft(white(2.0))
    hertz = torch.linspace(0, 8000, len(band))
    pause = torch.fft.irfft(band * ((hertz > 1000) & (hertz < 2000)), 32_000) * 0.1
    waveform = pause + torch.cat([torch.zeros(16_000), white(seed=1)])
    noise = add_noise(waveform, waveform, 10, generator()) - waveform
    levels = spectrum_db(noise)
    assert levels[14:24].min() > levels[:8].max() + 15 and levels[14:24].min() > levels[32:].max() + 15


@pytest.mark.parametrize("length", [16_000, 300, 513])
def test_noise_of_digital_silence_is_pink(length):
    """Half the power at twice the frequency: 3 dB an octave."""
    waveform = torch.cat([torch.zeros(length), sine(300)]) if length == 16_000 else sine(300, length / 16_000)
    noisy = add_noise(waveform, waveform, 10, generator())
    assert noisy.shape == waveform.shape and noisy.isfinite().all()
    if length == 16_000:
        levels = spectrum_db(noisy - waveform)
        assert float(levels[10:20].mean() - levels[40:80].mean()) == pytest.approx(6, abs=1)
        assert torch.equal(noise_colour(waveform), noise_colour(torch.zeros(300)))


def test_silence_itself_stays_silent():
    silence = torch.zeros(16_000)
    assert torch.equal(add_noise(silence, silence, 10, generator()), silence)
    assert torch.equal(add_room(silence, 16_000, generator()), silence)
    assert torch.equal(change_gain(silence, 6), silence)
    assert torch.equal(drop_bands(silence, 16_000, 2, 0.1, generator()), silence)


def test_bands_are_taken_out():
    """Each band goes down by 20 dB and more over up to a tenth of the mel scale; what is far from it stays."""
    waveform = white(3.0)
    before, lost = waveform.clone(), []
    for seed in range(50):
        holed = drop_bands(waveform, 16_000, 1, 0.1, generator(seed))
        assert holed.shape == waveform.shape and torch.equal(waveform, before)
        change = spectrum_db(holed) - spectrum_db(waveform)
        lost.append(int((change < -20).sum()))
        assert (change.abs() < 0.2).sum() > 70
    assert 8 <= max(lost) <= 20 and min(lost) == 0  # 10 % of the mel scale is up to 1.8 kHz at its upper end
    assert torch.equal(holed, drop_bands(waveform, 16_000, 1, 0.1, generator(49)))


def test_a_tone_in_the_band_is_gone_and_one_beside_it_stays():
    for hertz in (500, 1000, 4000):
        levels = torch.tensor(
            [decibels(drop_bands(sine(hertz), 16_000, 1, 0.2, generator(seed)), sine(hertz)) for seed in range(100)]
        )
        assert 0.05 < (levels < -20).float().mean() < 0.25  # of bands of 10 % in the mean
        assert (levels > -0.1).float().mean() > 0.6


def test_stretches_become_noise_at_the_floor():
    waveform = sine(300) + white(level=0.01)
    waveform[:1600] = white(0.1, level=0.01)
    before, lengths = waveform.clone(), []
    for seed in range(100):
        holed = drop_stretches(waveform, 1, 0.2, generator(seed))
        changed = (holed != waveform).nonzero().flatten()
        assert torch.equal(waveform, before) and holed.shape == waveform.shape
        lengths.append(len(changed))
        if len(changed) > 500:
            assert changed[-1] - changed[0] + 1 == len(changed)  # in one piece
            assert float(holed[changed].std()) == pytest.approx(0.01, rel=0.2)
    assert max(lengths) <= 3200 and 0.08 < sum(lengths) / 100 / 16_000 < 0.12
    assert torch.equal(holed, drop_stretches(waveform, 1, 0.2, generator(99)))


def test_gain_stops_where_it_would_clip():
    assert decibels(change_gain(sine(300), 5), sine(300)) == pytest.approx(5, abs=0.01)
    assert decibels(change_gain(sine(300), -12), sine(300)) == pytest.approx(-12, abs=0.01)
    assert (
        float(change_gain(sine(300), 20).abs().max())
        == pytest.approx(1)
        == pytest.approx(float(change_gain(sine(300) * 2, 20).abs().max()))
    )
