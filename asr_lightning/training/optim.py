"""Optimizer and learning-rate schedule, written in fractions of the run. Knows groups by name, never a model.

A run here is about 110 steps; an absolute warm-up of 50 would be half of it (the seed did that).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from asr_lightning.training.groups import group_of
from asr_lightning.training.sharded import is_sharded

Schedule = Literal["cosine", "linear", "constant"]
ENCODER_LAYER = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.")  # in every family; wav2vec2 has conv_layers besides


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule.

    Attributes:
        lr: Peak learning rate of every group not named in ``group_lrs``.
        group_lrs: Peak learning rate by adapter group, such as ``{decoder: 1e-6}``.
        weight_decay: Decoupled; matters little over a hundred steps.
        pull: Decoupled like weight decay, but towards the untouched weights (L2-SP, Li et al. 2018): each step takes
            back this times the learning rate of what a weight has moved. Over 110 steps at 3e-5 with the cosine, 400
            halves a distance. Not with LoRA or FSDP.
        layer_decay: The learning rate of each encoder layer as a fraction of the next one's towards the output; what
            comes before the first, such as convolutions, counts as one layer more. 1 gives all the same.
        warmup: Fraction of the run over which the rate rises linearly; at most 0.2.
        schedule: What follows the warm-up.
        floor: The last step's rate as a fraction of the peak (cosine and linear).
        fold_rate: What every rate is multiplied by where few clips are trained in folds: small changes are right there.
        fused: PyTorch's AdamW of one kernel. None takes it on CUDA, where it also leaves out a step by itself whose
            gradients are not finite; not with FSDP.
    """

    lr: float = 3e-5
    group_lrs: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    pull: float = 0.0
    layer_decay: float = 1.0
    warmup: float = 0.1
    schedule: Schedule = "cosine"
    floor: float = 0.0
    fold_rate: float = 1.0
    fused: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup <= 0.2:
            raise ValueError(f"warmup is a fraction of the run between 0 and 0.2, not {self.warmup}")
        if self.lr <= 0 or any(lr <= 0 for lr in self.group_lrs.values()):
            raise ValueError("a learning rate must be above 0; freeze a part with train_only instead")
        fastest = max(self.lr, *self.group_lrs.values()) if self.group_lrs else self.lr
        if not 0 <= self.pull <= 1 / fastest:
            raise ValueError(f"pull lies between 0 and 1 / lr, here {1 / fastest:g}, and not at {self.pull:g}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is a factor above 0 and at most 1, not {self.layer_decay:g}")
        if not 0 < self.fold_rate <= 1:
            raise ValueError(f"fold_rate is a factor above 0 and at most 1, not {self.fold_rate:g}")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(f"unknown schedule {self.schedule!r}: choose cosine, linear or constant")

    def in_folds(self) -> OptimizerSettings:
        """The settings of a fold of few clips."""
        slower = {group: lr * self.fold_rate for group, lr in self.group_lrs.items()}
        return replace(self, lr=self.lr * self.fold_rate, group_lrs=slower, fold_rate=1.0)


def parameter_groups(
    model: nn.Module, groups: Mapping[str, tuple[str, ...]], settings: OptimizerSettings
) -> list[dict[str, object]]:
    """Optimizer groups, one per adapter group that has trainable parameters; with ``layer_decay`` one per layer of it.

    Raises:
        ValueError: ``group_lrs`` names an unknown group, nothing is left to train, or ``layer_decay`` finds no layers.
    """
    unknown = sorted(set(settings.group_lrs) - set(groups))
    if unknown:
        raise ValueError(f"group_lrs names {', '.join(unknown)}; this model's groups are {', '.join(groups)}")
    depths = {} if settings.layer_decay == 1 else layer_depths(model)
    members: dict[tuple[str, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        group = group_of(name, groups)
        if parameter.requires_grad and group is not None:
            members.setdefault((group, depths.get(name, 0)), []).append(parameter)
    if not members:
        raise ValueError(f"no trainable parameter: train at least one of the groups {', '.join(groups)}")
    return [
        {
            "name": f"{group}-{depth}" if depth else group,
            "params": members[group, depth],
            "lr": settings.group_lrs.get(group, settings.lr) * settings.layer_decay**depth,
        }
        for group in groups
        for depth in sorted(depth for other, depth in members if other == group)
    ]


def layer_depths(model: nn.Module) -> dict[str, int]:
    """How many layers below the encoder's last one each parameter of ``model`` lies, by name.

    What is registered before the first layer lies one below it; what is registered after the layers, a decoder
    included, lies at 0.

    Raises:
        ValueError: No parameter is in a layer of an encoder.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = {name: int(found[1]) for name in names if (found := ENCODER_LAYER.search(name))}
    if not layers:
        raise ValueError("this model's encoder has no numbered layers: leave model.optimizer.layer_decay at 1")
    last, first_name = max(layers.values()), next(iter(layers))
    before = set(names[: names.index(first_name)])
    return {name: last - layers.get(name, -1 if name in before else last) for name in names}


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
    model: nn.Module,
    groups: Mapping[str, tuple[str, ...]],
    settings: OptimizerSettings,
    num_steps: int,
    start: Mapping[str, Tensor] | None = None,
) -> tuple[Optimizer, Shiftable]:
    """AdamW over what is trainable and a schedule that is stepped after every optimizer step.

    Args:
        model: Whose parameters are trained.
        groups: Its groups, by name.
        settings: Of both.
        num_steps: Planned.
        start: The weights that ``pull`` pulls towards, as ``trained_weights`` gives them; None takes those of now.

    Raises:
        ValueError: The settings do not fit the model.
    """
    optimizer = _adamw(parameter_groups(model, groups, settings), settings, _is_fused(model, settings))
    if settings.pull:
        _add_pull(optimizer, model, settings.pull, trained_weights(model) if start is None else start)
    return optimizer, Shiftable(optimizer, settings, num_steps)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters of ``model`` that are trained, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _add_pull(optimizer: Optimizer, model: nn.Module, pull: float, start: Mapping[str, Tensor]) -> None:
    """Move what each step has changed back towards ``start``, by ``pull`` times the rate of its group.

    Raises:
        ValueError: The weights are cut over processes, or they are LoRA's.
    """
    if is_sharded(model):
        raise ValueError("pull does not work with fsdp: choose --trainer.strategy ddp, or --model.optimizer.pull 0")
    if any(".lora_" in name for name in start):  # of peft
        raise ValueError(
            "LoRA's matrices start at random, so there is nothing to pull them to: set model.optimizer.pull to 0 and "
            "lower lora.alpha or lora.rank"
        )
    starts = {parameter: start[name].to(parameter) for name, parameter in model.named_parameters() if name in start}

    @torch.no_grad()
    def move_back(*_: Any) -> None:
        left_out = getattr(optimizer, "found_inf", None)  # 1 where a fused step left itself out: see FiniteGradients
        for group in optimizer.param_groups:
            rate = group["lr"] * pull if left_out is None else group["lr"] * pull * (1 - left_out)
            for parameter in group["params"]:
                if parameter.grad is not None:  # AdamW, too, leaves out what has none
                    parameter += (starts[parameter] - parameter) * rate

    optimizer.register_step_post_hook(move_back)


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
