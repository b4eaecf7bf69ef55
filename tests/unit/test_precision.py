"""The precision that a trainer gets, and where bfloat16 is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_lightning.training import precision
from asr_lightning.training.precision import BFloat16Steps, precision_options
from tests.toy_run import toy_data, toy_fit, toy_module


def test_the_device_decides_unless_the_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    assert precision_options("cpu", None, bf16_on_cpu=False) == {"precision": "32-true", "plugins": []}
    assert precision_options("cpu", "32-true", bf16_on_cpu=True) == {"precision": "32-true", "plugins": []}
    (plugin,) = precision_options("cpu", None, bf16_on_cpu=True)["plugins"]
    assert isinstance(plugin, BFloat16Steps)


def test_a_cpu_without_bfloat16_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated products are slower than those in float32."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    assert precision_options("cpu", None, bf16_on_cpu=True) == {"precision": "32-true", "plugins": []}


def test_steps_are_in_bfloat16_and_validations_in_float32(tones_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = toy_module(), set()
    plain = module.adapter.loss

    def loss(batch):
        seen.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return plain(batch)

    monkeypatch.setattr(module.adapter, "loss", loss)
    toy_fit(module, toy_data(tones_once), [], max_epochs=1, plugins=[BFloat16Steps()])
    assert seen == {(True, True), (False, False)}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
