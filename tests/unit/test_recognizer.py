"""One line reads a recording in any form; what cannot be read is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import asr_lightning as asr
from asr_lightning import errors
from asr_lightning import recognizer as recognizer_module
from asr_lightning.adapters import registry
from asr_lightning.adapters.cards import ADAPTERS, ModelCard
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.cli import predict
from asr_lightning.runtime.contract import Decoding, Hypothesis, Word
from tests.tiny_models import tiny_whisper
from tests.toy_run import toy_data, toy_fit, toy_module


@pytest.fixture(scope="module")
def model(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that has learned its letters."""
    module, folder = toy_module(), tmp_path_factory.mktemp("run") / "runs" / "model"
    toy_fit(module, toy_data(tones_once), [], max_epochs=25)
    module.adapter.save(folder)
    return folder


@pytest.fixture
def recognizer(model: Path) -> asr.Recognizer:
    return asr.load(model)


def test_two_lines_read_a_file(model: Path, tones_once: Path) -> None:
    recognizer = asr.load(model)
    name = toy_data(tones_once).splits["train"][0].file_name
    transcription = recognizer.transcribe(tones_once / name)
    assert transcription.text == (tones_once / name).with_suffix(".txt").read_text().strip()
    assert transcription.seconds == pytest.approx(soundfile.info(tones_once / name).duration)


def test_every_form_of_a_recording_is_read_alike(recognizer: asr.Recognizer, tones_once: Path) -> None:
    path = tones_once / "002.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    as_floats = samples / 32768
    expected = recognizer.transcribe(str(path))
    forms = [
        samples,
        as_floats,
        as_floats.astype(np.float32),
        torch.from_numpy(as_floats),
        torch.from_numpy(samples),
        samples[::-1].copy()[::-1],
    ]
    assert recognizer.transcribe(forms, sample_rate=rate) == [expected] * len(forms)
    content = path.read_bytes()
    for whole in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        assert recognizer.transcribe(whole) == expected
    assert recognizer.transcribe([path, path.read_bytes()]) == [expected, expected]


def test_a_list_keeps_its_order_whatever_shares_a_batch(model: Path, tones_once: Path) -> None:
    paths = sorted(tones_once.glob("*.wav"))[::-1]
    texts = [asr.load(model).transcribe(path).text for path in paths]
    assert len(set(texts)) == len(texts)
    for batch_size in (1, 3, 16):
        recognizer = asr.load(model, batch_size=batch_size)
        assert [found.text for found in recognizer.transcribe(paths)] == texts
    assert recognizer.transcribe([]) == []


def tone(length: int) -> np.ndarray:
    return np.sin(np.arange(length) / 4)


@pytest.mark.parametrize(
    ("recording", "rate", "message"),
    [
        (np.zeros(8000), None, "the recording: give sample_rate, in Hz, with samples"),
        (np.zeros((2, 8000)), 8000, r"the recording: samples have the shape \(2, 8000\): give one channel"),
        (np.full(8000, 12_000.0), 8000, "the recording: give samples as int16, or as numbers from -1 to 1"),
        (np.full(8000, np.nan), 8000, "the recording: give samples as int16"),
        (np.zeros(8000, dtype=np.uint8), 8000, "the recording: give samples as int16"),
        (np.zeros(8000, dtype=np.int32), 8000, "the recording: give samples as int16"),
        (np.zeros(8000), "8000", "the recording: sample_rate is a whole number of Hz, not '8000'"),
        ({"RIFF"}, 8000, "the recording: give a file, the bytes of one, or samples; set is none"),
        (tone(80), 8000, "the recording: 0.01 s is shorter than 0.1 s"),
        (np.zeros(8000), 8000, r"the recording: it is silent \(all samples are equal\); record it again"),
        (tone(8000) * 0.003, 8000, r"the recording: it is silent \(peak -50 dBFS\); record it again"),
        (np.zeros(8000, dtype=np.int16), 8000, "the recording: it is silent"),
        (b"no sound", None, "the recording: "),
        ("nowhere.wav", None, "nowhere.wav: there is no such file"),
        ([tone(8000), tone(8)], 8000, "recording 1: 0.00 s is shorter"),
    ],
)
def test_what_cannot_be_read_is_named(recognizer: asr.Recognizer, recording, rate, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recognizer.transcribe(recording, sample_rate=rate)


def test_a_recording_that_is_too_long_is_cut_at_its_pauses(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tones are no speech, so a phrase that is too long is found in them only where the detector is told so."""
    recognizer = asr.load(model)
    found = recognizer.transcribe(tone(8000 * 31), sample_rate=8000)
    assert (found.text, found.segments, found.seconds) == ("", (), 31.0)
    monkeypatch.setattr(recognizer_module, "find_spec", lambda name: None)
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(asr.errors.MissingExtraError, match=r"pip install 'asr-lightning\[runtime\]'"):
        recognizer.transcribe(tone(8000 * 31), sample_rate=8000)
    assert recognizer.transcribe(tone(8000 * 20), sample_rate=8000).seconds == 20, "it is read whole as before"


def test_without_torch_a_saved_model_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognizer_module, "find_spec", lambda name: None)
    with pytest.raises(asr.errors.MissingExtraError, match=r"asr-lightning\[train\]'. An export runs without torch: "):
        asr.load(model)
    with pytest.raises(ValueError, match="no model 'nowhere'"):
        asr.load("nowhere")


def test_a_folder_of_a_run_stands_for_its_model(model: Path, tones_once: Path) -> None:
    path = tones_once / "001.wav"
    assert asr.load(model.parent).transcribe(path) == asr.load(model).transcribe(path)


def test_any_model_of_the_contract_is_read_alike(tones_once: Path) -> None:
    """A recogniser asks a runtime for nothing but what the contract promises."""

    class Lengths:
        sample_rate, min_seconds, max_seconds, language = 8000, 0.1, None, "th"

        def transcribe(self, clips, decoding):
            words = (Word("a", 0.1, 0.2, 0.5),) if decoding.words else ()
            return [Hypothesis(f"{len(clip)} {decoding.beam}", words, 0.5) for clip in clips]

    recognizer = asr.Recognizer(Lengths(), decoding=Decoding(beam=3, words=True))
    first, second = recognizer.transcribe([tone(8000), tone(1600)], sample_rate=8000)
    assert (first.text, second.text, first.language) == ("8000 3", "1600 3", "th")
    (segment,) = first.segments
    assert (segment.start, segment.end, segment.confidence) == (0.1, 0.2, 0.5)
    with pytest.raises(AttributeError, match="adapter"):
        recognizer.adapter  # noqa: B018


def test_a_model_that_nobody_specialized_is_read_as_its_makers_do(tmp_path: Path) -> None:
    """At true length an untouched Whisper repeats itself: 102 % WER where its window gives 7 %."""
    folder = tiny_whisper(tmp_path / "untouched", multilingual=True)
    untouched = asr.load(folder, language="de")
    assert (untouched.adapter.options.context, untouched.adapter.language) == ("window", "de")
    WhisperAdapter(str(folder), language="fr").save(tmp_path / "specialized")
    assert asr.load(tmp_path / "specialized").adapter.options.context == "true_length"
    assert asr.load(tmp_path / "specialized").adapter.language == "fr"
    assert asr.load(tmp_path / "specialized", native=True).adapter.options.context == "window"


def test_what_was_loaded_decides_how_it_is_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the name: a folder here may have the name of a model, and a card may name a specialized folder."""
    untouched = tiny_whisper(tmp_path / "untouched", multilingual=False)
    WhisperAdapter(str(untouched)).save(tmp_path / "specialized")
    cards = {
        name: ModelCard(name, "whisper.en", f"{ADAPTERS}.whisper.WhisperAdapter", str(folder), 1, "MIT", "en")
        for name, folder in (("mine", tmp_path / "specialized"), ("theirs", untouched))
    }
    monkeypatch.setattr(registry, "cards", lambda: cards)
    monkeypatch.chdir(tmp_path)
    WhisperAdapter(str(untouched)).save(Path("theirs"))
    assert asr.load("mine").adapter.options.context == "true_length"
    assert asr.load("theirs").adapter.options.context == "window"
    contexts, read = [], asr.Recognizer.read
    monkeypatch.setattr(
        asr.Recognizer, "read", lambda self, clips: contexts.append(self.adapter.options.context) or read(self, clips)
    )
    soundfile.write("hello.wav", 0.1 * np.sin(np.arange(16_000)), 16_000)
    for more in ([], ["--native"]):
        assert predict.run("predict", ["hello.wav", "--model", "theirs", *more]) == 0
    once, again = capsys.readouterr().out.splitlines()
    assert once == again and contexts == ["window", "window"]


def test_options_that_cannot_be_are_refused(model: Path) -> None:
    for device in ["xpu", "CPU", *([] if torch.cuda.is_available() else ["cuda"])]:
        with pytest.raises(asr.errors.OptionError, match="take --device auto, or --device cpu"):
            asr.load(model, device=device)
    with pytest.raises(ValueError, match="toy takes no language: leave out --language"):
        asr.load("toy", language="de")
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        asr.Recognizer(ToyAdapter(), batch_size=0)
    with pytest.raises(ValueError, match="no model 'nowhere'"):
        asr.load("nowhere")


def test_predict_reads_what_load_reads(model: Path, tones_once: Path, tmp_path: Path, capsys) -> None:
    assert predict.run("predict", [str(tones_once), "--model", str(model)]) == 0
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    recognizer = asr.load(model)
    assert lines == {name: recognizer.transcribe(name).text for name in lines} and len(lines) == 12
