from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_lightning.augment import (
    Augmentation,
    add_silence,
    change_speed,
    noise_floor,
    partners,
    perturb,
    spec_augment,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sine(hertz: float, seconds: float = 1.0, sample_rate: int = 16_000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * sample_rate)) / sample_rate)


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


def test_perturb_repeats_with_its_generator_and_leaves_the_input():
    waveform, everything = sine(300), Augmentation((0.9, 1.0, 1.1), 0.3, 0.3)
    before = waveform.clone()
    one, same, other = (perturb(waveform, 16_000, everything, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and one.shape != other.shape
    assert torch.equal(waveform, before) and one.dtype == torch.float32 and one.abs().max() <= 1


def test_perturb_ignores_global_randomness():
    torch.manual_seed(0)
    first = perturb(sine(300), 16_000, Augmentation((0.9, 1.1), 0.1, 0.1), generator())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(perturb(sine(300), 16_000, Augmentation((0.9, 1.1), 0.1, 0.1), generator()), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_perturb_uses_every_speed_and_stays_within_the_limit():
    lengths = {
        len(perturb(sine(300), 16_000, Augmentation((0.9, 1.0, 1.1)), generator(seed), max_seconds=1.0))
        for seed in range(30)
    }
    assert lengths == {16_000, 14_546}  # 0.9 would not fit
    slow = Augmentation((0.5,), 1.0, 1.0)
    for seed in range(30):
        assert 16_000 <= len(perturb(sine(300), 16_000, slow, generator(seed), max_seconds=1.1)) <= 17_600


def test_default_augmentation_changes_nothing():
    waveform = sine(300)
    assert perturb(waveform, 16_000, Augmentation(), generator()) is waveform


def test_masks_fall_on_speech():
    """Padding stays, true frames lose stretches and bands, and the input is not touched (T15, T16)."""
    num_frames = torch.tensor([100, 40, 10, 100])
    features = torch.ones(4, 80, 100)
    before = features.clone()
    hits = torch.zeros(4, 80, 100)
    for seed in range(200):
        masked = spec_augment(features, num_frames, 2, 0.2, 2, 10, generator(seed))
        assert torch.equal(features, before) and masked.data_ptr() != features.data_ptr()
        hits += masked == 0
    for clip, length in enumerate(num_frames.tolist()):
        assert (hits[clip, :, length:] == 0).all()  # padding is never masked
        assert (hits[clip, :, :length] > 0).all()  # every true frame is masked at times
        assert 0.1 < hits[clip, :, :length].mean() / 200 < 0.4


def test_mask_sizes():
    features, num_frames = torch.ones(64, 80, 200), torch.full((64,), 150)
    time_only = spec_augment(features, num_frames, 1, 0.2, 0, 0, generator())
    columns = (time_only == 0).all(1).sum(1)
    assert columns.max() == 30 and columns.min() == 0 and ((time_only == 0).any(1).sum(1) == columns).all()
    bands_only = spec_augment(features, num_frames, 0, 0.0, 1, 12, generator())
    rows = (bands_only[:, :, :150] == 0).all(2).sum(1)
    assert rows.max() == 12 and rows.min() == 0
    assert torch.equal(spec_augment(features, num_frames, 0, 0.0, 0, 0), features)


def test_masks_take_a_value_and_half_precision():
    features = torch.randn(2, 8, 20, generator=generator()).half()
    masked = spec_augment(features, torch.tensor([20, 5]), 2, 0.5, 2, 4, generator(), value=-4.0)
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
