"""What the Whisper and Moonshine adapters assume about transformers.

If a test fails after an upgrade, read its docstring and the table "Hugging Face models" of docs/architecture.md, then
decide.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from asr_lightning.adapters.shared.seq2seq import shift_once
from asr_lightning.adapters.whisper import WhisperAdapter
from tests.tiny_models import clip, tiny_whisper


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper(tmp_path_factory.mktemp("facts") / "whisper", multilingual=False)


@pytest.fixture
def model(folder: Path) -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(folder)


def test_hf_encoder_rejects_short(model: WhisperForConditionalGeneration):
    """If the encoder accepts short input one day, our own forward of the encoder can be removed."""
    with pytest.raises(ValueError, match="expects the mel input features to be of length 3000"):
        model.model.encoder(torch.randn(1, 80, 400))


def test_hf_spec_augment_writes_into_its_input(model: WhisperForConditionalGeneration):
    """With masks switched on, upstream changes the caller's features."""
    model.train()
    model.config.apply_spec_augment, model.config.mask_time_prob = True, 0.3
    features = torch.randn(1, 80, 3000)
    before = features.clone()
    model(input_features=features, decoder_input_ids=torch.tensor([[50257, 50362]]))
    assert not torch.equal(features, before)


def test_loss_leaves_batch_identical(folder: Path):
    """Our loss avoids that: the batch stays as it was."""
    adapter = WhisperAdapter(str(folder), context="window")
    adapter.model.config.apply_spec_augment, adapter.model.config.mask_time_prob = True, 0.3
    adapter.model.train()
    batch = adapter.collator()([clip()])
    before = batch.clone()
    adapter.loss(batch)
    assert torch.equal(batch.inputs["waveforms"], before.inputs["waveforms"])


def _explicit_loss(model: torch.nn.Module, shifted, **inputs: torch.Tensor) -> torch.Tensor:
    logits = model(decoder_input_ids=shifted.decoder_input_ids, **inputs).logits
    return F.cross_entropy(logits.flatten(0, 1), shifted.targets.flatten(), ignore_index=-100)


@torch.no_grad()
def test_explicit_equals_labels():
    """Moonshine shifted its labels twice until transformers 5.15; the explicit form is right in every version."""
    torch.manual_seed(0)
    config = MoonshineConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, encoder_num_hidden_layers=1, decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2, decoder_num_attention_heads=2, init_std=0.5, initializer_range=0.5,
        decoder_start_token_id=1, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = MoonshineForConditionalGeneration(config).eval()
    audio = torch.randn(2, 16_000)
    texts = [[10, 11, 12, 13], [20, 21]]
    labels = torch.tensor([[10, 11, 12, 13, 2], [20, 21, 2, -100, -100]])
    explicit = _explicit_loss(model, shift_once([1], texts, eos=2), input_values=audio)
    torch.testing.assert_close(model(input_values=audio, labels=labels).loss, explicit)


@torch.no_grad()
def test_explicit_equals_labels_for_whisper(model: WhisperForConditionalGeneration):
    """The explicit form is right for Whisper too, with its prompt: labels start after the start token."""
    features = torch.randn(2, 80, 3000)
    labels = torch.tensor([[-100, 70, 71, 50256], [-100, 72, 50256, -100]])
    shifted = shift_once([50257, 50362], [[70, 71], [72]], eos=50256)
    ids = shifted.decoder_input_ids
    with_labels = model(input_features=features, decoder_input_ids=ids, labels=labels).loss
    assert torch.equal(labels, shifted.targets)
    torch.testing.assert_close(_explicit_loss(model, shifted, input_features=features), with_labels)


def test_one_start_token(folder: Path):
    """The tokenizer's bos token is the end of text, not the token that decoding starts with."""
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    adapter = WhisperAdapter(str(folder))
    ids = adapter.collator()([clip()]).inputs["decoder_input_ids"][0].tolist()
    assert (
        ids[0]
        == adapter.model.config.decoder_start_token_id
        == tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    )
    assert tokenizer.bos_token_id not in ids


def test_end_token_is_scored(folder: Path):
    """The pad token is the end token, so masking by id would never teach the model to stop."""
    adapter = WhisperAdapter(str(folder))
    assert adapter.model.config.pad_token_id == adapter.rules.eos
    batch = adapter.collator()([clip(text="a"), clip(text="much longer")])
    assert (batch.targets == adapter.rules.eos).sum(1).tolist() == [1, 1]


def test_loading_forgets_that_positions_are_fixed(model: WhisperForConditionalGeneration, folder: Path):
    """The class freezes its sinusoids; from_pretrained of 5.x replaces the parameter; our loader freezes it again."""
    built = WhisperForConditionalGeneration(model.config)
    assert not built.model.encoder.embed_positions.weight.requires_grad
    assert model.model.encoder.embed_positions.weight.requires_grad
    assert not WhisperAdapter(str(folder)).model.model.encoder.embed_positions.weight.requires_grad


def test_saving_a_processor_writes_no_preprocessor_config(folder: Path, tmp_path: Path):
    """faster-whisper needs preprocessor_config.json, and assumes 80 mel bins without it, so we save it separately."""
    WhisperProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    assert (tmp_path / "processor_config.json").exists()
    assert not (tmp_path / "preprocessor_config.json").exists()
