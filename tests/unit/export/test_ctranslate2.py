"""Whisper for CTranslate2: what is written, and that every spoiled file is refused by name."""

from __future__ import annotations

import functools
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr_lightning.adapters.shared.lora import LoRA
from asr_lightning.adapters.whisper import WhisperAdapter, ctranslate2_files
from asr_lightning.errors import ModelError
from asr_lightning.export.whisper import ctranslate2 as converter
from asr_lightning.export.whisper import loading as whisper
from tests.tiny_hf import edit_json
from tests.tiny_models import clip, tiny_whisper

VARIANTS = ("fp32", "float16", "int8")
LOAD = whisper.load


@pytest.fixture(scope="module", autouse=True)
def one_load() -> Iterator[None]:
    """Each source is loaded once for all checks. CTranslate2 quantizes in place, so conversions load their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whisper, "load", functools.cache(whisper.load))
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A specialized model of every kind, and one that was not specialized."""
    root = tmp_path_factory.mktemp("sources")
    plain = tiny_whisper(root / "plain", multilingual=False)
    WhisperAdapter(str(plain)).save(root / "en")
    large = tiny_whisper(root / "large", multilingual=True, num_mel_bins=128)
    WhisperAdapter(str(large), language="de", margin_seconds=1.0).save(root / "multilingual")
    return {"plain": plain, "en": root / "en", "multilingual": root / "multilingual"}


@pytest.fixture(scope="module")
def converted(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A function from kind and variant to the folder of the conversion and its settings; do not write there."""
    root = tmp_path_factory.mktemp("converted")

    done: dict[Path, dict[str, object]] = {}

    def make(kind: str = "multilingual", variant: str = "fp32") -> tuple[Path, dict[str, object]]:
        target = root / kind / variant
        if target not in done:
            target.mkdir(parents=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(whisper, "load", LOAD)
                done[target] = json.loads(json.dumps(converter.convert(sources[kind], target, variant)))
        return target, done[target]

    return make


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["en", "multilingual", "plain"])
def test_a_conversion_has_no_problems(converted, sources: dict[str, Path], kind: str, variant: str) -> None:
    target, settings = converted(kind, variant)
    assert converter.problems(sources[kind], target, settings) == []
    assert sorted(path.name for path in target.iterdir()) == sorted(converter.FILES)


def test_the_variants_have_their_size(converted) -> None:
    sizes = {variant: (converted("en", variant)[0] / "model.bin").stat().st_size for variant in VARIANTS}
    assert 0.24 < sizes["int8"] / sizes["fp32"] < 0.35
    assert 0.49 < sizes["float16"] / sizes["fp32"] < 0.52


def test_only_a_specialized_model_is_read_at_true_length(converted) -> None:
    assert converted("en")[1]["true_length"] is True
    assert converted("multilingual")[1]["margin_seconds"] == 1.0
    assert converted("plain")[1]["true_length"] is False


def test_language_and_mel_bins_of_the_model_are_written(converted) -> None:
    target, settings = converted("multilingual")
    tokens = json.loads((target / "vocabulary.json").read_text())
    written = [tokens[number] for number in settings["prompt"]]
    assert written == ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert len(json.loads((target / "config.json").read_text())["lang_ids"]) == 99
    assert settings["num_mels"] == json.loads((target / "preprocessor_config.json").read_text())["feature_size"] == 128
    assert json.loads((converted("en")[0] / "config.json").read_text())["lang_ids"] == []


def test_a_model_without_alignment_heads_gets_those_of_the_upper_layers(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    """Old checkpoints and many fine-tunes have none in their generation config."""
    source = shutil.copytree(sources["en"], tmp_path / "source")
    path = source / "generation_config.json"
    content = json.loads(path.read_text())
    del content["alignment_heads"]
    path.write_text(json.dumps(content))
    (tmp_path / "target").mkdir()
    settings = converter.convert(source, tmp_path / "target", "fp32")
    assert settings["alignment_heads"] == ((1, 0), (1, 1))
    assert converter.problems(source, tmp_path / "target", settings) == []


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    from tests.tiny_hf import write_tiny

    with pytest.raises(ModelError, match="is no Whisper model"):
        converter.convert(write_tiny(tmp_path / "wav2vec2", "wav2vec2"), tmp_path, "int8")


def edit_list(name: str, change: Callable[[list[Any]], None]) -> Callable[[Path], None]:
    """A function that changes a list in a JSON file."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def swap(tokens: list[Any]) -> None:
    tokens[300], tokens[301] = tokens[301], tokens[300]


def cut(share: float) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = (folder / "model.bin").read_bytes()
        (folder / "model.bin").write_bytes(data[: int(len(data) * share)])

    return edit


def position_of(data: bytes, name: str) -> tuple[int, int]:
    """Return where the numbers of the tensor ``name`` start in a ``model.bin``, and how many bytes they have."""
    key = struct.pack("<H", len(name) + 1) + name.encode() + b"\0"
    place = data.index(key) + len(key)
    place += 1 + 4 * data[place] + 1
    return place + 4, struct.unpack_from("<I", data, place)[0]


def swap_tensors(first: str, second: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = bytearray((folder / "model.bin").read_bytes())
        (one, size), (two, other) = position_of(bytes(data), first), position_of(bytes(data), second)
        assert size == other
        data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]
        (folder / "model.bin").write_bytes(bytes(data))

    return edit


def fill(name: str, value: float) -> Callable[[Path], None]:
    """A function that writes one number into a tensor of float32."""

    def edit(folder: Path) -> None:
        data = bytearray((folder / "model.bin").read_bytes())
        struct.pack_into("<f", data, position_of(bytes(data), name)[0] + 8, value)
        (folder / "model.bin").write_bytes(bytes(data))

    return edit


def with_lora(folder: Path) -> None:
    """Add a matrix that CTranslate2 would pass over in silence."""
    data = (folder / "model.bin").read_bytes()
    start = struct.calcsize("<I") + struct.calcsize("<H") + len("WhisperSpec") + 1 + 4
    (count,) = struct.unpack_from("<I", data, start)
    name = b"decoder/layer_0/self_attention/linear_0/lora_a\0"
    variable = struct.pack("<H", len(name)) + name + struct.pack("<BIBI", 1, 2, 0, 8) + bytes(8)
    content = data[:start] + struct.pack("<I", count + 1) + variable + data[start + 4 :]
    (folder / "model.bin").write_bytes(content)


LINEAR = "encoder/layer_{}/ffn/linear_0/weight"
SABOTAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"lacks tokenizer\.json"),
    "no features": (lambda folder: (folder / "preprocessor_config.json").unlink(), r"lacks preprocessor_config\.json"),
    "no weights": (lambda folder: (folder / "model.bin").unlink(), r"lacks model\.bin"),
    "truncated weights": (cut(0.6), r"model\.bin is cut short"),
    "almost whole weights": (cut(0.99999), r"model\.bin is cut short"),
    "empty weights": (cut(0), r"model\.bin is cut short"),
    "short vocabulary": (edit_list("vocabulary.json", lambda tokens: tokens.pop()), "has 51864 tokens, .* has 51865"),
    "long vocabulary": (edit_list("vocabulary.json", lambda tokens: tokens.append("x")), "has 51866 tokens"),
    "wrong vocabulary": (edit_list("vocabulary.json", swap), r"vocabulary\.json has .* for the token 300"),
    "no JSON": (lambda folder: (folder / "vocabulary.json").write_text("["), "cannot be read"),
    "no alignment heads": (
        edit_list("config.json", lambda config: config.pop("alignment_heads")),  # type: ignore[arg-type]
        "other alignment_heads than the model: None",
    ),
    "other alignment heads": (lambda folder: edit_json(folder / "config.json", alignment_heads=[[0, 0]]), "alignment_"),
    "no suppressed tokens": (lambda folder: edit_json(folder / "config.json", suppress_ids=[]), "other suppress_ids"),
    "no languages": (lambda folder: edit_json(folder / "config.json", lang_ids=[]), "other lang_ids"),
    "another tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text(
            (folder / "tokenizer.json").read_text().replace("filler7", "filling")
        ),
        r"tokenizer\.json is not the tokenizer of the model",
    ),
    "spoiled tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
    "80 mel bins": (
        lambda folder: edit_json(folder / "preprocessor_config.json", feature_size=80),
        "the feature_size 80, but the model has 128",
    ),
    "swapped tensors": (
        swap_tensors(LINEAR.format(0), LINEAR.format(1)),
        r"other numbers than the model in model\.encoder\.layers\.0\.fc1\.weight, model\.encoder\.layers\.1\.fc1\.w",
    ),
    "not a number": (
        fill("decoder/layer_1/attention/linear_2/weight", float("nan")),
        r"layers\.1\.encoder_attn\.out_proj\.weight",
    ),
    "another number": (fill("encoder/conv1/weight", 0.25), r"model\.encoder\.conv1\.weight"),
    "LoRA beside the weights": (with_lora, "a matrix of LoRA that was not merged"),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_spoiled_files_are_refused(converted, sources: dict[str, Path], tmp_path: Path, name: str) -> None:
    target, settings = converted()
    folder = shutil.copytree(target, tmp_path / "copy")
    spoil, message = SABOTAGE[name]
    spoil(folder)
    (problem, *_) = converter.problems(sources["multilingual"], folder, settings)
    assert re.search(message, problem)


@pytest.mark.parametrize("variant", ["float16", "int8"])
def test_swapped_tensors_are_seen_behind_their_rounding(
    converted, sources: dict[str, Path], tmp_path: Path, variant: str
) -> None:
    target, settings = converted("multilingual", variant)
    folder = shutil.copytree(target, tmp_path / "copy")
    swap_tensors("decoder/layer_0/ffn/linear_1/weight", "decoder/layer_1/ffn/linear_1/weight")(folder)
    (problem,) = converter.problems(sources["multilingual"], folder, settings)
    assert "model.decoder.layers.0.fc2.weight, model.decoder.layers.1.fc2.weight" in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "en"}, "the setting language is 'en', but the model has 'de'"),
        ({"prompt": [50258, 50259, 50359, 50363]}, "the setting prompt"),
        ({"true_length": False}, "the setting true_length"),
        ({"alignment_heads": [[7, 0]]}, "the setting alignment_heads"),
        ({"num_mels": 80}, "the setting num_mels is 80, but the model has 128"),
        ({"prompt": None}, "cannot be read"),
    ],
)
def test_settings_of_another_model_are_refused(
    converted, sources: dict[str, Path], change: dict[str, object], message: str
) -> None:
    target, settings = converted()
    assert any(message in problem for problem in converter.problems(sources["multilingual"], target, settings | change))


def test_a_conversion_of_another_model_is_refused(converted, sources: dict[str, Path]) -> None:
    target, settings = converted("en")
    found = converter.problems(sources["multilingual"], target, settings)
    assert any("model.bin" in problem for problem in found) and len(found) > 5


def test_a_vocabulary_that_makes_a_model_english_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    """Real multilingual models have an empty token; without it CTranslate2 takes a model for English-only."""
    source = shutil.copytree(sources["multilingual"], tmp_path / "source")
    path = source / "tokenizer.json"
    path.write_text(path.read_text().replace('"": 50256', '"filler": 50256'))
    (tmp_path / "target").mkdir()
    settings = converter.convert(source, tmp_path / "target", "fp32")
    (problem,) = converter.problems(source, tmp_path / "target", settings)
    assert problem == "CTranslate2 takes the model for an English-only one"


def test_lora_is_merged(sources: dict[str, Path], tmp_path: Path) -> None:
    """A conversion of the base alone is refused, though every file of it is whole."""
    adapter = WhisperAdapter(str(sources["en"]), lora=LoRA(rank=2, targets=["fc1"]))
    for name, weight in adapter.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.05)
    adapter.save(tmp_path / "merged")
    adapter._lora._peft.save_pretrained(tmp_path / "peft")
    (tmp_path / "target").mkdir()
    settings = converter.convert(tmp_path / "peft", tmp_path / "target", "fp32")
    written = ctranslate2_files.load_network([tmp_path / "target" / "model.bin"]).state_dict()
    for name, weight in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert torch.equal(written[name], weight), name
    assert converter.problems(tmp_path / "peft", tmp_path / "target", settings) == []
    found = converter.problems(sources["en"], tmp_path / "target", settings)
    assert any("other numbers than the model in model.encoder.layers.0.fc1.weight" in problem for problem in found)


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_source_whose_lora_is_not_merged_is_refused(
    sources: dict[str, Path], tmp_path: Path, is_wrapped: bool
) -> None:
    """transformers passes over such matrices, so the tuning would be lost without a word."""
    source = shutil.copytree(sources["en"], tmp_path / "source")
    weights, layer = load_file(source / "model.safetensors"), "model.encoder.layers.0.fc1"
    if is_wrapped:
        weights[f"{layer}.base_layer.weight"] = weights.pop(f"{layer}.weight")
    weights |= {
        f"{layer}.lora_A.default.weight": torch.ones(2, 32),
        f"{layer}.lora_B.default.weight": torch.ones(64, 2),
    }
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"\.lora_.* not merged .* merge_and_unload"):
        converter.convert(source, tmp_path, "fp32")
    (tmp_path / "target").mkdir()
    for name in converter.FILES:
        (tmp_path / "target" / name).touch()
    (problem,) = converter.problems(source, tmp_path / "target", {})
    assert "not merged" in problem


def test_faster_whisper_reads_the_folder(converted) -> None:
    """Its own features, tokenizer and decoder, with nothing but the folder; 128 mel bins and the language are found."""
    faster_whisper = pytest.importorskip("faster_whisper", reason="the extra dev is not installed")
    model = faster_whisper.WhisperModel(
        str(converted("multilingual")[0]), device="cpu", compute_type="float32", cpu_threads=1
    )
    assert model.model.is_multilingual and len(model.supported_languages) > 90
    samples = clip(1.0, seed=1).waveform.numpy()
    checks_off = dict.fromkeys(("log_prob_threshold", "compression_ratio_threshold", "no_speech_threshold"))
    segments, info = model.transcribe(
        samples, beam_size=1, temperature=0.0, max_new_tokens=26, word_timestamps=True, **checks_off
    )
    (segment, *_) = list(segments)
    assert info.language in model.supported_languages
    assert segment.text.strip() and segment.words
