"""LoRA of every Hugging Face family: merged equals attached, only LoRA is trained, and what is saved is the base's."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_lightning import errors
from asr_lightning.adapters.shared import lora
from asr_lightning.adapters.shared.lora import LoRA
from asr_lightning.training import groups
from tests import tiny_hf
from tests.tiny_models import clip

KINDS = ("whisper", *tiny_hf.KINDS)
SETTINGS = LoRA(rank=4, alpha=16)


def clips() -> list:
    return [clip(1.1, "open the window", "a", 1), clip(1.4, "call me", "b", 2)]


def train(adapter: Any, steps: int = 5) -> None:
    torch.manual_seed(0)
    batch = adapter.collator()(clips())
    optimizer = torch.optim.AdamW([p for p in adapter.model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        adapter.loss(batch).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_lora_roundtrip(kind: str, load: Callable[..., Any], tmp_path: Path) -> None:
    """The saved folder's loss and text are those of the network in training; its keys are the base's."""
    adapter, base = load(kind, lora=SETTINGS), load(kind)
    untouched = {name: tensor.clone() for name, tensor in adapter.model.state_dict().items() if "lora_" not in name}
    train(adapter)
    adapter.model.eval()
    assert all(torch.equal(tensor, adapter.model.state_dict()[name]) for name, tensor in untouched.items())
    adapter.save(tmp_path)
    options = {"language": "deu"} if kind == "mms" else {}
    again = type(adapter)(str(tmp_path), **options)
    again.model.eval()
    batch = adapter.collator()(clips())
    with torch.no_grad():
        attached, merged, before = (a.loss(batch).loss for a in (adapter, again, base))
    assert float((attached - merged).abs() / attached.abs()) <= 1e-5
    assert abs(float(attached - before)) > 1e-4, "LoRA has learned nothing"
    assert again.transcribe(batch) == adapter.transcribe(batch)
    assert again.model.state_dict().keys() == base.model.state_dict().keys()
    assert not list(tmp_path.glob("adapter_model*")) and not list(tmp_path.glob("adapter_config*"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_has_a_gradient(kind: str, load: Callable[..., Any]) -> None:
    """And nothing else has one."""
    adapter = load(kind, lora=SETTINGS)
    adapter.loss(adapter.collator()(clips())).loss.backward()
    reached = {name for name, parameter in adapter.model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in adapter.model.named_parameters() if "lora_" in name} != set()


@pytest.mark.parametrize("kind", ["whisper", "moonshine", "parakeet_ctc"])
def test_saving_leaves_training_as_it_was(kind: str, load: Callable[..., Any], tmp_path: Path) -> None:
    adapter = load(kind, lora=SETTINGS)
    train(adapter, steps=1)
    before = {name: tensor.clone() for name, tensor in adapter.model.state_dict().items()}
    adapter.save(tmp_path)
    after = adapter.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert "lora" not in json.loads((tmp_path / "asr_lightning.json").read_text())["init_args"]


@pytest.mark.parametrize("kind", ["whisper", "moonshine_streaming"])
def test_train_only_chooses_where(kind: str, load: Callable[..., Any]) -> None:
    """Matrices of the encoder alone, with the default of ``train_only``; the weights beside them stay frozen."""
    adapter = load(kind, lora=SETTINGS)
    groups.train_only(adapter, ["encoder"])
    trained = [name for name, parameter in adapter.model.named_parameters() if parameter.requires_grad]
    assert trained and all("encoder." in name and "lora_" in name for name in trained)
    assert not any(name.startswith("model.decoder") for name in trained)


def test_alpha_is_twice_the_rank_unless_given(load: Callable[..., Any]) -> None:
    for settings, scale in ((LoRA(4), 2.0), (LoRA(4, alpha=4), 1.0)):
        layer = load("moonshine", lora=settings).model.model.encoder.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == scale


def test_merged_keys_equal_base(load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that merging has changed is not written."""
    adapter = load("moonshine", lora=SETTINGS)
    adapter._lora._keys.add("model.encoder.gone.weight")
    with pytest.raises(ValueError, match=r"merging LoRA changed what the model consists of \(model.encoder.gone"):
        adapter.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_targets_that_fit_nothing(load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"LoRA fits no layer: query .* such as .*q_proj"):
        load("moonshine", lora=LoRA(4, targets=["query"]))


def test_wavlm_attention_is_refused(load: Callable[..., Any]) -> None:
    """It reads the weights of its projections without calling them: LoRA there would train nothing."""
    with pytest.raises(
        ValueError, match="no effect on WavLM's attention: choose .*lora.targets from intermediate_dense"
    ):
        load("wavlm", lora=LoRA(4, targets=["attention.q_proj"]))


@pytest.mark.parametrize("settings", [{"rank": -1}, {"rank": 4, "dropout": 1.0}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lora.rank must not be negative"):
        LoRA(**settings)


def test_missing_extra(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "require_extra", partial(_without, "peft", monkeypatch))
    with pytest.raises(errors.MissingExtraError, match=r"LoRA needs peft.*pip install 'asr-lightning\[lora\]'"):
        load("moonshine", lora=SETTINGS)


def _without(missing: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == missing else object())
    errors.require_extra(*arguments)
