"""Every Hugging Face family learns eight clips by heart, and plain transformers gets the same texts as this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from asr_lightning.types import Utterance
from tests import tiny_hf
from tests.learning import train_until_read
from tests.tiny_models import clip

pytestmark = pytest.mark.once
TEXTS = ["open the window", "close the door", "light on", "the time", "music", "call me", "stop", "read it"]


def eight(kind: str) -> list[Utterance]:
    """Make synthetic chirps, a little longer for Parakeet, which has 12.5 frames per second for its labels."""
    shortest = 1.3 if kind.startswith("parakeet") else 0.8
    return [clip(shortest + 0.1 * number, text, str(number), number) for number, text in enumerate(TEXTS)]


def shape(kind: str) -> dict[str, Any]:
    return {"decoder_hidden_size": 64} if kind in tiny_hf.TRANSDUCER_KINDS else {}


@pytest.mark.parametrize("kind", tiny_hf.KINDS)
def test_eight_clips_to_wer_0_and_back_through_plain_transformers(kind: str, tmp_path: Path) -> None:
    adapter = tiny_hf.load_tiny(tiny_hf.write_tiny(tmp_path / "base", kind, **shape(kind)), kind)
    batch = adapter.collator()(eight(kind))
    print(f"{kind}: WER 0 after {train_until_read(adapter, batch)} steps")
    (tmp_path / "saved").mkdir()
    adapter.save(tmp_path / "saved")
    ours = [adapter.transcribe(adapter.collator()([utterance]))[0] for utterance in eight(kind)]
    assert plain_texts(tmp_path / "saved", kind, eight(kind)) == ours
    assert any(ours)


@torch.no_grad()
def plain_texts(folder: Path, kind: str, clips: list[Utterance]) -> list[str]:
    """Transcribe as transformers' documentation does: ``Auto`` classes, processor, ``generate`` or the best label."""
    from transformers import AutoModel, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor

    factory: Any = {"moonshine": AutoModelForSpeechSeq2Seq, "moonshine_streaming": AutoModelForSpeechSeq2Seq}.get(kind)
    factory = factory or (AutoModelForCTC if kind in tiny_hf.CTC_KINDS else AutoModel)
    model, processor = factory.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    texts = []
    for utterance in clips:
        inputs = processor(utterance.waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
        if kind in tiny_hf.RAW:
            output = model(**inputs).logits.argmax(-1)
        else:
            output = model.generate(**inputs, max_new_tokens=200)
        sequences = output.sequences if kind in tiny_hf.TRANSDUCER_KINDS else output
        skip = {} if kind in tiny_hf.RAW else {"skip_special_tokens": True}
        texts.append(processor.batch_decode(sequences, **skip)[0].strip())
    return texts
