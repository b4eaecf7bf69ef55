from __future__ import annotations

import pickle

import pytest
import torch

from asr_lightning.data.folder import scan_folder
from asr_lightning.datamodules.augment import Augmentation
from asr_lightning.datamodules.dataset import AudioCache, Pick, UtteranceDataset, WholeBatches, measure
from asr_lightning.types import AudioLimits

LIMITS = AudioLimits(sample_rate=16_000)
VARIED = Augmentation((0.9, 1.1), 0.1, 0.1)


def dataset_of(folder, augmentation=None, seed=0, max_bytes=2**30):
    rows = scan_folder(folder)
    cache = AudioCache(folder, 16_000, max_bytes)
    return UtteranceDataset(rows, measure(rows, cache, LIMITS), cache, augmentation, seed=seed)


def test_one_index_or_a_batch(mixed_folder):
    dataset = dataset_of(mixed_folder)
    one = dataset[1]
    assert (one.uid, one.text, one.sample_rate) == ("rec 01.é", "call my sister", 16_000)
    assert one.waveform.dtype == torch.float32 and one.waveform.ndim == 1
    assert one.seconds == dataset.seconds[1] == pytest.approx(0.5, abs=0.1)
    batches = WholeBatches(dataset, [[Pick(None, 0)], [Pick(None, 2), Pick(None, 1)]])
    assert len(batches) == 2
    assert [utterance.uid for utterance in batches[1]] == ["rec 02.é", "rec 01.é"]
    picked = batches[[Pick(None, 3), Pick(None, 1, is_duplicate=True)]]
    assert [(utterance.uid, utterance.is_duplicate) for utterance in picked] == [
        ("rec 03.é", False),
        ("rec 01.é", True),
    ]


def test_augmentation_depends_on_seed_epoch_and_uid_only(make_folder):
    folder = make_folder(3)
    dataset, again, other = (dataset_of(folder, VARIED, seed) for seed in (1, 1, 2))
    torch.manual_seed(5)
    first = dataset.utterance(1, epoch=4).waveform
    _ = again.utterance(0, epoch=3), torch.rand(7)
    assert torch.equal(again.utterance(1, epoch=4).waveform, first)
    assert not torch.equal(other.utterance(1, epoch=4).waveform[:4000], first[:4000])
    assert not torch.equal(dataset.utterance(1, epoch=5).waveform[:4000], first[:4000])
    assert torch.equal(
        dataset[1].waveform, dataset_of(folder).utterance(1, epoch=4).waveform
    )  # no epoch or no augmentation


def test_samples_changed_in_place_do_not_reach_the_cache(make_folder):
    dataset = dataset_of(make_folder(3))
    before = dataset[0].waveform.clone()
    dataset[0].waveform.zero_()
    assert torch.equal(dataset[0].waveform, before)


def test_cache_respects_its_size(make_folder):
    folder = make_folder(6)
    large = dataset_of(folder)
    assert large.cache.num_bytes == sum(large[index].waveform.nbytes for index in range(6))
    small = dataset_of(folder, max_bytes=large.cache.num_bytes // 2)
    assert 0 < small.cache.num_bytes <= large.cache.num_bytes // 2
    for index in range(6):
        assert torch.equal(small[index].waveform, large[index].waveform)


def test_cached_recording_is_decoded_once(make_folder):
    folder = make_folder(3)
    dataset = dataset_of(folder)
    before = dataset[0].waveform
    (folder / dataset.rows[0].file_name).unlink()
    assert torch.equal(dataset[0].waveform, before)


def test_copy_for_a_worker_is_small_and_equal(make_folder):
    dataset = dataset_of(make_folder(6), VARIED)
    packed = pickle.dumps(dataset)
    assert len(packed) < 5000
    assert torch.equal(pickle.loads(packed).utterance(3, epoch=2).waveform, dataset.utterance(3, epoch=2).waveform)


def test_every_unusable_recording_is_listed(make_folder, write_audio, caplog):
    folder = make_folder(6)
    (folder / "clip000.wav").write_bytes(b"garbage" * 100)
    (folder / "clip001.wav").write_bytes(b"")
    write_audio(folder / "clip002.wav", 0.05)
    write_audio(folder / "clip003.wav", 2.5)
    write_audio(folder / "clip004.wav", 0.2)
    limits = AudioLimits(sample_rate=16_000, max_seconds=2.0)
    with pytest.raises(ValueError) as error:
        measure(scan_folder(folder), AudioCache(folder, 16_000, 2**30), limits)
    message = str(error.value)
    assert "2 recordings cannot be used" in message and "clip000.wav" in message and "clip001.wav" in message
    assert "1 recordings are too short, under 0.1 s: clip002.wav (0.05 s)" in message
    assert "1 recordings are too long, the model takes 2 s at most: clip003.wav (2.50 s)" in message
    assert "split each at a pause" in message
    assert "1 recordings are under 0.3 s: clip004.wav (0.20 s)" in caplog.text  # kept, and named


def test_joined_recordings_carry_both_texts_and_fit(make_folder):
    """Sound and text of the same clips in one order; what would be too long is left out, never cut."""
    folder = make_folder(4)
    dataset = dataset_of(folder, Augmentation(join=1.0))
    texts = [row.text for row in dataset.rows]
    for epoch in range(5):
        joined = dataset.utterance(0, epoch)
        parts = [text for text in texts if text in joined.text]
        assert 2 <= len(parts) <= 3 and joined.text.startswith(texts[0])
        samples = sum(dataset[texts.index(part)].waveform.numel() for part in parts)
        assert joined.waveform.numel() == samples
        assert torch.equal(joined.waveform[: dataset[0].waveform.numel()], dataset[0].waveform)
    dataset.max_seconds = dataset.seconds[0] + 0.1
    assert dataset.utterance(0, 0).text == texts[0]


def test_each_repeat_within_an_epoch_is_varied_otherwise(make_folder):
    dataset = dataset_of(make_folder(3), VARIED)
    first, second, again = (dataset.utterance(1, 4, repeat).waveform for repeat in (0, 1, 1))
    assert torch.equal(second, again)
    assert first.shape != second.shape or not torch.equal(first, second)
    assert torch.equal(first, dataset.utterance(1, 4).waveform)
