"""Whisper in whisper.cpp: the texts of torch, whatever was read before, at true length and in the window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.data import audio as recordings
from asr_lightning.errors import ModelError
from asr_lightning.export.whisper import ggml
from asr_lightning.runtime.contract import Decoding, Samples
from asr_lightning.runtime.whisper import whisper_cpp
from asr_lightning.runtime.whisper.whisper_cpp import WhisperCppModel
from asr_lightning.types import Utterance
from tests.tiny_models import clip
from tests.tiny_whisper_cpp import openai_like


@pytest.fixture(scope="module", params=["english", "german"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A specialized random model, and the folder that was written from it."""
    folder = tmp_path_factory.mktemp("exported")
    source = openai_like(folder, multilingual=request.param == "german")
    (folder / "ggml").mkdir()
    yield source, folder / "ggml"


def load(source: Path, target: Path, variant: str = "f16") -> WhisperCppModel:
    settings = ggml.convert(source, target, variant)
    return whisper_cpp.load(target, settings, threads=1)


def samples(seconds: float, seed: int = 0) -> Samples:
    return clip(seconds, seed=seed).waveform.numpy()


def torch_text(adapter: WhisperAdapter, audio: Samples) -> str:
    utterance = Utterance("clip", torch.from_numpy(audio), 16_000, "")
    return adapter.transcribe(adapter.collator()([utterance]))[0]


CLIPS = [samples(seconds, seed) for seed, seconds in enumerate((0.05, 1.0, 2.3, 4.0))]


def test_texts_are_those_of_torch(exported: tuple[Path, Path]) -> None:
    """At true length to the last token, the cap; in the window, random weights leave some tokens too close to call."""
    source, target = exported
    model, adapter = load(source, target), WhisperAdapter(str(source))
    found = model.transcribe(CLIPS)
    assert [hypothesis.text for hypothesis in found] == [torch_text(adapter, audio) for audio in CLIPS]
    assert all(hypothesis.confidence is not None and 0 < hypothesis.confidence < 0.1 for hypothesis in found)
    for audio, hypothesis in zip(CLIPS[:2], model.transcribe(CLIPS[:2], Decoding(native=True)), strict=True):
        assert hypothesis.text[:30] == torch_text(adapter.native(), audio)[:30]


def test_a_text_depends_on_no_other_clip(exported: tuple[Path, Path]) -> None:
    """With whisper.cpp's flash attention, a short context would also hold what a longer clip left there."""
    model = load(*exported)
    alone = [model.transcribe([audio])[0] for audio in CLIPS]
    assert model.transcribe(CLIPS[::-1])[::-1] == alone
    again = load(*exported)
    again.transcribe([samples(30, 5)])
    assert [again.transcribe([audio], Decoding(beam=5))[0] for audio in CLIPS[::-1]][::-1] == alone


def test_words_have_times_within_the_clip(exported: tuple[Path, Path]) -> None:
    model = load(*exported)
    found = model.transcribe(CLIPS, Decoding(words=True))
    assert [hypothesis.text for hypothesis in found] == [hypothesis.text for hypothesis in model.transcribe(CLIPS)]
    for audio, hypothesis in zip(CLIPS, found, strict=True):
        assert "".join(word.text for word in hypothesis.words) == hypothesis.text.replace(" ", "")
        times = [time for word in hypothesis.words for time in (word.start, word.end)]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(audio) / 16_000 + 0.02


def test_nothing_is_printed(exported: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    model = load(*exported)
    model.transcribe([*CLIPS, np.zeros(0, np.float32), np.zeros(16_000, np.float32)], Decoding(words=True))
    assert capfd.readouterr() == ("", "")


def test_a_clip_longer_than_the_window_is_refused(exported: tuple[Path, Path]) -> None:
    model = load(*exported)
    assert model.transcribe([np.zeros(30 * 16_000, np.float32)])
    with pytest.raises(ModelError, match="30 s at once"):
        model.transcribe([np.zeros(30 * 16_000 + 1, np.float32)])


def test_files_that_whisper_cpp_cannot_read_are_refused(exported: tuple[Path, Path], tmp_path: Path) -> None:
    settings = ggml.convert(exported[0], tmp_path, "f16")
    path = tmp_path / whisper_cpp.FILE_NAME
    if settings["language"]:
        for language in ("fr", "xx"):
            with pytest.raises(ModelError, match="another token"):
                whisper_cpp.load(tmp_path, {**settings, "language": language}, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match=rf"{len(whole) - 100} of {len(whole)} bytes"):
        whisper_cpp.load(tmp_path, settings, 1)
    path.write_bytes(b"\0" * len(whole))
    with pytest.raises(ModelError, match="bad magic"):
        whisper_cpp.load(tmp_path, settings, 1)
    path.unlink()
    with pytest.raises(ModelError, match="0 of"):
        whisper_cpp.load(tmp_path, settings, 1)


@pytest.mark.skipif(not os.environ.get("ASR_TEST_SLOW"), reason="a minute: ASR_TEST_SLOW=1 runs it")
@pytest.mark.parametrize("variant", ["q8_0", "f16", "q5_1"])
def test_a_real_model_reads_as_torch_does(tmp_path: Path, variant: str) -> None:
    adapter = WhisperAdapter("openai/whisper-tiny.en")
    adapter.save(tmp_path / "model")
    (tmp_path / "model" / "asr_lightning.json").unlink()  # untouched: it is read in the window
    model = load(tmp_path / "model", tmp_path, variant)
    folder = Path(__file__).parents[3] / "asr_lightning" / "canary_clips" / "en"
    clips = [recordings.load(path, 16_000) for path in sorted(folder.glob("*.ogg"))[:4]]
    found = model.transcribe(clips, Decoding(words=True))
    wanted = [torch_text(adapter.native(), audio) for audio in clips]
    assert sum(hypothesis.text == text for hypothesis, text in zip(found, wanted, strict=True)) >= 3
    assert all(hypothesis.confidence and hypothesis.confidence > 0.3 for hypothesis in found)
    assert all(" ".join(word.text for word in hypothesis.words) == hypothesis.text for hypothesis in found)
