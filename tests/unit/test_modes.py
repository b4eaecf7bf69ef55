"""Modes of a network come back after an evaluation."""

from __future__ import annotations

import pytest
import torch

from asr_lightning.adapters.modes import evaluation_mode


def test_every_part_has_its_mode_again() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout())
    model[1].eval()
    with pytest.raises(RuntimeError), evaluation_mode(model):
        assert not model.training and not model[0].training
        raise RuntimeError
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
