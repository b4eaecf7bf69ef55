import pytest
import torch
from torch import nn

from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.groups import group_of
from asr_lightning.optim import OptimizerSettings, build, parameter_groups, rate_at

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


@pytest.mark.parametrize(("options", "message"), [({"lr": 0.0}, "above 0"), ({"schedule": "step"}, "choose cosine")])
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
    """MPS refuses float64, which numpy numbers become in the learning-rate monitor."""
    adapter = ToyAdapter()
    optimizer, schedule = build(adapter.model, adapter.groups, OptimizerSettings(), 10)
    optimizer.step()
    schedule.step()
    assert all(type(lr) is float for lr in schedule.get_last_lr())


def test_schedule_goes_on_where_the_run_is() -> None:
    """One process took 10 steps in 2 of 8 epochs; two take 3 an epoch: its rate is that of step 6 of 24, and ends at 0.

    With the steps it was planned for, nothing moves.
    """
    settings = OptimizerSettings(lr=1.0, warmup=0.0)
    model = ToyAdapter()
    optimizer, schedule = build(model.model, model.groups, settings, 24)
    schedule.last_epoch = 10
    schedule.go_on(epochs_done=2, num_epochs=8)
    assert optimizer.param_groups[0]["lr"] == rate_at(6, 24, settings) == schedule.get_last_lr()[0]
    for _ in range(18):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == rate_at(24, 24, settings) == 0
    same_optimizer, same = build(model.model, model.groups, settings, 40)
    same.last_epoch, same_optimizer.param_groups[0]["lr"] = 10, 0.123
    same.go_on(epochs_done=2, num_epochs=8)
    assert same_optimizer.param_groups[0]["lr"] == 0.123
    assert not {"_shift", "_num_steps"} & same.state_dict().keys()


@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_of_another_device_goes_on_in_this_ones_way(before: bool) -> None:
    """Fused state on a GPU, plain on a CPU: the run's own way holds, and the next step is the same."""
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
