"""Hugging Face CTC: the loss against two other computations, labels, lengths, masks, languages, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import ctc_loss

from asr_lightning.adapters.hf_ctc import HFCTCAdapter
from asr_lightning.adapters.shared.ctc import greedy_labels
from asr_lightning.adapters.shared.hub import SourceError
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.errors import OptionError
from tests.tiny_hf import CTC_KINDS, RAW, edit_json, tiny_ctc, tiny_moonshine
from tests.tiny_models import clip


def clips() -> list:
    return [clip(2.0, "Open the window", "a", 1), clip(1.2, "ball", "b", 2), clip(2.5, "it's a small hill", "c", 3)]


@torch.no_grad()
@pytest.mark.parametrize("kind", CTC_KINDS)
def test_reduction_matches_reference(kind: str, load: Callable[..., HFCTCAdapter]) -> None:
    """The loss is the mean over utterances of the loss per label, whatever reduction the checkpoint trained with."""
    adapter = load(kind)
    adapter.model.eval()
    batch = adapter.collator()(clips())
    ours = adapter.loss(batch)
    audio = {
        name: tensor
        for name, tensor in adapter.inputs(batch).items()
        if name != "attention_mask" or kind != "wav2vec2-group"
    }
    adapter.model.config.ctc_loss_reduction = "mean"
    theirs = adapter.model(**audio, labels=batch.targets)
    if kind != "wav2vec2-group":  # without a mask upstream takes padding for audio
        torch.testing.assert_close(ours.loss, theirs.loss)
    blank = adapter.model.config.pad_token_id
    losses = []
    for row, utterance in enumerate(clips()):
        frames = int(adapter._output_lengths(adapter.collator()([utterance]).input_lengths))
        labels = batch.targets[row, : batch.target_lengths[row]]
        log_probs = theirs.logits[row, :frames].double().log_softmax(-1)[:, None]
        loss = ctc_loss(log_probs, labels[None], [frames], [len(labels)], blank=blank, reduction="sum")
        losses.append(loss / len(labels))
    assert ours.loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert ours.weight == 3


@pytest.mark.parametrize("kind", CTC_KINDS)
def test_frame_rate_equals_the_models_own_lengths(kind: str, load: Callable[..., HFCTCAdapter]) -> None:
    adapter = load(kind)
    collator = adapter.collator()
    for seconds in (0.3, 0.77, 1.0, 2.345, 12.0):
        lengths = adapter._output_lengths(collator([clip(seconds)]).input_lengths)
        assert collator.rate.frames(seconds) == pytest.approx(int(lengths), abs=1)
    assert collator.rate.per_second == (50 if kind in RAW else 12.5)


def test_loss_dtype_is_fp32(load: Callable[..., HFCTCAdapter]) -> None:
    """The loss of bfloat16 logits is float32 and close to the one in full precision."""
    adapter = load()
    adapter.model.eval()
    batch = adapter.collator()(clips())
    exact = adapter.loss(batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = adapter.loss(batch).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_doubled_letters_survive(load: Callable[..., HFCTCAdapter]) -> None:
    """A blank between two equal labels keeps both; the tokenizer's own decoding would drop the second."""
    adapter = load()
    ids = adapter.vocabulary.encode("BALL HILL")
    frames = [label for one in ids for label in (one, one, 0)]
    logits = torch.nn.functional.one_hot(torch.tensor([frames]), 32).float()
    rows = greedy_labels(logits, torch.tensor([len(frames)]), blank=0)
    assert rows == [ids]
    assert adapter.vocabulary.decode(rows[0]) == "BALL HILL"


@pytest.mark.parametrize(
    ("kind", "written"), [("wav2vec2", "OPEN IT'S"), ("mms", "open it's"), ("parakeet_ctc", "open it's")]
)
def test_casing_is_the_vocabularys(kind: str, written: str, load: Callable[..., HFCTCAdapter]) -> None:
    adapter = load(kind)
    batch = adapter.collator()([clip(text="Open, it’s!")])
    assert adapter.vocabulary.decode(batch.targets[0].tolist()).strip() == written
    assert batch.texts == ("Open, it’s!",)


def test_casing_is_the_tokenizers(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    """``do_lower_case``: capitals in the vocabulary, small letters in and out."""
    folder = Path(shutil.copytree(hf_folders["wav2vec2"], tmp_path / "lower"))
    edit_json(folder / "tokenizer_config.json", do_lower_case=True)
    adapter = HFCTCAdapter(str(folder))
    batch = adapter.collator()([clip(text="Open")])
    assert batch.targets[0].tolist() == HFCTCAdapter(str(hf_folders["wav2vec2"])).vocabulary.encode("OPEN")


@pytest.mark.parametrize(("kind", "count"), [("wav2vec2", 2), ("parakeet_ctc", 3)])
def test_a_vocabulary_without_the_languages_letters(kind: str, count: int, load: Callable[..., HFCTCAdapter]) -> None:
    """Capitals can write ß as SS; nothing here can write ö."""
    texts, seconds = {"a.wav": "schöne Grüße", "b.wav": "guten tag"}, {"a.wav": 2.0, "b.wav": 2.0}
    with pytest.raises(
        ValueError, match=rf"cannot write {count} characters[\s\S]*'ö' \(LATIN SMALL LETTER O WITH DIA.*in a.wav"
    ):
        load(kind).collator().check(texts, seconds)
    load(kind, unknown_characters="leave_out").collator().check(texts, seconds)
    with pytest.raises(ValueError, match="can write nothing of the transcripts of c.wav"):
        load(kind, unknown_characters="leave_out").collator().check({"c.wav": "привет"}, {"c.wav": 2.0})


@pytest.mark.parametrize("kind", ["wav2vec2", "parakeet_ctc"])
def test_infeasible_ctc_listed(kind: str, load: Callable[..., HFCTCAdapter], caplog: pytest.LogCaptureFixture) -> None:
    """Short clips are named before training, and give no infinite loss if they are trained on all the same."""
    adapter = load(kind)
    text = "the whole of a very long sentence"
    adapter.collator().check({"short.wav": text, "fine.wav": "ball"}, {"short.wav": 0.5, "fine.wav": 1.0})
    assert "1 recordings are too short for their text" in caplog.text and "short.wav (" in caplog.text
    assert "fine.wav" not in caplog.text
    output = adapter.loss(adapter.collator()([clip(0.5, text, "short"), clip(1.2, "ball", "fine")]))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in adapter.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", CTC_KINDS)
def test_every_trainable_has_grad(kind: str, load: Callable[..., HFCTCAdapter]) -> None:
    """DDP waits for ever for a parameter that no loss reaches, such as the embedding of masks."""
    adapter = load(kind)
    adapter.model.train()
    adapter.loss(adapter.collator()(clips())).loss.backward()
    assert [name for name, p in adapter.model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("kind", CTC_KINDS)
def test_train_forward_deterministic_without_dropout(kind: str, load: Callable[..., HFCTCAdapter]) -> None:
    """No layer is skipped at random, though the configuration of every one of these says 0.1."""
    adapter = load(kind)
    adapter.model.train()
    for module in adapter.model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = adapter.collator()(clips())
    assert len({adapter.loss(batch).loss.item() for _ in range(8)}) == 1


@pytest.mark.parametrize("kind", CTC_KINDS)
def test_masks_act_in_training_only(kind: str, load: Callable[..., HFCTCAdapter]) -> None:
    adapter = load(kind, spec_augment=SpecAugment(2, 0.2, 1))
    batch = adapter.collator()(clips())
    before = batch.clone()
    adapter.model.train()
    assert len({round(adapter.loss(batch).loss.item(), 6) for _ in range(4)}) > 1
    assert all(torch.equal(batch.inputs[name], before.inputs[name]) for name in batch.inputs)
    adapter.model.eval()
    assert len({adapter.loss(batch).loss.item() for _ in range(2)}) == 1
    assert adapter.limits.min_seconds == (0.25 if kind in RAW else 0.1)


def test_masks_need_an_embedding(tmp_path: Path) -> None:
    folder = tiny_ctc(tmp_path / "bare", "wav2vec2", mask_time_prob=0.0)
    with pytest.raises(ValueError, match="made without masks: set --model.adapter.init_args.spec_augment null"):
        HFCTCAdapter(str(folder), spec_augment=SpecAugment(2))


def test_a_checkpoint_may_lack_the_embedding_of_masks(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    """As facebook/wav2vec2-base-960h does: no text is read with it. Any other missing weight is refused."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(hf_folders["wav2vec2"], tmp_path / "part"))
    weights = load_file(folder / "model.safetensors")
    del weights["wav2vec2.masked_spec_embed"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    batch = HFCTCAdapter(str(hf_folders["wav2vec2"])).collator()(clips())
    assert HFCTCAdapter(str(folder)).transcribe(batch) == HFCTCAdapter(str(hf_folders["wav2vec2"])).transcribe(batch)
    del weights["wav2vec2.encoder.layer_norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match="part lack wav2vec2.encoder.layer_norm.weight"):
        HFCTCAdapter(str(folder))


def test_group_norm_gets_no_mask(load: Callable[..., HFCTCAdapter]) -> None:
    assert not load("wav2vec2-group").limits.padding_invariant
    assert load("wav2vec2").limits.padding_invariant


def test_mms_reads_with_the_layers_of_its_language(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    german, english = (HFCTCAdapter(str(hf_folders["mms"]), language=code) for code in ("deu", "eng"))
    layers = [adapter.model._get_adapters() for adapter in (german, english)]
    shared = [name for name in layers[0] if not name.startswith("lm_head")]
    assert shared and all(torch.allclose(layers[0][name], layers[1][name] + 0.01, atol=1e-6) for name in shared)
    assert german.model.lm_head.out_features == english.model.lm_head.out_features + 4
    assert german.vocabulary.decode(german.vocabulary.encode("schöne grüße")) == "schöne grüße"
    german.save(tmp_path)
    again = HFCTCAdapter(str(tmp_path))
    assert again.options.language == "deu" and again.tokenizer.target_lang == "deu"
    assert torch.equal(again.model.lm_head.weight, german.model.lm_head.weight)


@pytest.mark.parametrize("language", [None, "xyz"])
def test_mms_needs_a_language_it_has(language: str | None, hf_folders: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match=r"reads 2 languages(, and xyz is not one of them)?: .* such as deu, eng"):
        HFCTCAdapter(str(hf_folders["mms"]), language=language)


def test_other_models_take_no_language(hf_folders: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="reads one language: leave out --language deu"):
        HFCTCAdapter(str(hf_folders["wav2vec2"]), language="deu")


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    """A wav2vec2 that sorts clips into classes, one that is only pretrained, and a model that writes otherwise."""
    from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2ForPreTraining

    folder = tiny_ctc(tmp_path / "wav2vec2", "wav2vec2")
    config = Wav2Vec2Config.from_pretrained(folder)
    for name, factory in (
        ("classes", AutoModelForAudioClassification.from_config),
        ("pretrained", Wav2Vec2ForPreTraining),
    ):
        other = Path(shutil.copytree(folder, tmp_path / name))
        config.num_codevector_groups, config.codevector_dim, config.proj_codevector_dim = 2, 32, 16
        factory(config).save_pretrained(other)
        with pytest.raises(SourceError, match=f"{name} has no head that writes text .lm_head.*made for another task"):
            HFCTCAdapter(str(other))
    with pytest.raises(SourceError, match="holds a 'moonshine' model; this adapter takes"):
        HFCTCAdapter(str(tiny_moonshine(tmp_path / "moonshine")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vocab.json", "holds no tokenizer.json"),
        ("preprocessor_config.json", "holds no preprocessor_config.json"),
        ("model.safetensors", "holds no weights"),
        ("config.json", "is no model folder"),
    ],
)
def test_a_missing_file_is_named(name: str, message: str, hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hf_folders["wav2vec2"], tmp_path / "part"))
    (folder / name).unlink()
    with pytest.raises(SourceError, match=f"part {message}"):
        HFCTCAdapter(str(folder))


def test_remote_code_is_refused(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hf_folders["wav2vec2"], tmp_path / "remote"))
    edit_json(folder / "config.json", model_type="mine", auto_map={"AutoModelForCTC": "mine.Model"})
    with pytest.raises(SourceError, match=r"runs code of its own \(trust_remote_code\)"):
        HFCTCAdapter(str(folder))


def test_tokenizer_and_network_of_two_models(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(hf_folders["wav2vec2"], tmp_path / "mixed"))
    edit_json(folder / "config.json", pad_token_id=5)
    with pytest.raises(SourceError, match="pad token is 0, the network's blank 5: copy both from one model"):
        HFCTCAdapter(str(folder))


def test_unknown_characters_option(hf_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="must be refuse or leave_out, not 'drop'"):
        HFCTCAdapter(str(hf_folders["wav2vec2"]), unknown_characters="drop")  # type: ignore[arg-type]


def test_saved_folder_is_recorded(load: Callable[..., HFCTCAdapter], tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        load(max_seconds=12.0, unknown_characters="leave_out").save(tmp_path)
    assert json.loads((tmp_path / "asr_lightning.json").read_text())["init_args"]["max_seconds"] == 12.0
    assert HFCTCAdapter(str(tmp_path)).options.unknown_characters == "leave_out"
    assert not caplog.records
