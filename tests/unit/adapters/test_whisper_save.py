"""What ``save`` writes: a folder that plain transformers and the converters read, and that remembers its options."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from asr_lightning.adapters import saved
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.adapters.whisper.adapter import WhisperOptions
from tests.tiny_models import clip

FILES = {
    "added_tokens.json",
    "asr_lightning.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
}

PLAIN_TRANSFORMERS = """
import sys, torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor
model = AutoModelForSpeechSeq2Seq.from_pretrained(sys.argv[1])
processor = AutoProcessor.from_pretrained(sys.argv[1])
audio = torch.sin(torch.arange(16_000) / 20).numpy()
inputs = processor(audio, sampling_rate=16_000, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=8, force_unique_generate_call=True)
assert not any(name.startswith("asr_lightning") for name in sys.modules)
print(model.dtype, ids[0, :4].tolist())
"""


def save(adapter: WhisperAdapter, folder: Path) -> Path:
    folder.mkdir()
    adapter.save(folder)
    return folder


def test_save_before_training(whisper: WhisperAdapter, tmp_path: Path):
    """Stale generation settings in config.json make upstream's save raise, at the end of a run."""
    folder = save(whisper, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


def test_half_precision_weights_are_saved_in_float32(make_whisper, tmp_path: Path):
    adapter = make_whisper()
    adapter.model.bfloat16()
    folder = save(adapter, tmp_path / "model")
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    assert adapter.model.dtype == torch.bfloat16, "saving must not change the network that trains on"


def test_no_forced_decoder_ids_after_save(whisper: WhisperAdapter, tmp_path: Path):
    folder = save(whisper, tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_text()).get("forced_decoder_ids") is None


def test_suppress_lists_are_saved_unchanged(whisper: WhisperAdapter, whisper_folders, tmp_path: Path):
    folder = save(whisper, tmp_path / "model")
    kind = "multilingual" if whisper.language else "en"
    before = json.loads((whisper_folders[kind] / "generation_config.json").read_text())
    after = json.loads((folder / "generation_config.json").read_text())
    for name in ("suppress_tokens", "begin_suppress_tokens", "alignment_heads", "lang_to_id", "no_timestamps_token_id"):
        assert after.get(name) == before.get(name)
    assert after.get("language") == ("de" if whisper.language else None)
    assert after.get("task") == ("transcribe" if whisper.language else None)


def test_saved_folder_complete(whisper: WhisperAdapter, tmp_path: Path):
    """Every file that transformers 4 and 5, faster-whisper's and whisper.cpp's converters look for."""
    folder = save(whisper, tmp_path / "model")
    assert {path.name for path in folder.iterdir()} == FILES
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "all may be read by the same people"
    assert json.loads((folder / "preprocessor_config.json").read_text())["feature_size"] == 80
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert vocabulary["Ġthe"] == whisper.processor.tokenizer.convert_tokens_to_ids("Ġthe")
    added = json.loads((folder / "added_tokens.json").read_text())
    assert added["<|notimestamps|>"] == whisper.rules.prompt[-1], "whisper.cpp's converter reads it there"
    assert not set(added) & set(vocabulary)
    tokenizer = whisper.processor.tokenizer
    assert set(added) | set(vocabulary) == set(tokenizer.get_vocab())
    for path in folder.glob("*.json"):
        assert str(tmp_path.parent) not in path.read_text(), f"{path.name} tells where it was made"


def test_the_tokenizer_comes_back(whisper: WhisperAdapter, tmp_path: Path):
    """With ``added_tokens.json`` beside it, whether or not ``tokenizer.json`` is there."""
    folder = save(whisper, tmp_path / "model")
    again = WhisperAdapter(str(folder)).processor.tokenizer
    assert again.get_vocab() == whisper.processor.tokenizer.get_vocab()
    assert again.backend_tokenizer.to_str() == whisper.processor.tokenizer.backend_tokenizer.to_str()
    (folder / "tokenizer.json").unlink()
    assert WhisperAdapter(str(folder)).processor.tokenizer.get_vocab() == again.get_vocab()


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "processor_config.json"])
def test_either_processor_file_is_enough(whisper: WhisperAdapter, tmp_path: Path, missing: str):
    folder = save(whisper, tmp_path / "model")
    (folder / missing).unlink()
    assert AutoProcessor.from_pretrained(folder).feature_extractor.feature_size == 80
    assert WhisperFeatureExtractor.from_pretrained(folder).feature_size == 80
    assert WhisperAdapter(str(folder)).rules == whisper.rules


def test_plain_transformers_reads_it_in_a_clean_process(make_whisper, tmp_path: Path):
    folder = save(make_whisper("multilingual"), tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_TRANSFORMERS, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "torch.float32 [50258, 50261, 50359, 50363]", "language and task went along"


def test_reload_gives_equal_weights_and_text(whisper: WhisperAdapter, tmp_path: Path):
    with torch.no_grad():
        whisper.model.model.encoder.conv1.weight.mul_(1.1)
    folder = save(whisper, tmp_path / "model")
    again = WhisperAdapter(str(folder))
    for name, value in whisper.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    batch = whisper.collator()([clip(1.0, seed=1), clip(2.0, seed=2)])
    assert again.transcribe(batch) == whisper.transcribe(batch)
    assert (again.language, again.task, again.rules) == (whisper.language, whisper.task, whisper.rules)


def test_vocab_size_unchanged(whisper: WhisperAdapter, tmp_path: Path):
    """A resized vocabulary makes whisper.cpp count -1397 languages."""
    folder = save(whisper, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == (51865 if whisper.language else 51864)
    weights = load_file(folder / "model.safetensors")
    assert weights["model.decoder.embed_tokens.weight"].shape[0] == config["vocab_size"]
    assert len(AutoTokenizer.from_pretrained(folder)) == len(whisper.processor.tokenizer)


def test_manifest_has_context_mode(make_whisper, tmp_path: Path):
    adapter = make_whisper(context="window", margin_seconds=0.3, max_tokens_per_second=9.0, spec_augment=SpecAugment(2))
    folder = save(adapter, tmp_path / "model")
    content = json.loads((folder / "asr_lightning.json").read_text())
    assert content["adapter"] == "asr_lightning.adapters.whisper.WhisperAdapter"
    assert content["init_args"] == {
        "language": None,
        "task": None,
        "context": "window",
        "margin_seconds": 0.3,
        "max_tokens_per_second": 9.0,
        "spec_augment": {"num_time_masks": 2, "time_fraction": 0.05, "num_freq_masks": 0, "freq_bins": 8},
        "label_smoothing": 0.0,
    }


def test_options_come_back_with_the_folder(make_whisper, tmp_path: Path):
    """A model trained at true length must not be used in the window by accident, or the reverse."""
    folder = save(make_whisper(context="window", max_tokens_per_second=9.0), tmp_path / "model")
    for again in (WhisperAdapter(str(folder)), saved.load(folder)):
        assert again.options == WhisperOptions("window", 0.64, 9.0)
    assert WhisperAdapter(str(folder), context="true_length").options.context == "true_length"


def test_a_spoiled_manifest_is_named(make_whisper, tmp_path: Path):
    folder = save(make_whisper(), tmp_path / "model")
    (folder / "asr_lightning.json").write_text("{")
    with pytest.raises(ValueError, match=re.escape(str(folder / "asr_lightning.json")) + " cannot be read"):
        WhisperAdapter(str(folder))


def test_generation_config_is_the_models_own(whisper: WhisperAdapter, tmp_path: Path):
    again = WhisperForConditionalGeneration.from_pretrained(save(whisper, tmp_path / "model"))
    assert (
        again.generation_config.to_diff_dict().items()
        >= {
            "decoder_start_token_id": whisper.rules.prompt[0],
            "eos_token_id": whisper.rules.eos,
            "is_multilingual": whisper.language is not None,
        }.items()
    )
