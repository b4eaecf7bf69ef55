"""Moonshine: loss, caps, padding and special tokens, and what the adapter refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from asr_lightning.adapters.moonshine import MoonshineAdapter
from asr_lightning.adapters.moonshine.adapter import MoonshineOptions
from asr_lightning.adapters.shared.hub import SourceError
from asr_lightning.adapters.shared.seq2seq import token_caps
from tests.tiny_hf import edit_json, tiny_ctc
from tests.tiny_models import clip

GENERATIONS = ("moonshine", "moonshine_streaming")


@pytest.fixture(params=GENERATIONS)
def adapter(request: pytest.FixtureRequest, hf_folders: dict[str, Path]) -> MoonshineAdapter:
    return MoonshineAdapter(str(hf_folders[request.param]))


def clips() -> list:
    return [
        clip(0.9, "Open the window", "a", 1),
        clip(1.3, "stop", "b", 2),
        clip(1.1, "Call my sister, please.", "c", 3),
    ]


@torch.no_grad()
def test_loss_equals_explicit_decoder_inputs(adapter: MoonshineAdapter) -> None:
    """An independent cross entropy over logits of explicit decoder inputs; and upstream's, right since 5.15."""
    batch = adapter.collator()(clips())
    ours = adapter.loss(batch)
    ids = [adapter.tokenizer(text, add_special_tokens=False).input_ids for text in batch.texts]
    width = max(map(len, ids)) + 1
    inputs = torch.tensor([[1, *row, *[0] * (width - 1 - len(row))] for row in ids])
    labels = torch.tensor([[*row, 2, *[-100] * (width - 1 - len(row))] for row in ids])
    audio = {name: batch.inputs[name] for name in ("input_values", "attention_mask")}
    logits = adapter.model(**audio, decoder_input_ids=inputs).logits
    torch.testing.assert_close(ours.loss, F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100))
    torch.testing.assert_close(ours.loss, adapter.model(**audio, labels=labels).loss)
    assert ours.weight == sum(len(row) + 1 for row in ids)


def test_targets_are_shifted_once(adapter: MoonshineAdapter) -> None:
    batch = adapter.collator()([clip(text="stop")])
    ids = adapter.tokenizer("stop", add_special_tokens=False).input_ids
    assert batch.inputs["decoder_input_ids"].tolist() == [[1, *ids]]
    assert batch.targets.tolist() == [[*ids, 2]]


def test_cap_is_per_utterance(adapter: MoonshineAdapter) -> None:
    """Random weights never stop; each clip ends at the cap of its own duration."""
    adapter.options = replace(adapter.options, max_tokens_per_second=5.0)
    adapter.rules = type(adapter.rules)(adapter.rules.prompt, eos=adapter.rules.eos, suppress=(adapter.rules.eos,))
    batch = adapter.collator()([clip(0.5, uid="a"), clip(3.0, uid="b", seed=1)])
    counts: list[int] = []
    decode = adapter.tokenizer.batch_decode
    adapter.tokenizer.batch_decode = lambda rows, **options: counts.extend(map(len, rows)) or decode(rows, **options)
    adapter.transcribe(batch)
    assert counts == token_caps(batch.seconds, 5.0, 1000) == [11, 23]


@torch.no_grad()
def test_transcribe_equals_upstream_generate(adapter: MoonshineAdapter) -> None:
    """In a padded batch, row by row: the same tokens until the cap."""
    adapter.model.eval()
    batch = adapter.collator()(clips())
    audio = {name: batch.inputs[name] for name in ("input_values", "attention_mask")}
    theirs = adapter.model.generate(**audio, max_new_tokens=30, do_sample=False)
    texts = adapter.tokenizer.batch_decode(theirs, skip_special_tokens=True)
    for ours, text in zip(adapter.transcribe(batch), texts, strict=True):
        assert ours and (text.strip().startswith(ours) or ours.startswith(text.strip()))


@torch.no_grad()
def test_batch_vs_single_logits(hf_folders: dict[str, Path]) -> None:
    """Padding changes results, by more in the first generation; so it is declared, and dev order is fixed."""
    for kind, least in (("moonshine", 1e-5), ("moonshine_streaming", 1e-8)):
        adapter = MoonshineAdapter(str(hf_folders[kind]))
        adapter.model.eval()
        pair = [clip(0.9, "stop", "a", 1), clip(2.0, "stop", "b", 2)]
        both, alone = (adapter.collator()(c) for c in (pair, pair[:1]))
        one, two = (adapter.model(**batch.inputs).logits[0] for batch in (both, alone))
        assert (one - two).abs().max() > least
        assert not adapter.limits.padding_invariant


@pytest.mark.parametrize("num_samples", [16_000, 16_001, 16_079, 12_345])
def test_pad_multiple_per_family(hf_folders: dict[str, Path], num_samples: int) -> None:
    """Upstream's streaming front end fails on an incomplete frame; ours sees none. The mask has the true length."""
    utterance = clip(num_samples / 16_000)
    streaming = MoonshineAdapter(str(hf_folders["moonshine_streaming"]))
    batch = streaming.collator()([utterance])
    assert batch.inputs["input_values"].shape[1] % 80 == 0
    assert int(batch.inputs["attention_mask"].sum()) == num_samples
    assert streaming.loss(batch).loss.isfinite()
    if num_samples % 80:
        with pytest.raises(RuntimeError, match="shape"):
            streaming.model.model.encoder(utterance.waveform[None])
    first = MoonshineAdapter(str(hf_folders["moonshine"])).collator()([utterance])
    assert first.inputs["input_values"].shape[1] == num_samples


def test_pad_resolved(hf_folders: dict[str, Path], adapter: MoonshineAdapter, tmp_path: Path) -> None:
    """The first generation has no pad token; upstream's own loss then fails. Ours is set, and saved."""
    from transformers import MoonshineForConditionalGeneration

    plain = MoonshineForConditionalGeneration.from_pretrained(hf_folders["moonshine"])
    assert plain.config.pad_token_id is None
    assert adapter.model.config.pad_token_id is not None
    assert adapter.model.generation_config.pad_token_id is not None
    adapter.save(tmp_path)
    again = MoonshineAdapter(str(tmp_path))
    assert again.model.config.pad_token_id == adapter.model.config.pad_token_id


def test_a_text_longer_than_the_decoder_is_refused_by_name(adapter: MoonshineAdapter) -> None:
    adapter.model.config.max_position_embeddings = 194
    with pytest.raises(ValueError, match=r"transcript of long.wav has \d+ tokens with the prompt, the model takes 194"):
        adapter.collator().check({"long.wav": "x" * 300, "short.wav": "x"}, {"long.wav": 3.0, "short.wav": 1.0})
    with pytest.raises(ValueError, match="transcript of clip has"):
        adapter.collator()([clip(text="x" * 300)])


def test_transcripts_in_capitals_are_warned_of(adapter: MoonshineAdapter, caplog: pytest.LogCaptureFixture) -> None:
    """The tokens of single bytes, such as <0x0A>, say nothing about the vocabulary."""
    collator = adapter.collator()
    collator.check({"a.wav": "OPEN THE WINDOW"}, {"a.wav": 1.0})
    assert caplog.text == ""
    adapter.tokenizer.add_tokens(["Open", "it"])
    collator.check({"a.wav": "OPEN THE WINDOW"}, {"a.wav": 1.0})
    assert "1 of 1 transcripts are in capitals only" in caplog.text


def test_options_of_a_saved_folder_are_kept(adapter: MoonshineAdapter, tmp_path: Path) -> None:
    adapter.options = MoonshineOptions(max_tokens_per_second=14.0, max_seconds=12.0)
    adapter.save(tmp_path)
    again = MoonshineAdapter(str(tmp_path), max_seconds=20)
    assert again.options == MoonshineOptions(max_tokens_per_second=14.0, max_seconds=20)


def test_options_out_of_range() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        MoonshineAdapter("anywhere", max_seconds=0)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tiny_ctc(tmp_path / "other", "hubert")
    with pytest.raises(SourceError, match=r"other holds a 'hubert' model; this adapter takes moonshine, moonshine_str"):
        MoonshineAdapter(str(folder))


def test_remote_code_is_refused(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(hf_folders["moonshine"], tmp_path / "remote"))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    edit_json(folder / "config.json", model_type="moonshine_evil", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(SourceError, match=r"runs code of its own \(trust_remote_code\); such code is never run"):
        MoonshineAdapter(str(folder))
