"""Loss, text, freezing and modes of the Whisper adapter, on tiny random models."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.training.groups import train_only
from tests.tiny_models import SUPPRESS, clip

# HF warns on every generate call about flags that Whisper's own code passes on; nothing a caller can change.
pytestmark = pytest.mark.filterwarnings("ignore:Passing `generation_config` together with")


def make_clips():
    return [clip(1.0, "hello there", "a", 1), clip(2.2, "open the old window", "b", 2), clip(0.4, "no", "c", 3)]


def train(adapter: WhisperAdapter, batch, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW([p for p in adapter.model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    adapter.model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        adapter.loss(batch).loss.backward()
        optimizer.step()


@torch.no_grad()
def test_loss_equals_hf_with_labels_in_the_window(whisper: WhisperAdapter):
    native = whisper.native()
    batch = native.collator()(make_clips())
    labels = torch.cat([batch.inputs["decoder_input_ids"][:, 1:], torch.full((3, 1), whisper.rules.eos)], dim=1)
    logits = whisper.model(
        input_features=native.features(batch), decoder_input_ids=batch.inputs["decoder_input_ids"]
    ).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100)
    output = native.loss(batch)
    torch.testing.assert_close(output.loss, expected)
    assert output.weight == int((batch.targets != -100).sum())
    scored = batch.targets != -100
    assert torch.equal(labels[scored], batch.targets[scored]), "targets are the inputs, one step later"


@torch.no_grad()
def test_a_native_loss_after_another_one_is_its_own(whisper: WhisperAdapter):
    """One batch read in both modes within one evaluation pass: neither gets what the other has computed."""
    batch = whisper.collator()(make_clips())
    with whisper.evaluating():
        own, native, again = whisper.loss(batch).loss, whisper.native().loss(batch).loss, whisper.loss(batch).loss
    assert torch.equal(own, again) and not torch.isclose(own, native, rtol=1e-5)
    assert torch.equal(native, whisper.native().evaluate(batch).loss.loss)


def test_an_evaluation_runs_the_encoder_once(whisper: WhisperAdapter):
    batch, runs = whisper.collator()(make_clips()), []
    whisper.model.model.encoder.layers[0].register_forward_hook(lambda *_: runs.append(1))
    whisper.evaluate(batch)
    assert len(runs) == 1
    whisper.loss(batch), whisper.transcribe(batch)
    assert len(runs) == 3


@torch.no_grad()
def test_transcribe_equals_hf_generate_in_the_window(whisper: WhisperAdapter):
    """Same encoder, same prompt, same suppressed tokens, same text as upstream's ordinary generate."""
    whisper.options = replace(whisper.options, max_tokens_per_second=30.0)
    native = whisper.native()
    utterances = [replace(utterance, waveform=utterance.waveform[:16_000]) for utterance in make_clips()[:2]]
    batch = native.collator()(utterances)  # of one length, since upstream has one cap for all
    cap = 8 + 30
    # The random model emits timestamps, at which upstream would start a second segment.
    ids = whisper.model.generate(native.features(batch), max_new_tokens=cap, force_unique_generate_call=True)
    expected = whisper.processor.batch_decode(ids, skip_special_tokens=True)
    assert native.transcribe(batch) == [text.strip() for text in expected]
    assert len(set(expected)) == 2


def test_transcribe_caps_each_clip_by_its_duration(whisper: WhisperAdapter, monkeypatch: pytest.MonkeyPatch):
    """The random model never stops by itself; neither the reference nor the longest clip sets a clip's cap."""
    end = whisper.model.config.vocab_size - 1
    monkeypatch.setattr(whisper, "rules", replace(whisper.rules, eos=end, suppress=(*whisper.rules.suppress, end)))
    decoded: list[list[int]] = []
    decode = whisper.processor.tokenizer.batch_decode
    monkeypatch.setattr(
        whisper.processor.tokenizer, "batch_decode", lambda ids, **kw: decoded.extend(ids) or decode(ids, **kw)
    )
    whisper.transcribe(whisper.collator()([clip(1.0, "a" * 200), clip(2.0, "b", "long"), clip(0.5, "c", "short")]))
    assert [len(ids) for ids in decoded] == [15, 22, 12]


def test_suppress_lists_unchanged(whisper: WhisperAdapter):
    config = whisper.model.generation_config
    assert config.suppress_tokens[: len(SUPPRESS)] == SUPPRESS
    assert whisper.rules.suppress == tuple(config.suppress_tokens)
    assert whisper.rules.begin_suppress == (220, whisper.rules.eos)


def test_no_forced_decoder_ids_after_load(whisper: WhisperAdapter):
    assert whisper.model.generation_config.forced_decoder_ids is None
    assert whisper.model.config.forced_decoder_ids is None


def test_groups_and_weights_are_as_loaded(whisper: WhisperAdapter):
    assert {p.dtype for p in whisper.model.parameters()} == {torch.float32}
    assert not whisper.model.training
    assert whisper.model.proj_out.weight is whisper.model.model.decoder.embed_tokens.weight
    assert not whisper.model.model.encoder.embed_positions.weight.requires_grad
    assert whisper.model.config._attn_implementation == "sdpa"


def test_positions_bit_identical_after_fit(whisper: WhisperAdapter):
    """Not even switching every gradient on moves the sinusoids, weight decay included."""
    positions = whisper.model.model.encoder.embed_positions.weight
    before = positions.detach().clone()
    whisper.model.requires_grad_(True)
    train(whisper, whisper.collator()(make_clips()))
    assert torch.equal(positions, before)


def test_frozen_hash_unchanged(whisper: WhisperAdapter):
    train_only(whisper, ["encoder"])
    before = copy.deepcopy(whisper.model.state_dict())
    train(whisper, whisper.collator()(make_clips()))
    changed = {name for name, value in whisper.model.state_dict().items() if not torch.equal(value, before[name])}
    encoder = {name for name, p in whisper.model.named_parameters() if name.startswith("model.encoder")}
    assert changed == encoder - {"model.encoder.embed_positions.weight"}


def test_tied_group_policy(make_whisper):
    """The tied output layer freezes and trains with the decoder, as one tensor."""
    adapter = make_whisper()
    before = adapter.model.proj_out.weight.detach().clone()
    train_only(adapter, ["encoder"])
    batch = adapter.collator()(make_clips())
    train(adapter, batch)
    assert torch.equal(adapter.model.proj_out.weight, before)
    adapter = make_whisper()
    train_only(adapter, ["decoder"])
    train(adapter, batch)
    assert not torch.equal(adapter.model.proj_out.weight, before)
    assert adapter.model.proj_out.weight is adapter.model.model.decoder.embed_tokens.weight


def test_cache_unchanged_after_epoch_with_specaug(make_whisper):
    """Masks go onto a copy: cached features must be the same after every epoch."""
    adapter = make_whisper(spec_augment=SpecAugment(4, 0.3, 2))
    batch = adapter.collator()(make_clips())
    before = batch.clone()
    adapter.model.train()
    first, second = (adapter.loss(batch).loss for _ in range(2))
    assert torch.equal(batch.inputs["waveforms"], before.inputs["waveforms"])
    assert first != second, "masks are drawn anew for every step"


def test_masks_fall_on_speech(make_whisper):
    """Masks lie inside each clip's own frames, and there are none unless the model trains."""
    adapter = make_whisper(spec_augment=SpecAugment(6, 0.4))
    batch = adapter.collator()(make_clips())
    features = adapter.features(batch)
    assert torch.equal(adapter._augmented(batch), features)
    adapter.model.train()
    changed = (adapter._augmented(batch) != features).any(dim=1)
    for row, seconds in zip(changed, batch.seconds.tolist(), strict=True):
        frames = round(seconds * 100)
        assert row[:frames].any()
        assert not row[frames:].any()


def test_off_means_that_training_mode_changes_nothing(whisper: WhisperAdapter):
    batch = whisper.collator()(make_clips())
    evaluated = whisper.loss(batch).loss
    whisper.model.train()
    torch.testing.assert_close(whisper.loss(batch).loss, evaluated, atol=0, rtol=0)


def test_modes_survive_transcribe_and_evaluating(whisper: WhisperAdapter):
    whisper.model.train()
    whisper.model.model.decoder.eval()
    before = [module.training for module in whisper.model.modules()]
    whisper.transcribe(whisper.collator()(make_clips()))
    with pytest.raises(RuntimeError, match="interrupted"), whisper.evaluating():
        assert not any(module.training for module in whisper.model.modules())
        raise RuntimeError("interrupted")
    assert [module.training for module in whisper.model.modules()] == before


@torch.no_grad()
def test_padding_matters_at_true_length_only(whisper: WhisperAdapter):
    """Whisper masks no padding: the window hides it, true length shows it, and the limits say so."""
    alone, beside = make_clips()[:1], make_clips()[:2]
    for adapter in (whisper, whisper.native()):
        collate = adapter.collator()
        both, single = collate(beside), collate(alone)
        together = adapter.model.model(
            encoder_outputs=(_encode(adapter, both)[:1],), decoder_input_ids=single.inputs["decoder_input_ids"]
        ).last_hidden_state
        apart = adapter.model.model(
            encoder_outputs=(_encode(adapter, single),), decoder_input_ids=single.inputs["decoder_input_ids"]
        ).last_hidden_state
        same = torch.allclose(together, apart, atol=1e-5)
        assert same == adapter.limits.padding_invariant


def _encode(adapter: WhisperAdapter, batch):
    from asr_lightning.adapters.whisper.encoder import encode

    return encode(adapter.model.model.encoder, adapter.features(batch))


def test_native_shares_the_network(whisper: WhisperAdapter):
    native = whisper.native()
    assert native.model is whisper.model
    assert (native.options.context, whisper.options.context) == ("window", "true_length")
    assert native.native().options.context == "window"


def test_limits(whisper: WhisperAdapter):
    limits = whisper.limits
    assert (limits.sample_rate, limits.max_seconds, limits.max_target_tokens) == (16_000, 30.0, 448)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "short"}, "choose true_length or window"),
        ({"margin_seconds": -1.0}, "must not be negative"),
        ({"max_tokens_per_second": 0.0}, "must be above 0"),
    ],
)
def test_bad_options_are_refused(make_whisper, options, message):
    with pytest.raises(ValueError, match=message):
        make_whisper(**options)


def test_every_trainable_has_grad(whisper: WhisperAdapter) -> None:
    """DDP waits for a gradient of every parameter that it was given."""
    train_only(whisper, ["encoder"])
    whisper.loss(whisper.collator()([clip(), clip(2.0, uid="longer")])).loss.backward()
    without = [n for n, p in whisper.model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
