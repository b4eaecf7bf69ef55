"""Parakeet's transducers in transformers: the loss against NeMo's and torchaudio's, decoding clip by clip."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asr_lightning.adapters.hf_transducer import HFTransducerAdapter
from asr_lightning.adapters.shared.hub import SourceError
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.types import LossOutput, SpeechBatch
from tests.tiny_hf import TRANSDUCER_KINDS, edit_json, tiny_ctc, tiny_transducer
from tests.tiny_models import clip


def clips() -> list:
    return [clip(1.2, "open the window", "a", 1), clip(2.6, "ball", "b", 2), clip(1.5, "it's a hill", "c", 3)]


def joint(adapter: HFTransducerAdapter, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
    """Joint output and true frames, by the network's own parts."""
    adapter.model.eval()
    features, mask = adapter.inputs(batch).values()
    encoded = adapter.model.get_audio_features(features, attention_mask=mask, output_attention_mask=True)
    blank = adapter.model.config.blank_token_id
    labels = torch.nn.functional.pad(batch.targets.clamp(min=0), (1, 0), value=blank)
    decoded = adapter.model.decoder(labels)
    logits = adapter.model.joint(decoded[:, None], encoded.pooler_output[:, :, None])
    return logits, encoded.attention_mask.sum(-1)


def reduced(losses: Tensor, kind: str, batch: SpeechBatch) -> Tensor:
    """As the released checkpoints were trained: TDT per label and utterance, RNNT per label."""
    if kind == "parakeet_tdt":
        return (losses / batch.target_lengths).mean()
    return losses.sum() / batch.target_lengths.sum()


@pytest.mark.nemo
@pytest.mark.parametrize("kind", TRANSDUCER_KINDS)
def test_loss_equals_nemos_on_the_same_logits(
    kind: str, load: Callable[..., HFTransducerAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its gradient: so what transformers trains is what NVIDIA trains."""
    monkeypatch.setattr(Tensor, "cuda", lambda tensor: tensor)  # NeMo's plain TDT loss asks for a GPU, and needs none
    from nemo.collections.asr.losses.rnnt_pytorch import RNNTLossPytorch, TDTLossPytorch

    adapter = load(kind)
    batch = adapter.collator()(clips())
    logits, lengths = joint(adapter, batch)
    blank = adapter.model.config.blank_token_id
    if kind == "parakeet_tdt":
        theirs = TDTLossPytorch(blank=blank, durations=adapter.durations, reduction="none", sigma=0.0)
    else:
        theirs = RNNTLossPytorch(blank=blank, reduction="none")
    losses = theirs(acts=logits, labels=batch.targets.clamp(min=0), act_lens=lengths, label_lens=batch.target_lengths)
    expected = reduced(losses, kind, batch)
    ours = adapter.loss(batch).loss
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    weight = adapter.model.encoder_projector.weight
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_rnnt_loss_equals_torchaudio(load: Callable[..., HFTransducerAdapter]) -> None:
    from torchaudio.functional import rnnt_loss

    adapter = load("parakeet_rnnt")
    batch = adapter.collator()(clips())
    logits, lengths = joint(adapter, batch)
    labels = batch.targets.clamp(min=0).int()
    blank = adapter.model.config.blank_token_id
    losses = rnnt_loss(
        logits[:, : lengths.max()], labels, lengths.int(), batch.target_lengths.int(), blank, reduction="none"
    )
    output = adapter.loss(batch)
    torch.testing.assert_close(output.loss, reduced(losses, "parakeet_rnnt", batch), rtol=1e-4, atol=1e-4)
    assert output.weight == int(batch.target_lengths.sum())


@pytest.mark.parametrize("kind", TRANSDUCER_KINDS)
def test_loss_equals_upstreams(kind: str, load: Callable[..., HFTransducerAdapter]) -> None:
    """``labels=`` in the form upstream counts right: one utterance, nothing padded."""
    adapter = load(kind)
    adapter.model.eval()
    batch = adapter.collator()(clips()[:1])
    blank = torch.tensor([[adapter.model.config.blank_token_id]])
    ids = torch.cat([blank, batch.targets], 1)
    theirs = adapter.model(
        **adapter.inputs(batch), decoder_input_ids=ids, labels=batch.targets, output_attention_mask=True
    )
    torch.testing.assert_close(adapter.loss(batch).loss, theirs.loss)


@pytest.mark.parametrize("kind", TRANSDUCER_KINDS)
def test_transducer_label_padding(kind: str, load: Callable[..., HFTransducerAdapter]) -> None:
    """Upstream counts labels by what is not blank or pad, so that -100 counts as a label; lengths do not."""
    adapter = load(kind)
    adapter.model.eval()
    collate = adapter.collator()
    outputs: list[LossOutput] = [adapter.loss(collate([utterance])) for utterance in clips()]
    together = adapter.loss(collate(clips()))
    mean = sum(o.loss * o.weight for o in outputs) / sum(o.weight for o in outputs)
    torch.testing.assert_close(together.loss, mean)


@pytest.mark.parametrize("kind", TRANSDUCER_KINDS)
def test_text_ends_where_its_clip_ends(kind: str, load: Callable[..., HFTransducerAdapter]) -> None:
    """Upstream's ``generate`` goes on writing for a clip that has ended, until the longest one has."""
    adapter = load(kind)
    collate = adapter.collator()
    head = adapter.model.joint.head
    head.weight.data *= 30  # so that frames differ in what they say
    if adapter.durations:
        head.bias.data[adapter.model.config.vocab_size] -= 1e4  # the duration 0, with which nothing ever ends
    alone = [adapter.transcribe(collate([utterance]))[0] for utterance in clips()]
    assert adapter.transcribe(collate(clips())) == alone
    assert any(alone)


def test_tdt_durations_are_no_tokens(load: Callable[..., HFTransducerAdapter]) -> None:
    """``generate`` takes the best column of all, durations included, unless it is told not to."""
    adapter = load("parakeet_tdt")
    adapter.model.joint.head.bias.data[-len(adapter.durations) :] += 50.0
    assert isinstance(adapter.transcribe(adapter.collator()(clips()))[0], str)
    adapter.model.generation_config.suppress_tokens = None
    with pytest.raises(IndexError):
        adapter.transcribe(adapter.collator()(clips()))


def test_tdt_without_duration_0_is_refused(tmp_path: Path) -> None:
    """Without the duration 0 no path reaches some places of the lattice."""
    folder = tiny_transducer(tmp_path / "m", "parakeet_tdt", durations=[1, 2, 3])
    with pytest.raises(ValueError, match=r"needs the duration 0, .* has \[1, 2, 3\]: choose another"):
        HFTransducerAdapter(str(folder))


@pytest.mark.parametrize("kind", TRANSDUCER_KINDS)
def test_joint_memory_is_reported(kind: str, load: Callable[..., HFTransducerAdapter], caplog) -> None:
    """The durations of a TDT model are columns of the joint too."""
    with caplog.at_level("INFO"):
        load(kind).collator().check({"a.wav": "hello " * 20}, {"a.wav": 30.0})
    columns = load(kind).model.joint.head.out_features
    labels = len(load(kind).vocabulary.encode("hello " * 19 + "hello"))
    assert f"{2 * 4 * 375 * (labels + 1) * columns / 1e9:.2f} GB" in caplog.text


def test_a_ctc_model_is_refused(tmp_path: Path) -> None:
    folder = tiny_ctc(tmp_path / "ctc", "parakeet_ctc")
    with pytest.raises(SourceError, match="'parakeet_ctc' model; this adapter takes parakeet_rnnt, parakeet_tdt"):
        HFTransducerAdapter(str(folder))


def test_remote_code_is_refused(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hf_folders["parakeet_tdt"], tmp_path / "remote"))
    edit_json(folder / "config.json", model_type="mine", auto_map={"AutoModel": "mine.Model"})
    with pytest.raises(SourceError, match=r"runs code of its own \(trust_remote_code\)"):
        HFTransducerAdapter(str(folder))


@pytest.mark.parametrize("kind", TRANSDUCER_KINDS)
def test_masks_act_in_training_only(kind: str, load: Callable[..., HFTransducerAdapter]) -> None:
    adapter = load(kind, spec_augment=SpecAugment(2, 0.2, 1))
    batch = adapter.collator()(clips())
    for module in adapter.model.modules():
        module.training = not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    assert len({adapter.loss(batch).loss.item() for _ in range(4)}) > 1
    adapter.model.eval()
    assert len({adapter.loss(batch).loss.item() for _ in range(2)}) == 1
