"""Features and limits of the collator, against the 30 s features of Hugging Face."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr_lightning.adapters.whisper import WhisperAdapter
from tests.tiny_models import clip, tiny_whisper

# 1.28 s fills 128 frames with no margin left: the hardest case for the end of the STFT.
LENGTHS = [0.3, 1.28, 2.0, 3.21]


def full_window(adapter: WhisperAdapter, waveform: torch.Tensor) -> torch.Tensor:
    features = adapter.processor.feature_extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    return features.input_features[0]


@pytest.mark.parametrize("margin_seconds", [0.0, 0.01, 0.64])
@pytest.mark.parametrize("seconds", LENGTHS)
def test_sliced_mel_equals_30s_mel(make_whisper, seconds: float, margin_seconds: float):
    adapter = make_whisper(margin_seconds=margin_seconds)
    utterances = [clip(seconds, seed=1), clip(seconds / 2, seed=2)]
    utterances[0].waveform[-200:] = 0.9  # a hard end, which reflection would double
    features = adapter.features(adapter.collator()(utterances))
    assert features.dtype == torch.float32
    for row, utterance in zip(features, utterances, strict=True):
        expected = full_window(adapter, utterance.waveform)[:, : features.shape[-1]]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_context_is_the_longest_clip_a_margin_and_a_bucket(make_whisper):
    log_mel = make_whisper()._log_mel
    for seconds in (0.1, 1.0, 3.44, 29.0, 30.0):
        frames = log_mel.num_frames(round(seconds * 16_000))
        wanted = min(math.ceil(round(seconds * 100, 6) + 64), 3000)
        assert frames % 2 == 0
        assert wanted <= frames <= min(wanted + 15, 3000)


def test_window_mode_has_3000_frames(make_whisper):
    adapter = make_whisper(context="window")
    utterance = clip(2.0)
    features = adapter.features(adapter.collator()([utterance]))
    torch.testing.assert_close(features[0], full_window(adapter, utterance.waveform), atol=1e-6, rtol=0)


def test_long_label_rejected_with_filename(make_whisper):
    adapter = make_whisper()
    room = 448 - len(adapter.rules.prompt)
    fits, too_long = "x" * (room - 1), "x" * room  # the leading space takes one token
    assert adapter.collator()([clip(text=fits)]).targets.shape == (1, 448)
    with pytest.raises(ValueError, match=r"the transcript of speech-7 has 449 tokens .* the model takes 448: cut"):
        adapter.collator()([clip(), clip(text=too_long, uid="speech-7")])


def test_long_audio_and_other_sample_rates_are_refused(make_whisper):
    adapter = make_whisper()
    collator = adapter.collator()
    assert adapter.features(collator([clip(30.0)])).shape[-1] == 3000
    with pytest.raises(ValueError, match=r"speech-8 lasts 30.1 s, Whisper takes 30: cut"):
        collator([clip(30.1, uid="speech-8")])
    with pytest.raises(ValueError, match="speech-9 has 8000 Hz, Whisper takes 16000: resample"):
        collator([replace(clip(uid="speech-9"), sample_rate=8000)])


def test_transcripts_in_capitals_are_warned_of(make_whisper, caplog: pytest.LogCaptureFixture):
    """Only if the vocabulary has words in both cases: single bytes of both cases are in every one."""
    collator, texts = make_whisper().collator(), {"a.wav": "OPEN THE WINDOW", "b.wav": "CLOSE THE DOOR"}
    collator.check(texts, dict.fromkeys(texts, 1.0))
    assert caplog.text == ""
    collator.tokenizer.add_tokens(["Open", "it.", "now,"])
    collator.check(texts, dict.fromkeys(texts, 1.0))
    assert "2 of 2 transcripts are in capitals only, and this model writes small letters too" in caplog.text
    assert "this model writes punctuation and the transcripts have none" in caplog.text


def test_texts_and_order_are_untouched(whisper: WhisperAdapter):
    batch = whisper.collator()([clip(2.0, text=" Hello, World! ", uid="b"), clip(1.0, text="", uid="a")])
    assert batch.uids == ("b", "a")
    assert batch.texts == (" Hello, World! ", "")
    assert batch.seconds.tolist() == [2.0, 1.0]
    assert batch.target_lengths[1] == len(whisper.rules.prompt), "an empty text is the end token alone"


def test_special_tokens_in_a_transcript_do_not_reach_the_prompt(whisper: WhisperAdapter):
    ids = whisper.collator()([clip(text="hello")]).inputs["decoder_input_ids"][0].tolist()
    text = whisper.processor.tokenizer.decode(ids[len(whisper.rules.prompt) :])
    assert text == " hello"


def test_collator_pickles_without_the_model(whisper: WhisperAdapter):
    collator = whisper.collator()
    data = pickle.dumps(collator)
    again, batch = pickle.loads(data)([clip()]), collator([clip()])
    assert torch.equal(again.inputs["waveforms"], batch.inputs["waveforms"])
    assert torch.equal(again.targets, batch.targets)
    assert len(data) < sum(p.numel() * 4 for p in whisper.model.parameters()) / 2


def test_mel_bins_roundtrip(tmp_path: Path):
    """The large-v3 family has 128 bins; a missing preprocessor_config.json must not mean 80."""
    folder = tiny_whisper(tmp_path / "v3", multilingual=True, num_mel_bins=128)
    (folder / "preprocessor_config.json").unlink()
    adapter = WhisperAdapter(str(folder), language="de")
    assert adapter.features(adapter.collator()([clip()])).shape[1] == 128
    (tmp_path / "saved").mkdir()
    adapter.save(tmp_path / "saved")
    again = WhisperAdapter(str(tmp_path / "saved"))
    assert again.processor.feature_extractor.feature_size == again.model.config.num_mel_bins == 128
    assert '"feature_size": 128' in (tmp_path / "saved" / "preprocessor_config.json").read_text()
