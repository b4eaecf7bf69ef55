"""NeMoAdapter beyond the contract: heads, losses, modes, masks, groups, and options that do not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import ctc_loss

from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.training.groups import group_of, hold_batch_norm, train_only
from asr_lightning.types import SpeechBatch
from tests.tiny_models import clip
from tests.tiny_nemo import EVERY_KIND, KINDS, tiny_nemo

pytestmark = pytest.mark.nemo


def batch_of(adapter: NeMoAdapter) -> SpeechBatch:
    """Three clips of unequal length."""
    texts = ("open the window", "close the old door now", "yes please")
    return adapter.collator()([clip(1.5 + 0.7 * n, text, f"clip-{n}", n) for n, text in enumerate(texts)])


def upstream(adapter: NeMoAdapter, tmp_path: Path) -> Any:
    """The adapter's weights in plain NeMo."""
    from nemo.collections.asr.models import ASRModel

    adapter.save(tmp_path)
    return ASRModel.restore_from(str(tmp_path / "model.nemo"), map_location="cpu")


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_text_equals_nemos_own(make_nemo, kind: str, tmp_path: Path) -> None:
    """Greedy decoding of a batch against ``transcribe`` of plain NeMo, clip by clip."""
    adapter = make_nemo(kind)
    clips = [clip(1.0 + 0.6 * n, "x", f"{n}", n) for n in range(4)]
    model = upstream(adapter, tmp_path)
    expected = [model.transcribe([c.waveform.numpy()], batch_size=1, verbose=False)[0].text.strip() for c in clips]
    assert adapter.transcribe(adapter.collator()(clips)) == expected
    assert (len(set(expected)) > 1 and all(expected)) or kind == "ctc-characters"


@pytest.mark.parametrize("kind", ["hybrid", "hybrid-tdt"])
def test_both_heads_of_a_hybrid_read(make_nemo, kind: str, tmp_path: Path) -> None:
    transducer, ctc = make_nemo(kind), make_nemo(kind, decoder="ctc")
    model = upstream(ctc, tmp_path)
    model.change_decoding_strategy(decoder_type="ctc", verbose=False)
    clips = [clip(1.0 + 0.6 * n, "x", f"{n}", n) for n in range(3)]
    expected = [h.text for h in model.transcribe([c.waveform.numpy() for c in clips], verbose=False)]
    assert ctc.transcribe(ctc.collator()(clips)) == expected
    assert transducer.transcribe(transducer.collator()(clips)) != expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [False, True])
def test_nemo_losses_match_reference(kind: str, fused: bool, tmp_path: Path) -> None:
    """The losses equal those computed by hand from the parts of plain NeMo, with the fused joint in both positions."""
    if kind == "ctc" and fused:
        pytest.skip("a CTC model has no joint to fuse")
    changes = {} if kind == "ctc" else {"joint__fuse_loss_wer": fused, "joint__fused_batch_size": 2}
    adapter = NeMoAdapter(str(tiny_nemo(tmp_path / "m.nemo", kind, **changes)))
    adapter.model.eval()
    batch = batch_of(adapter)
    output = adapter.loss(batch)
    encoded, lengths = adapter._encode(batch)
    targets = batch.targets.clamp(min=0)
    head = adapter.model.decoder if kind == "ctc" else getattr(adapter.model, "ctc_decoder", None)
    if head is not None:
        log_probs = head(encoder_output=encoded).transpose(0, 1)
        blank = log_probs.shape[-1] - 1
        expected = ctc_loss(log_probs, targets, lengths, batch.target_lengths, blank, reduction="none").mean()
        assert (output.loss if kind == "ctc" else output.parts["ctc"]).item() == pytest.approx(
            expected.item(), rel=1e-5
        )
    if kind == "rnnt":
        assert output.loss.item() == pytest.approx(_rnnt_by_torchaudio(adapter, encoded, lengths, batch), rel=1e-5)
    if kind.startswith("hybrid"):
        assert output.loss.item() == pytest.approx(
            0.7 * output.parts["rnnt"].item() + 0.3 * output.parts["ctc"].item(), rel=1e-5
        )


def _rnnt_by_torchaudio(adapter: NeMoAdapter, encoded, lengths, batch: SpeechBatch) -> float:
    from torchaudio.functional import rnnt_loss

    targets = batch.targets.clamp(min=0)
    predicted, target_lengths, _ = adapter.model.decoder(targets=targets, target_length=batch.target_lengths)
    joint = adapter.model.joint.joint(encoded.transpose(1, 2), predicted.transpose(1, 2))
    loss = rnnt_loss(joint, targets.int(), lengths.int(), target_lengths.int(), blank=joint.shape[-1] - 1)
    return loss.item()


def test_fused_joint_gives_the_same_gradients(tmp_path: Path) -> None:
    """Sub-batches of the joint are a matter of memory, not of the result."""
    changes = {"joint__jointnet__dropout": 0.0, "joint__fused_batch_size": 2}
    gradients = []
    for fused in (False, True):
        path = tiny_nemo(tmp_path / f"{fused}" / "m.nemo", "tdt", joint__fuse_loss_wer=fused, **changes)
        adapter = NeMoAdapter(str(path))
        adapter.model.eval()
        adapter.loss(batch_of(adapter)).loss.backward()
        gradients.append([p.grad for p in adapter.model.joint.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_joint_loss_identity(tmp_path: Path) -> None:
    """A fused joint keeps the loss that it was given; ours is that object."""
    adapter = NeMoAdapter(str(tiny_nemo(tmp_path / "m.nemo", "tdt", joint__fuse_loss_wer=True)))
    assert adapter.model.joint.loss is adapter.model.loss


@pytest.mark.parametrize("kind", ["rnnt", "tdt", "hybrid-tdt"])
def test_loss_class_unchanged(make_nemo, kind: str) -> None:
    """TDT keeps its own loss, with the durations and the sigma of the checkpoint."""
    kernel = make_nemo(kind).model.loss._loss.kernel
    assert type(kernel).__name__ == ("RNNTLossNumba" if kind == "rnnt" else "TDTLossNumba")
    if kind != "rnnt":
        assert (kernel.durations, kernel.sigma) == ([0, 1, 2, 3, 4], 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_by_name(make_nemo, kind: str) -> None:
    expected = {
        "ctc": ["encoder", "frontend", "head"],
        "hybrid": ["decoder", "encoder", "frontend", "head", "joint"],
    }.get(kind.partition("-")[0], ["decoder", "encoder", "frontend", "joint"])
    assert sorted(make_nemo(kind).groups) == expected


def test_trainable_set_constant(make_nemo) -> None:
    """Evaluating in the middle of training neither unfreezes a parameter nor changes a mode."""
    adapter = make_nemo("hybrid")
    adapter.model.train()
    train_only(adapter, ["encoder"])
    hold_batch_norm(adapter.model)
    trainable = [n for n, p in adapter.model.named_parameters() if p.requires_grad]
    modes = [m.training for m in adapter.model.modules()]
    assert {group_of(name, adapter.groups) for name in trainable} == {"encoder"}
    for _ in range(2):
        with adapter.evaluating():
            adapter.transcribe(batch_of(adapter))
        adapter.transcribe(batch_of(adapter))
        adapter.loss(batch_of(adapter)).loss.backward()
    assert [n for n, p in adapter.model.named_parameters() if p.requires_grad] == trainable
    assert [m.training for m in adapter.model.modules()] == modes


def test_modes_restored_after_transcribe(make_nemo) -> None:
    """NeMo's own ``transcribe`` leaves parts in train mode; ours restores every mode."""
    adapter = make_nemo("rnnt")
    adapter.model.train()
    adapter.model.encoder.layers[0].eval()
    before = [m.training for m in adapter.model.modules()]
    adapter.transcribe(batch_of(adapter))
    assert [m.training for m in adapter.model.modules()] == before


def test_bn_buffers_unchanged_when_frozen(make_nemo) -> None:
    """The statistics stay the checkpoint's while the encoder trains, and scale and shift learn."""
    adapter = make_nemo("ctc")
    adapter.model.train()
    train_only(adapter, ["encoder"])
    assert hold_batch_norm(adapter.model) == 2
    before = copy.deepcopy(adapter.model.state_dict())
    optimizer = torch.optim.AdamW([p for p in adapter.model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        adapter.loss(batch_of(adapter)).loss.backward()
        optimizer.step()
    changed = {name for name, tensor in adapter.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if "running" in name or "num_batches" in name]
    assert "encoder.layers.0.conv.batch_norm.weight" in changed


def test_specaug_off_is_deterministic(make_nemo) -> None:
    """No masks unless they are asked for, though the checkpoint's configuration has some."""
    adapter = quiet_training(make_nemo("ctc"))
    batch = batch_of(adapter)
    assert adapter.loss(batch).loss == adapter.loss(batch).loss
    masked = quiet_training(make_nemo("ctc", spec_augment=SpecAugment(2, 0.2)))
    torch.manual_seed(0)
    losses = [masked.loss(batch).loss.item() for _ in range(3)]
    assert len(set(losses)) == 3
    torch.manual_seed(0)
    assert [masked.loss(batch).loss.item() for _ in range(3)] == losses, "masks follow torch's seed"
    with masked.evaluating():
        assert masked.loss(batch).loss == masked.loss(batch).loss


def quiet_training(adapter: NeMoAdapter) -> NeMoAdapter:
    """Train mode without dropout and dither."""
    adapter.model.train()
    for module in adapter.model.modules():
        module.training = module is adapter.model
    return adapter


def test_train_forward_deterministic_without_dropout(tmp_path: Path) -> None:
    """No layer is skipped at random once dropout and dither are off."""
    off = {f"encoder__{name}": 0.0 for name in ("dropout", "dropout_pre_encoder", "dropout_att")}
    adapter = NeMoAdapter(str(tiny_nemo(tmp_path / "m.nemo", "ctc", preprocessor__dither=0.0, **off)))
    adapter.model.train()
    batch = batch_of(adapter)
    assert adapter.loss(batch).loss == adapter.loss(batch).loss


def test_dither_only_in_training(make_nemo) -> None:
    """Training hears noise at the level of the last bit, scoring does not; the batch never changes."""
    adapter = make_nemo("ctc")
    batch = batch_of(adapter)
    before = batch.clone()
    seen: list[torch.Tensor] = []
    adapter.model.preprocessor.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(out[0]), with_kwargs=True
    )
    for training in (False, False, True, True):
        adapter.model.train(training)
        adapter.loss(batch)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[2], seen[3])
    assert torch.equal(batch.inputs["input_signal"], before.inputs["input_signal"])


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_loss_dtype_is_fp32(make_nemo) -> None:
    """Under bfloat16 autocast the criterion still computes in float32."""
    for kind in KINDS:
        adapter = make_nemo(kind)
        adapter.model.eval()
        batch = batch_of(adapter)
        exact = adapter.loss(batch).loss
        # oneDNN has no bfloat16 LSTM for every processor
        with torch.autocast("cpu", torch.bfloat16), torch.backends.mkldnn.flags(enabled=False):
            loss = adapter.loss(batch).loss
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_weight_of_the_loss_is_the_reductions(tmp_path: Path) -> None:
    """``mean_volume`` averages tokens and ``mean_batch`` utterances; batches are weighted accordingly."""
    for reduction, weight in (("mean_volume", 0), ("mean_batch", 3), ("mean", 3)):
        adapter = NeMoAdapter(str(tiny_nemo(tmp_path / reduction / "m.nemo", "rnnt", rnnt_reduction=reduction)))
        batch = batch_of(adapter)
        assert adapter.loss(batch).weight == (weight or int(batch.target_lengths.sum()))


def test_infeasible_rows_are_counted(make_nemo) -> None:
    """A text with more labels than frames adds nothing to the loss, and the run says how many there were."""
    adapter = make_nemo("ctc")
    clips = [clip(0.5, "a very long text for so short a clip", "fast"), clip(2.0, "yes", "slow")]
    output = adapter.loss(adapter.collator()(clips))
    assert output.parts["infeasible"] == 1
    assert output.loss.isfinite()


def test_unused_head_is_frozen(make_nemo) -> None:
    """DDP waits for ever for the gradient of a parameter that no loss uses."""
    for weight, unused in ((0.0, {"head"}), (1.0, {"decoder", "joint"})):
        adapter = make_nemo("hybrid", ctc_weight=weight)
        adapter.model.train()
        adapter.loss(batch_of(adapter)).loss.backward()
        idle = [n for n, p in adapter.model.named_parameters() if p.grad is None]
        assert {group_of(name, adapter.groups) for name in idle} == unused
        assert not any(dict(adapter.model.named_parameters())[name].requires_grad for name in idle)


def test_linear_adapter_starts_as_the_identity(make_nemo, tmp_path: Path) -> None:
    """The light alternative: NeMo's adapter modules, trained alone, kept by plain NeMo."""
    plain, light = make_nemo("ctc"), make_nemo("ctc", linear_adapter_dim=8)
    plain.model.eval()
    light.model.eval()
    batch = batch_of(plain)
    assert light.loss(batch).loss.item() == pytest.approx(plain.loss(batch).loss.item(), rel=1e-6)
    light.model.train()
    train_only(light, ["linear_adapter"])
    hold_batch_norm(light.model)
    trained = [name for name, p in light.model.named_parameters() if p.requires_grad]
    assert trained and all(".adapter_layer.linear." in name for name in trained)
    optimizer = torch.optim.AdamW([p for p in light.model.parameters() if p.requires_grad], lr=1e-2)
    first = light.loss(batch).loss
    for _ in range(20):
        optimizer.zero_grad()
        light.loss(batch).loss.backward()
        optimizer.step()
    assert light.loss(batch).loss < first
    model = upstream(light, tmp_path)
    light.model.eval()
    expected = [h.text for h in model.transcribe([clip(1.5, seed=7).waveform.numpy()], verbose=False)]
    assert light.transcribe(light.collator()([clip(1.5, seed=7)])) == expected
    again = NeMoAdapter(str(tmp_path))
    assert sum(".adapter_layer." in n for n, _ in again.model.named_parameters()) == len(trained)
    assert again.transcribe(batch) == light.transcribe(batch)


def test_loss_and_text_of_an_evaluation_share_one_encoding(make_nemo) -> None:
    adapter = make_nemo("ctc")
    adapter.model.eval()
    calls: list[int] = []
    adapter.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    first, second = batch_of(adapter), batch_of(adapter)
    output, other = adapter.evaluate(first), adapter.evaluate(second)
    assert len(calls) == 2
    expected = [output.loss.loss, output.texts, other.loss.loss]
    assert [adapter.loss(first).loss, adapter.transcribe(first), adapter.loss(second).loss] == expected
    assert len(calls) == 5
    with torch.no_grad():
        adapter.model.decoder.decoder_layers[0].bias.add_(torch.arange(65.0))
    assert adapter.transcribe(first) != expected[1]


def test_cuda_graphs_only_while_evaluating(make_nemo) -> None:
    """Graphs hold memory that training needs. A stand-in counts, since a CPU has no graphs to capture."""
    adapter = make_nemo("tdt")
    inner = adapter.head.decoding.decoding
    events: list[str] = []
    inner.maybe_enable_cuda_graphs = lambda: events.append("on")
    inner.disable_cuda_graphs = lambda: events.append("off")
    with adapter.evaluating():
        for _ in range(2):
            adapter.transcribe(batch_of(adapter))
        assert events == ["off", "on"], "captured once for a whole pass"
    assert events == ["off", "on", "off"]
    with pytest.raises(ZeroDivisionError), adapter.evaluating():
        _ = 1 / 0
    assert events[-1] == "off"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_cuda_graphs_read_the_same(make_nemo, kind: str) -> None:
    adapter = make_nemo(kind)
    adapter.model.cuda()
    batch = batch_of(adapter).to("cuda")
    plain = adapter.transcribe(batch)
    with adapter.evaluating():
        assert adapter.head.decoding.decoding.cuda_graphs_mode is not None
        assert adapter.transcribe(batch) == plain


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_losses_on_the_gpu_equal_the_cpus(make_nemo, kind: str) -> None:
    adapter = make_nemo(kind)
    adapter.model.eval()
    batch = batch_of(adapter)
    expected = adapter.loss(batch).loss.item()
    adapter.model.cuda()
    assert adapter.loss(batch.to("cuda")).loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.gpu
def test_ctc_len_256(make_nemo) -> None:
    """Targets of 256 labels and more, which old cuDNN paths got wrong."""
    adapter = make_nemo("ctc-characters")
    long = adapter.collator()([clip(60.0, "ab" * 140, "long")])
    expected = adapter.loss(long).loss.item()
    adapter.model.cuda()
    assert adapter.loss(long.to("cuda")).loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ctc", {"decoder": "rnnt"}, "init_args.decoder rnnt does not fit this model, which has ctc only"),
        ("tdt", {"decoder": "ctc"}, "does not fit this model, which has rnnt only"),
        ("hybrid", {"decoder": "beam"}, "which has rnnt and ctc"),
        ("rnnt", {"ctc_weight": 0.3}, "for hybrid models only"),
        ("hybrid", {"ctc_weight": 1.5}, "a share from 0 to 1"),
        ("ctc", {"unknown_characters": "ignore"}, "must be refuse or leave_out"),
        ("ctc", {"linear_adapter_dim": -1}, "linear_adapter_dim must not be negative"),
    ],
)
def test_option_that_does_not_fit(make_nemo, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_nemo(kind, **options)


def test_batch_keeps_the_order_of_unequal_clips(make_nemo) -> None:
    """Alone or together, sorted or not: the same texts."""
    adapter = make_nemo("hybrid-tdt")
    clips = [clip(seconds, "x", f"{seconds}", n) for n, seconds in enumerate((2.2, 0.4, 1.3))]
    together = adapter.transcribe(adapter.collator()(clips))
    assert together == [adapter.transcribe(adapter.collator()([c]))[0] for c in clips]
