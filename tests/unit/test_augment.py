from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.datamodules.augment import Augmentation, partners, perturb

EVERYTHING = Augmentation((0.9, 1.0, 1.1), 0.3, 0.3, room=0.5, noise=0.5, drop_bands=2, drop_stretches=2, gain_db=6.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sine(hertz: float, seconds: float = 1.0, sample_rate: int = 16_000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * sample_rate)) / sample_rate)


def test_perturb_repeats_with_its_generator_and_leaves_the_input():
    waveform, everything = sine(300), EVERYTHING
    before = waveform.clone()
    one, same, other = (perturb(waveform, 16_000, everything, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and one.shape != other.shape
    assert torch.equal(waveform, before) and one.dtype == torch.float32 and one.abs().max() <= 1


def test_perturb_ignores_global_randomness():
    always = replace(EVERYTHING, room=1.0, noise=1.0)
    torch.manual_seed(0)
    first = perturb(sine(300), 16_000, always, generator())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(perturb(sine(300), 16_000, always, generator()), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_perturb_uses_every_speed_and_stays_within_the_limit():
    lengths = {
        len(perturb(sine(300), 16_000, Augmentation((0.9, 1.0, 1.1)), generator(seed), max_seconds=1.0))
        for seed in range(30)
    }
    assert lengths == {16_000, 14_546}  # 0.9 would not fit
    slow = replace(EVERYTHING, speeds=(0.5,), lead_silence_seconds=1.0, trail_silence_seconds=1.0)
    for seed in range(30):
        assert 16_000 <= len(perturb(sine(300), 16_000, slow, generator(seed), max_seconds=1.1)) <= 17_600


def test_default_augmentation_changes_nothing():
    waveform = sine(300)
    assert perturb(waveform, 16_000, Augmentation(), generator()) is waveform


def test_what_is_off_draws_nothing():
    """A run without the newer options sees the samples that it saw before there were any."""
    one, other = generator(), generator()
    perturb(sine(300), 16_000, Augmentation(), one)
    torch.randint(1, (), generator=other)
    torch.rand(2, generator=other)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("option", [{"room": 0.3}, {"noise": 0.3}])
def test_shares_are_kept(option):
    waveform, draws = sine(300, 0.1), generator()
    changed = sum(perturb(waveform, 16_000, Augmentation(**option), draws) is not waveform for _ in range(500))
    assert 0.24 < changed / 500 < 0.36


@pytest.mark.parametrize("option", [{"drop_bands": 2}, {"drop_stretches": 2}, {"gain_db": 6.0}])
def test_every_recording_is_changed(option):
    for seed in range(20):
        varied = perturb(sine(300), 16_000, Augmentation(**option), generator(seed))
        assert varied.shape == (16_000,) and not torch.equal(varied, sine(300))


def test_added_silence_is_not_what_noise_is_made_of():
    """White silence would take the place of the recording's own hum in the measurement."""
    hum = sine(100, 2.0) * 0.02
    waveform = torch.cat([hum[:16_000], sine(1000) + hum[16_000:]])
    noisy = Augmentation(lead_silence_seconds=2.0, noise=1.0, noise_snr_db=(10, 10))
    for seed in range(5):
        silence = perturb(waveform, 16_000, noisy, generator(seed))[: -len(waveform)]
        power = torch.fft.rfft(silence).abs().square()
        assert power[: len(power) // 16].sum() > 0.9 * power.sum()  # below 500 Hz


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"room": 2.0}, "room is a share between 0 and 1"),
        ({"noise": -0.1}, "noise is a share"),
        ({"band_fraction": 1.2}, "band_fraction is a share"),
        ({"drop_stretches": -1}, "must not be negative"),
        ({"gain_db": -6.0}, "must not be negative"),
        ({"noise_snr_db": (30.0, 10.0)}, r"noise_snr_db is \[least, greatest\]"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_masks_fall_on_speech():
    """Padding stays, true frames lose stretches and bands, and the input is not touched."""
    num_frames = torch.tensor([100, 40, 10, 100])
    features = torch.ones(4, 80, 100)
    before = features.clone()
    hits = torch.zeros(4, 80, 100)
    for seed in range(200):
        masked = SpecAugment(2, 0.2, 2, 10)(features, num_frames, generator(seed))
        assert torch.equal(features, before) and masked.data_ptr() != features.data_ptr()
        hits += masked == 0
    for clip, length in enumerate(num_frames.tolist()):
        assert (hits[clip, :, length:] == 0).all()  # padding is never masked
        assert (hits[clip, :, :length] > 0).all()  # every true frame is masked at times
        assert 0.1 < hits[clip, :, :length].mean() / 200 < 0.4


def test_mask_sizes():
    features, num_frames = torch.ones(64, 80, 200), torch.full((64,), 150)
    time_only = SpecAugment(1, 0.2, 0, 0)(features, num_frames, generator())
    columns = (time_only == 0).all(1).sum(1)
    assert columns.max() == 30 and columns.min() == 0 and ((time_only == 0).any(1).sum(1) == columns).all()
    bands_only = SpecAugment(0, 0.0, 1, 12)(features, num_frames, generator())
    rows = (bands_only[:, :, :150] == 0).all(2).sum(1)
    assert rows.max() == 12 and rows.min() == 0
    assert torch.equal(SpecAugment()(features, num_frames), features)


def test_masks_take_a_value_and_half_precision():
    features = torch.randn(2, 8, 20, generator=generator()).half()
    masked = SpecAugment(2, 0.5, 2, 4)(features, torch.tensor([20, 5]), generator(), value=-4.0)
    assert masked.dtype == torch.float16 and (masked[0] == -4).any()
    assert torch.equal(masked[masked != -4], features[masked != -4])


def test_no_float64():
    waveform = torch.from_numpy(np.sin(np.arange(16_000)).astype(np.float32))
    varied = perturb(waveform, 16_000, Augmentation((0.9, 1.1), 0.2, 0.2), generator())
    assert varied.dtype == torch.float32


def test_partners_are_one_or_two_others() -> None:
    """Half of the recordings get company, never their own, each place as likely as any other."""
    generator = torch.Generator().manual_seed(0)
    drawn = [partners(2, 5, Augmentation(join=0.5), generator) for _ in range(4000)]
    assert 0.47 < sum(map(bool, drawn)) / 4000 < 0.53
    assert {len(others) for others in drawn} == {0, 1, 2}
    assert all(len(set(others)) == len(others) for others in drawn)
    counts = torch.bincount(torch.tensor([other for others in drawn for other in others]), minlength=5)
    assert counts[2] == 0
    assert counts[[0, 1, 3, 4]].max() < 1.2 * counts[[0, 1, 3, 4]].min()
    assert partners(0, 1, Augmentation(join=1.0), generator) == []
    assert partners(0, 9, Augmentation(), generator) == []


def test_join_is_a_share() -> None:
    with pytest.raises(ValueError, match="join is a share between 0 and 1"):
        Augmentation(join=1.5)
