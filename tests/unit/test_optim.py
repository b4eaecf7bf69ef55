import math
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from asr_lightning.adapters.shared.lora import LoRA
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.finite import FiniteGradients
from asr_lightning.training.groups import group_of
from asr_lightning.training.optim import (
    OptimizerSettings,
    build,
    layer_depths,
    parameter_groups,
    rate_at,
    trained_weights,
)
from tests import tiny_hf
from tests.toy_run import toy_data, toy_fit, toy_module

GROUPS = {"encoder": ("model.encoder",), "decoder": ("model.decoder", "proj_out"), "frontend": ("model.encoder.conv",)}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.encoder.layers.0.weight", "encoder"),
        ("model.encoder.conv.weight", "frontend"),
        ("proj_out.weight", "decoder"),
        ("model.encoderish.weight", None),
    ],
)
def test_longest_prefix_wins(name: str, group: str | None) -> None:
    assert group_of(name, GROUPS) == group


def test_lr_curve_reaches_floor() -> None:
    settings = OptimizerSettings(warmup=0.1, schedule="cosine", floor=0.05)
    curve = [rate_at(step, 100, settings) for step in range(101)]
    assert max(curve) == 1.0 and curve.index(1.0) == 10
    assert curve[0] == pytest.approx(1 / 11)
    assert curve[100] == pytest.approx(0.05)
    assert curve[:11] == sorted(curve[:11]) and curve[10:] == sorted(curve[10:], reverse=True)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 110])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rate_is_positive_while_training(num_steps: int, schedule: str) -> None:
    settings = OptimizerSettings(schedule=schedule)  # type: ignore[arg-type]
    assert all(0 < rate_at(step, num_steps, settings) <= 1 for step in range(num_steps))


def test_warmup_longer_than_run_rejected() -> None:
    with pytest.raises(ValueError, match="fraction of the run"):
        OptimizerSettings(warmup=50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "above 0"),
        ({"schedule": "step"}, "choose cosine"),
        ({"pull": -1.0}, "pull lies between 0 and 1 / lr"),
        ({"pull": 300.0, "group_lrs": {"head": 0.01}}, "here 100, and not at 300"),
        ({"layer_decay": 0.0}, "layer_decay is a factor above 0"),
        ({"layer_decay": 1.1}, "layer_decay is a factor above 0"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**options)


def test_group_rates_and_unknown_groups() -> None:
    adapter = ToyAdapter()
    optimizer, _ = build(adapter.model, adapter.groups, OptimizerSettings(lr=1e-3, group_lrs={"head": 1e-4}), 10)
    assert {group["name"]: group["initial_lr"] for group in optimizer.param_groups} == {"encoder": 1e-3, "head": 1e-4}
    with pytest.raises(ValueError, match="groups are encoder, head"):
        parameter_groups(adapter.model, adapter.groups, OptimizerSettings(group_lrs={"decoder": 1e-4}))


def test_nothing_to_train_is_an_error() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(model, {"all": ("",)}, OptimizerSettings())


def test_lr_is_float() -> None:
    """Numpy numbers would become float64 in the learning-rate monitor, which MPS does not support."""
    adapter = ToyAdapter()
    optimizer, schedule = build(adapter.model, adapter.groups, OptimizerSettings(), 10)
    optimizer.step()
    schedule.step()
    assert all(type(lr) is float for lr in schedule.get_last_lr())


def test_schedule_continues_where_the_run_is() -> None:
    """With one process, 2 of 8 epochs were 10 steps; with two processes an epoch has 3, so the run is at step 6 of 24.

    If the planned steps are the same, nothing changes.
    """
    settings = OptimizerSettings(lr=1.0, warmup=0.0)
    model = ToyAdapter()
    optimizer, schedule = build(model.model, model.groups, settings, 24)
    schedule.last_epoch = 10
    schedule.resume_at(epochs_done=2, num_epochs=8)
    assert optimizer.param_groups[0]["lr"] == rate_at(6, 24, settings) == schedule.get_last_lr()[0]
    for _ in range(18):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == rate_at(24, 24, settings) == 0
    same_optimizer, same = build(model.model, model.groups, settings, 40)
    same.last_epoch, same_optimizer.param_groups[0]["lr"] = 10, 0.123
    same.resume_at(epochs_done=2, num_epochs=8)
    assert same_optimizer.param_groups[0]["lr"] == 0.123
    assert not {"_offset", "_num_steps"} & same.state_dict().keys()


@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_of_another_device_keeps_this_runs_kind_of_adamw(before: bool) -> None:
    """The checkpoint is of fused AdamW on a GPU, or plain on a CPU. The run keeps its own kind, and steps are equal."""
    weights = []
    for after in (before, not before):
        adapter = ToyAdapter()
        first, second = (
            build(adapter.model, adapter.groups, OptimizerSettings(fused=fused), 10)[0] for fused in (before, after)
        )
        for optimizer in (first, second):
            for parameter in adapter.model.parameters():
                parameter.grad = torch.full_like(parameter, 0.5)
            optimizer.step()
            second.load_state_dict(first.state_dict())
        assert second.param_groups[0]["fused"] == (after or None)
        weights.append([parameter.detach().clone() for parameter in adapter.model.parameters()])
    torch.testing.assert_close(*weights)


def one_step(fused: bool, pull: float, bad: float | None = None) -> tuple[dict, dict, dict]:
    """Return the weights that are pulled towards, and those before and after a step with gradients of 0.5."""
    adapter = ToyAdapter()
    start = trained_weights(adapter.model)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter += 1
    before = trained_weights(adapter.model)
    settings = OptimizerSettings(lr=0.01, warmup=0.0, fused=fused, pull=pull)
    optimizer, _ = build(adapter.model, adapter.groups, settings, 10, start)
    for name, parameter in adapter.model.named_parameters():
        parameter.grad = None if name == "head.bias" else torch.full_like(parameter, 0.5)
    if bad is not None:
        optimizer.found_inf = torch.tensor(bad)
    optimizer.step()
    return start, before, trained_weights(adapter.model)


@pytest.mark.parametrize("fused", [False, True])
def test_pull_moves_weights_back_by_its_share_of_the_distance(fused: bool) -> None:
    """AdamW's first step is -lr; then weights move back by 0.01 * 20 of their distance to the start."""
    start, before, after = one_step(fused, pull=20.0)
    for name, weights in after.items():
        moved = before[name] if name == "head.bias" else before[name] - 0.01
        expected = moved if name == "head.bias" else moved + 0.2 * (start[name] - moved)
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)  # weights without gradients stay


@pytest.mark.parametrize("bad", [0.0, 1.0])
def test_pull_is_skipped_if_the_fused_step_is(bad: float) -> None:
    _, before, after = one_step(fused=True, pull=20.0, bad=bad)
    assert all(torch.equal(after[name], before[name]) == bool(bad) for name in after if name != "head.bias")


def test_pull_of_zero_is_plain_adamw() -> None:
    _, _, after = one_step(False, pull=0.0)
    for name, weights in one_step(False, pull=1e-30)[2].items():
        assert torch.equal(weights, after[name])
    adapter = ToyAdapter()
    assert not build(adapter.model, adapter.groups, OptimizerSettings(), 10)[0]._optimizer_step_post_hooks


def test_a_pull_of_400_halves_a_distance() -> None:
    """As the docstring says, over 110 steps of the default schedule."""
    settings = OptimizerSettings(pull=400.0)
    left = math.prod(1 - settings.lr * settings.pull * rate_at(step, 110, settings) for step in range(110))
    assert left == pytest.approx(0.5, abs=0.03)


def distance(module: nn.Module) -> float:
    """Distance of the weights from the initial ones of a toy model."""
    start, now = trained_weights(ToyAdapter().model), trained_weights(module.model)
    return float(sum((now[name] - weights).square().sum() for name, weights in start.items())) ** 0.5


def test_a_resumed_run_is_pulled_to_the_untouched_weights(tones: Path, tmp_path: Path) -> None:
    """The result is that of an uninterrupted run, though Lightning loads a checkpoint before it builds optimizers."""
    checkpoint = str(tmp_path / "first.ckpt")
    whole, first, resumed, free = (toy_module(pull=pull) for pull in (30.0, 30.0, 30.0, 0.0))
    toy_fit(whole, toy_data(tones), [FiniteGradients()], max_epochs=2)
    toy_fit(first, toy_data(tones), [FiniteGradients()], max_epochs=1).save_checkpoint(checkpoint)
    toy_fit(resumed, toy_data(tones), [FiniteGradients()], checkpoint, max_epochs=2)
    toy_fit(free, toy_data(tones), [FiniteGradients()], max_epochs=2)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert distance(whole) < 0.8 * distance(free)


def test_pull_refuses_lora(tmp_path: Path) -> None:
    adapter = tiny_hf.load_tiny(tiny_hf.write_tiny(tmp_path, "moonshine"), "moonshine", lora=LoRA(4))
    with pytest.raises(ValueError, match="set --model.optimizer.pull 0"):
        build(adapter.model, adapter.groups, OptimizerSettings(pull=1.0), 10)


def test_pull_refuses_fsdp() -> None:
    adapter = ToyAdapter()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(adapter.model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="choose --trainer.strategy ddp"):
            build(adapter.model, adapter.groups, OptimizerSettings(pull=1.0), 10)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("kind", tiny_hf.KINDS)
def test_layers_fall_from_the_output_of_the_encoder(kind: str, tmp_path: Path) -> None:
    """Of two layers, the upper one and what follows have the full rate, the lower a half, and what precedes 1/4."""
    adapter = tiny_hf.load_tiny(tiny_hf.write_tiny(tmp_path, kind), kind)
    rates = {
        parameter: group["lr"]
        for group in parameter_groups(adapter.model, adapter.groups, OptimizerSettings(lr=1e-3, layer_decay=0.5))
        for parameter in group["params"]  # type: ignore[attr-defined]
    }
    rates_by_place: dict[str, set[float]] = {"upper": set(), "lower": set(), "before": set(), "after": set()}
    for name, parameter in adapter.model.named_parameters():
        if parameter in rates:
            place = {"encoder.layers.1": "upper", "encoder.layers.0": "lower"}
            where = next((where for part, where in place.items() if f"{part}." in name), None)
            front = any(part in name for part in ("conv", "subsampling", "feature_projection", "embedder"))
            decoder = any(part in name for part in ("decoder", "head", "joint", "proj_out"))
            where = where or ("after" if decoder else "before" if front else None)
            if where:
                rates_by_place[where].add(rates[parameter])
    assert rates_by_place == {"upper": {1e-3}, "lower": {5e-4}, "before": {2.5e-4}, "after": {1e-3}}


class Deep(nn.Module):
    """An encoder of twelve layers, more than nine, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.conv = nn.Linear(2, 2)
        self.encoder.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(12))
        self.encoder.layer_norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 2)


DEEP = {"encoder": ("encoder",), "head": ("head",)}


def test_groups_of_layers_train_and_load() -> None:
    """Rates of groups, schedule and layers are multiplied, and a checkpoint of the same settings loads."""
    settings = OptimizerSettings(lr=1e-3, group_lrs={"head": 1e-4}, layer_decay=0.9, warmup=0.0)
    model = Deep()
    optimizer, schedule = build(model, DEEP, settings, 10)
    assert len(optimizer.param_groups) == 14 and layer_depths(model)["encoder.layers.10.weight"] == 1
    by_name = {group["name"]: group for group in optimizer.param_groups}
    assert by_name["encoder-12"]["params"] == [*model.encoder.conv.parameters()]
    assert by_name["encoder"]["params"] == [
        *model.encoder.layers[11].parameters(),
        *model.encoder.layer_norm.parameters(),
    ]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    assert by_name["encoder-12"]["lr"] == pytest.approx(1e-3 * 0.9**12 * rate_at(1, 10, settings))
    assert by_name["head"]["lr"] == pytest.approx(1e-4 * rate_at(1, 10, settings))
    again, _ = build(model, DEEP, settings, 10)
    again.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in optimizer.param_groups]


def test_without_layer_decay_groups_do_not_change() -> None:
    """Otherwise checkpoints of earlier versions would not load."""
    groups = parameter_groups(Deep(), DEEP, OptimizerSettings())
    assert [(group["name"], len(group["params"])) for group in groups] == [("encoder", 28), ("head", 2)]  # type: ignore[arg-type]
    adapter = ToyAdapter()
    with pytest.raises(ValueError, match="leave --model.optimizer.layer_decay at 1"):
        parameter_groups(adapter.model, adapter.groups, OptimizerSettings(layer_decay=0.9))


def test_folds_of_few_clips_take_smaller_steps() -> None:
    settings = OptimizerSettings(lr=1e-4, group_lrs={"decoder": 1e-5}, fold_rate=0.3, layer_decay=0.8).in_folds()
    assert settings.lr == pytest.approx(3e-5) and settings.group_lrs["decoder"] == pytest.approx(3e-6)
    assert settings.layer_decay == 0.8
    assert settings.in_folds() == settings, "once"
    with pytest.raises(ValueError, match="fold_rate is a factor"):
        OptimizerSettings(fold_rate=0.0)
