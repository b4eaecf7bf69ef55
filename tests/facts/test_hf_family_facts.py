"""What the Moonshine, CTC and transducer adapters assume about transformers.

If a test fails after an upgrade, read its docstring and the table "Hugging Face models" of docs/architecture.md, then
decide.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCTC,
    MoonshineStreamingForConditionalGeneration,
    ParakeetForCTC,
    ParakeetForRNNT,
    Wav2Vec2CTCTokenizer,
)

from asr_lightning.adapters.hf_transducer import HFTransducerAdapter
from tests.tiny_hf import tiny_ctc, tiny_moonshine, tiny_transducer
from tests.tiny_models import clip


@torch.no_grad()
def test_streaming_masks_let_padded_frames_through(tmp_path: Path) -> None:
    """Moonshine Streaming is not padding invariant: its causal convolutions widen the mask of a padded clip."""
    model = MoonshineStreamingForConditionalGeneration.from_pretrained(tiny_moonshine(tmp_path, streaming=True)).eval()
    audio = torch.nn.functional.pad(clip(1.0).waveform, (0, 16_000))[None]
    mask = (torch.arange(audio.shape[1]) < 16_000).long()[None]
    padded = model.model.encoder(audio, attention_mask=mask).attention_mask
    assert padded.sum() > model._get_feat_extract_output_lengths(mask.sum(-1)).item() == 50


@torch.no_grad()
def test_group_norm_spans_padding(tmp_path: Path) -> None:
    """GroupNorm checkpoints of wav2vec2 were trained without a mask, since a frame depends on what follows the clip."""
    model = AutoModelForCTC.from_pretrained(tiny_ctc(tmp_path, "wav2vec2-group")).eval()
    wave = clip(1.0).waveform
    alone, padded = (model(w[None]).logits[0, :20] for w in (wave, torch.nn.functional.pad(wave, (0, 16_000))))
    assert (alone - padded).abs().max() > 1e-4


def test_skipping_special_tokens_merges_doubled_letters(tmp_path: Path) -> None:
    """The blank is a special token that is dropped before equal labels are merged, so we collapse labels ourselves."""
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(tiny_ctc(tmp_path, "wav2vec2"))
    frames = [label for char in "BALL" for label in (*tokenizer(char).input_ids, tokenizer.pad_token_id)]
    assert tokenizer.decode(frames) == "BALL"
    assert tokenizer.decode(frames, skip_special_tokens=True) == "BAL"


def test_wavlm_never_calls_its_projections(tmp_path: Path) -> None:
    """It passes their weights to ``multi_head_attention_forward``, so that LoRA in their place would have no effect."""
    model = AutoModelForCTC.from_pretrained(tiny_ctc(tmp_path, "wavlm")).eval()
    called: list[bool] = []
    for name, module in model.named_modules():
        if name.endswith("q_proj"):
            module.register_forward_hook(lambda *_: called.append(True))
    model(clip(1.0).waveform[None])
    assert not called


@pytest.mark.parametrize(("writer", "factory"), [(tiny_ctc, ParakeetForCTC), (tiny_transducer, ParakeetForRNNT)])
def test_parakeet_keeps_a_copy_of_layerdrop(writer, factory, tmp_path: Path) -> None:
    """Setting it in the configuration after loading has no effect."""
    kind = "parakeet_ctc" if factory is ParakeetForCTC else "parakeet_rnnt"
    model = factory.from_pretrained(writer(tmp_path, kind))
    model.config.encoder_config.layerdrop = 0.0
    assert model.encoder.layerdrop == 0.1


@torch.no_grad()
def test_batched_generate_writes_past_the_end_of_a_clip(tmp_path: Path) -> None:
    """Rows have no end token, so ``generate`` does not know that one of them is done."""
    adapter = HFTransducerAdapter(str(tiny_transducer(tmp_path, "parakeet_rnnt")))
    adapter.model.joint.head.weight.data *= 30
    batch = adapter.collator()([clip(0.8, uid="a"), clip(3.0, uid="b", seed=2)])
    with adapter.evaluating():
        output = adapter.model.generate(**adapter.inputs(batch), max_new_tokens=400)
    frames = (output.durations.cumsum(-1) - output.durations)[0]
    beyond = output.sequences[0][frames >= adapter._output_lengths(batch.input_lengths)[0]]
    assert len(beyond) > 1 and (beyond != adapter.model.config.pad_token_id).any()
