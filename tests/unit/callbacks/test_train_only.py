import copy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.train_only import TrainOnly
from asr_lightning.training.groups import group_of, train_only
from tests.toy_run import toy_data, toy_fit, toy_module


class Modes(Callback):
    """Remembers the modes of the encoder's and the head's modules at every training step."""

    def __init__(self) -> None:
        self.seen: set[tuple[bool, bool]] = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.add((pl_module.model.encoder[1].training, pl_module.model.head.training))


@pytest.mark.parametrize("trained", ["encoder", "head"])
def test_frozen_hash_unchanged(tones: Path, trained: str) -> None:
    """Weights and BatchNorm buffers of frozen groups are bit-identical after epochs with validations in between."""
    module, modes = toy_module(), Modes()
    before = copy.deepcopy(module.model.state_dict())
    toy_fit(module, toy_data(tones), [TrainOnly([trained], batch_norm="train"), modes], max_epochs=2)
    changed = {
        group_of(n, ToyAdapter.groups) for n, t in module.model.state_dict().items() if not torch.equal(t, before[n])
    }
    assert changed == {trained}
    assert modes.seen == {(trained == "encoder", trained == "head")}


def test_bn_buffers_unchanged_when_frozen(tones: Path) -> None:
    module = toy_module()
    norm = module.model.encoder[1]
    mean = norm.running_mean.clone()
    toy_fit(module, toy_data(tones), [TrainOnly(["head"])])
    assert torch.equal(norm.running_mean, mean)
    assert norm.num_batches_tracked == 0


def test_batch_norm_is_held_while_the_encoder_trains(tones: Path) -> None:
    """By default the statistics of thousands of voices stay, while scale and shift learn, also after validations."""
    module = toy_module()
    norm = module.model.encoder[1]
    mean, scale = norm.running_mean.clone(), norm.weight.clone()
    toy_fit(module, toy_data(tones), [TrainOnly(["encoder", "head"])], max_epochs=2)
    assert torch.equal(norm.running_mean, mean)
    assert norm.num_batches_tracked == 0
    assert not torch.equal(norm.weight, scale)


def test_unknown_batch_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_norm must be hold or train, not 'keep'"):
        TrainOnly(["head"], batch_norm="keep")  # type: ignore[arg-type]


def test_optimizer_gets_only_trainable(tones: Path) -> None:
    module = toy_module()
    trainer = toy_fit(module, toy_data(tones), [TrainOnly(["head"])])
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in module.model.head.parameters()}


def test_only_switches_off() -> None:
    """What the model holds fixed stays fixed, even inside the trained group."""
    adapter = ToyAdapter()
    adapter.model.encoder[0].weight.requires_grad = False
    train_only(adapter, ["encoder"])
    assert not adapter.model.encoder[0].weight.requires_grad
    assert adapter.model.encoder[0].bias.requires_grad


@pytest.mark.parametrize("groups", [["decoder"], []])
def test_unknown_groups_list_the_known(groups: list[str]) -> None:
    with pytest.raises(ValueError, match="groups are encoder, head"):
        train_only(ToyAdapter(), groups)
