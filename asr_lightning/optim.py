"""Optimizer and learning-rate schedule, written in fractions of the run. Knows groups by name, never a model.

A run here is about 110 steps; an absolute warm-up of 50 would be half of it (the seed did that).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from asr_lightning.groups import group_of
from asr_lightning.sharded import is_sharded

Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule.

    Attributes:
        lr: Peak learning rate of every group not named in ``group_lrs``.
        group_lrs: Peak learning rate by adapter group, such as ``{decoder: 1e-6}``.
        weight_decay: Decoupled; matters little over a hundred steps.
        warmup: Fraction of the run over which the rate rises linearly; at most 0.2.
        schedule: What follows the warm-up.
        floor: The last step's rate as a fraction of the peak (cosine and linear).
        fused: PyTorch's AdamW of one kernel. None takes it on CUDA, where it also leaves out a step by itself whose
            gradients are not finite; not with FSDP.
    """

    lr: float = 3e-5
    group_lrs: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    warmup: float = 0.1
    schedule: Schedule = "cosine"
    floor: float = 0.0
    fused: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup <= 0.2:
            raise ValueError(f"warmup is a fraction of the run between 0 and 0.2, not {self.warmup}")
        if self.lr <= 0 or any(lr <= 0 for lr in self.group_lrs.values()):
            raise ValueError("a learning rate must be above 0; freeze a part with train_only instead")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(f"unknown schedule {self.schedule!r}: choose cosine, linear or constant")


def parameter_groups(
    model: nn.Module, groups: Mapping[str, tuple[str, ...]], settings: OptimizerSettings
) -> list[dict[str, object]]:
    """Optimizer groups, one per adapter group that has trainable parameters.

    Raises:
        ValueError: ``group_lrs`` names an unknown group, or nothing is left to train.
    """
    unknown = sorted(set(settings.group_lrs) - set(groups))
    if unknown:
        raise ValueError(f"group_lrs names {', '.join(unknown)}; this model's groups are {', '.join(groups)}")
    members: dict[str, list[nn.Parameter]] = {group: [] for group in groups}
    for name, parameter in model.named_parameters():
        group = group_of(name, groups)
        if parameter.requires_grad and group is not None:
            members[group].append(parameter)
    if not any(members.values()):
        raise ValueError(f"no trainable parameter: train at least one of the groups {', '.join(groups)}")
    return [
        {"name": group, "params": parameters, "lr": settings.group_lrs.get(group, settings.lr)}
        for group, parameters in members.items()
        if parameters
    ]


def rate_at(step: int, num_steps: int, settings: OptimizerSettings) -> float:
    """The fraction of the peak rate at ``step`` of ``num_steps``; the first step is 0."""
    warmup_steps = math.ceil(settings.warmup * num_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if settings.schedule == "constant":
        return 1.0
    progress = min((step - warmup_steps) / max(1, num_steps - warmup_steps), 1.0)
    shape = 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return settings.floor + (1 - settings.floor) * shape


class Shiftable(LambdaLR):
    """A schedule whose place can be moved: with other processes an epoch has another number of steps.

    Args:
        optimizer: Whose rates it sets.
        settings: Of the schedule.
        num_steps: Planned, with the processes of this start.
    """

    def __init__(self, optimizer: Optimizer, settings: OptimizerSettings, num_steps: int) -> None:
        self._shift = 0
        self._num_steps = num_steps
        # A function and not an object: LambdaLR would write an object's fields into checkpoints.
        super().__init__(optimizer, lambda step: rate_at(step + self._shift, num_steps, settings))

    def go_on(self, epochs_done: int, num_epochs: int) -> None:
        """Count from the end of ``epochs_done`` of ``num_epochs`` epochs; the same place if the steps agree."""
        if not epochs_done or num_epochs <= 0:
            return
        self._shift = round(self._num_steps * epochs_done / num_epochs) - self.last_epoch
        if self._shift:
            rates = [base * rule(self.last_epoch) for base, rule in zip(self.base_lrs, self.lr_lambdas, strict=True)]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self._last_lr = rates

    def state_dict(self) -> dict[str, Any]:
        """LambdaLR's, less what belongs to this start."""
        return {name: value for name, value in super().state_dict().items() if name not in ("_shift", "_num_steps")}


def build(
    model: nn.Module, groups: Mapping[str, tuple[str, ...]], settings: OptimizerSettings, num_steps: int
) -> tuple[Optimizer, Shiftable]:
    """AdamW over what is trainable and a schedule that is stepped after every optimizer step."""
    optimizer = _adamw(parameter_groups(model, groups, settings), settings, _is_fused(model, settings))
    return optimizer, Shiftable(optimizer, settings, num_steps)


def _is_fused(model: nn.Module, settings: OptimizerSettings) -> bool:
    if settings.fused is not None:
        return settings.fused
    return next(model.parameters()).device.type == "cuda" and not is_sharded(model)


def _adamw(parameters: list[dict[str, object]], settings: OptimizerSettings, is_fused: bool) -> Optimizer:
    fused = is_fused or None  # None lets PyTorch choose among the others
    optimizer = AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
    # It also unscales float16 by itself, after clipping: Lightning refuses the two together, though in bfloat16 there
    # is no scale, and without this mark the scaler does it before (2.6, MixedPrecision.clip_gradients).
    optimizer._step_supports_amp_scaling = False

    def keep_fused(_: Optimizer, state: dict[str, Any]) -> None:
        """A checkpoint may come from another kind of device."""
        for group in state["param_groups"]:
            group["fused"] = fused

    optimizer.register_load_state_dict_pre_hook(keep_fused)
    return optimizer
