"""Behaviour of NeMo that this package depends on.

If a test fails after an upgrade, read its docstring, then decide.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from asr_lightning.adapters.nemo import NeMoAdapter
from tests.tiny_nemo import KINDS, tiny_nemo

pytestmark = pytest.mark.nemo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    for kind in KINDS:
        tiny_nemo(folder / f"{kind}.nemo", kind)
    return folder


def restored(path: Path, train: bool = False):
    """Return the model as plain NeMo restores it."""
    from nemo.collections.asr.models import ASRModel

    return ASRModel.restore_from(str(path), map_location="cpu").train(train)


def test_transcribe_leaves_train_mode(folder: Path) -> None:
    """``transcribe`` on a model in eval mode leaves parts of it in train mode, so we never call it."""
    model = restored(folder / "ctc.nemo")
    model.transcribe([torch.zeros(16_000).numpy()], verbose=False)
    assert model.encoder.training and model.decoder.training


def test_dither_is_added_in_place(folder: Path) -> None:
    """The featurizer writes into the caller's audio in train mode, so we clone the audio."""
    model = restored(folder / "ctc.nemo", train=True)
    signal = torch.zeros(1, 16_000)
    model.preprocessor(input_signal=signal, length=torch.tensor([16_000]))
    assert signal.abs().max() > 0
    model.eval()
    signal = torch.zeros(1, 16_000)
    model.preprocessor(input_signal=signal, length=torch.tensor([16_000]))
    assert signal.abs().max() == 0


@pytest.mark.filterwarnings("ignore")
def test_change_vocabulary_drops_tdt(folder: Path) -> None:
    """The loss is rebuilt with defaults, so TDT becomes plain RNNT (PR #15995); so we never change the vocabulary."""
    model = restored(folder / "tdt.nemo")
    before = type(model.loss._loss).__name__
    model.change_vocabulary(new_tokenizer_dir=str(folder / "rnnt-tokenizer"), new_tokenizer_type="bpe")
    assert (before, type(model.loss._loss).__name__) == ("TDTLossNumba", "RNNTLossNumba")


def test_training_step_needs_a_trainer(folder: Path) -> None:
    """NeMo's step needs the optimizer and the trainer that only its own training sets up."""
    model = restored(folder / "ctc.nemo", train=True)
    batch = (torch.randn(1, 16_000), torch.tensor([16_000]), torch.tensor([[1, 2]]), torch.tensor([2]))
    with pytest.raises(AttributeError, match="param_groups"):
        model.training_step(batch, 0)


def test_spec_augmentation_has_effect(folder: Path) -> None:
    """The network uses ``spec_augmentation``; assigning ``spec_augment`` changes nothing."""
    model = restored(folder / "ctc.nemo", train=True)
    model.spec_augment = None
    for module in (model.encoder, model.decoder, model.preprocessor):
        module.eval()
    inputs = {"input_signal": torch.randn(1, 16_000), "input_signal_length": torch.tensor([16_000])}
    torch.manual_seed(0)
    masked = [model(**inputs)[0] for _ in range(2)]
    assert not torch.equal(*masked), "the masks of the configuration are still drawn"
    model.spec_augmentation = None
    assert torch.equal(model(**inputs)[0], model(**inputs)[0])


def test_tdt_has_no_loss_outside_cuda(folder: Path) -> None:
    """NeMo 3.0.0 trains TDT on CUDA only, so we have ``PortableTransducerLoss``."""
    model = restored(folder / "tdt.nemo", train=True)
    with pytest.raises(ValueError, match="non CUDA"):
        model.loss(
            log_probs=torch.randn(1, 3, 3, 70), targets=torch.tensor([[1, 2]]), input_lengths=torch.tensor([3]),
            target_lengths=torch.tensor([2]),
        )  # fmt: skip


def test_unfreeze_enables_everything(folder: Path) -> None:
    """``unfreeze`` does not remember what was frozen before, so we keep our own list of what is trained."""
    model = restored(folder / "ctc.nemo")
    model.encoder.requires_grad_(False)
    model.unfreeze()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_quiet_leaves_the_callers_logging_alone(folder: Path) -> None:
    """NeMo's ``setLevel`` changes every handler of its logger, including the caller's, so we restore their levels."""
    handler = logging.StreamHandler()
    for name in (None, "nemo_logger"):
        logging.getLogger(name).addHandler(handler)
    try:
        NeMoAdapter(str(folder / "ctc.nemo"))
        assert (handler.level, logging.getLogger().level) == (logging.NOTSET, logging.WARNING)
        assert logging.getLogger("nemo_logger").level == logging.ERROR
    finally:
        for name in (None, "nemo_logger"):
            logging.getLogger(name).removeHandler(handler)


def test_forward_synchronizes_ranks(folder: Path) -> None:
    """Each forward pass does an all-reduce by default, which hangs when one rank scores alone; so we switch it off."""
    assert restored(folder / "ctc.nemo").encoder.sync_max_audio_length
