"""Optimizer and learning-rate schedule, with lengths as fractions of the run. Knows groups by name and no model.

A run has about 110 steps, so a fixed warm-up of 50 steps, as the predecessor of this project had, would be half of it.
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
ENCODER_LAYER = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.")  # in every family; wav2vec2 also has conv_layers


@dataclass(frozen=True)
class OptimizerSettings:
    """Options of AdamW and its learning-rate schedule.

    Attributes:
        lr: Peak learning rate of all groups that ``group_lrs`` does not name.
        group_lrs: Peak learning rates of adapter groups, such as ``{decoder: 1e-6}``.
        weight_decay: Decoupled weight decay; it matters little over a hundred steps.
        pull: Strength of a decay towards the untouched weights (L2-SP, Li et al. 2018), decoupled like weight decay.
            Each step moves a weight back by this factor times the learning rate times the distance it has moved. Over
            110 steps at 3e-5 with the cosine schedule, 400 halves the distance. It cannot be used with LoRA or FSDP.
        layer_decay: Learning rate of each encoder layer as a fraction of the rate of the next layer towards the output.
            Everything before the first layer, such as convolutions, counts as one more layer. 1 means equal rates.
        warmup: Fraction of the run in which the learning rate rises linearly; at most 0.2.
        schedule: How the learning rate changes after the warm-up.
        floor: Learning rate of the last step as a fraction of the peak, for cosine and linear.
        fold_rate: Factor on all learning rates when few clips are trained in folds, since few clips justify only small
            changes.
        fused: Whether to use PyTorch's fused AdamW, which also skips steps with gradients that are not finite. None
            uses it on CUDA, but not with FSDP.
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
            raise ValueError(f"--model.optimizer.warmup is a fraction of the run between 0 and 0.2, not {self.warmup}")
        if self.lr <= 0 or any(lr <= 0 for lr in self.group_lrs.values()):
            raise ValueError(
                "--model.optimizer.lr and group_lrs must be above 0; leave frozen parts out of --train_only.groups"
            )
        fastest = max(self.lr, *self.group_lrs.values()) if self.group_lrs else self.lr
        if not 0 <= self.pull <= 1 / fastest:
            raise ValueError(
                f"--model.optimizer.pull lies between 0 and 1 / lr, here {1 / fastest:g}, and not at {self.pull:g}"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"--model.optimizer.layer_decay is a factor above 0 and at most 1, not {self.layer_decay:g}"
            )
        if not 0 < self.fold_rate <= 1:
            raise ValueError(f"--model.optimizer.fold_rate is a factor above 0 and at most 1, not {self.fold_rate:g}")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(f"--model.optimizer.schedule has no {self.schedule!r}: choose cosine, linear or constant")

    def in_folds(self) -> OptimizerSettings:
        """The settings for a fold that trains on few clips."""
        slower = {group: lr * self.fold_rate for group, lr in self.group_lrs.items()}
        return replace(self, lr=self.lr * self.fold_rate, group_lrs=slower, fold_rate=1.0)


def parameter_groups(
    model: nn.Module, groups: Mapping[str, tuple[str, ...]], settings: OptimizerSettings
) -> list[dict[str, object]]:
    """Optimizer groups: one for each adapter group with trainable parameters; with ``layer_decay``, one for each layer.

    Raises:
        ValueError: ``group_lrs`` names an unknown group, no parameter is trainable, or the encoder has no layers that
            ``layer_decay`` could be applied to.
    """
    unknown = sorted(set(settings.group_lrs) - set(groups))
    if unknown:
        raise ValueError(
            f"--model.optimizer.group_lrs names {', '.join(unknown)}; this model's groups are {', '.join(groups)}"
        )
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
    """The number of layers between each parameter of ``model`` and the encoder's last layer, by name of the parameter.

    Parameters registered before the first layer count as one layer below it. Those registered after the layers,
    including a decoder, have the depth 0.

    Raises:
        ValueError: No parameter belongs to a numbered encoder layer.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = {name: int(match[1]) for name in names if (match := ENCODER_LAYER.search(name))}
    if not layers:
        raise ValueError("this model's encoder has no numbered layers: leave --model.optimizer.layer_decay at 1")
    last, first_name = max(layers.values()), next(iter(layers))
    before = set(names[: names.index(first_name)])
    return {name: last - layers.get(name, -1 if name in before else last) for name in names}


def rate_at(step: int, num_steps: int, settings: OptimizerSettings) -> float:
    """The learning rate at ``step`` of ``num_steps`` as a fraction of its peak; the first step is 0."""
    warmup_steps = math.ceil(settings.warmup * num_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if settings.schedule == "constant":
        return 1.0
    progress = min((step - warmup_steps) / max(1, num_steps - warmup_steps), 1.0)
    shape = 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return settings.floor + (1 - settings.floor) * shape


class ResumableSchedule(LambdaLR):
    """A schedule for runs that are resumed with another number of processes, and so of steps in an epoch.

    Args:
        optimizer: The optimizer whose learning rates are set.
        settings: Shape of the schedule.
        num_steps: Planned steps of the run with the current number of processes.
    """

    def __init__(self, optimizer: Optimizer, settings: OptimizerSettings, num_steps: int) -> None:
        self._offset = 0
        self._num_steps = num_steps
        # A function instead of a callable object, whose fields LambdaLR would write into checkpoints.
        super().__init__(optimizer, lambda step: rate_at(step + self._offset, num_steps, settings))

    def resume_at(self, epochs_done: int, num_epochs: int) -> None:
        """Continue after ``epochs_done`` of ``num_epochs`` epochs, unless the step is already the right one."""
        if not epochs_done or num_epochs <= 0:
            return
        self._offset = round(self._num_steps * epochs_done / num_epochs) - self.last_epoch
        if self._offset:
            rates = [base * rate(self.last_epoch) for base, rate in zip(self.base_lrs, self.lr_lambdas, strict=True)]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self._last_lr = rates

    def state_dict(self) -> dict[str, Any]:
        """LambdaLR's state without what belongs to the current start of the run."""
        return {name: value for name, value in super().state_dict().items() if name not in ("_offset", "_num_steps")}


def build(
    model: nn.Module,
    groups: Mapping[str, tuple[str, ...]],
    settings: OptimizerSettings,
    num_steps: int,
    start: Mapping[str, Tensor] | None = None,
) -> tuple[Optimizer, ResumableSchedule]:
    """Build AdamW for the trainable parameters, and a schedule that is stepped after every optimizer step.

    Args:
        model: The model whose parameters are trained.
        groups: Prefixes of parameter names for each group of the model.
        settings: Options of optimizer and schedule.
        num_steps: Planned number of optimizer steps.
        start: The weights that ``pull`` pulls towards, from ``trained_weights``; None uses the current ones.

    Raises:
        ValueError: The settings do not fit the model.
    """
    optimizer = _adamw(parameter_groups(model, groups, settings), settings, _is_fused(model, settings))
    if settings.pull:
        _add_pull(optimizer, model, settings.pull, trained_weights(model) if start is None else start)
    return optimizer, ResumableSchedule(optimizer, settings, num_steps)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trainable parameters of ``model``, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _add_pull(optimizer: Optimizer, model: nn.Module, pull: float, start: Mapping[str, Tensor]) -> None:
    """After each step, move all weights back towards ``start``, by ``pull`` times their learning rate.

    Raises:
        ValueError: The weights are sharded over processes, or they are those of LoRA.
    """
    if is_sharded(model):
        raise ValueError(
            "--model.optimizer.pull does not work with fsdp: choose --trainer.strategy ddp, or --model.optimizer.pull 0"
        )
    if any(".lora_" in name for name in start):  # so named by peft
        raise ValueError(
            "LoRA's matrices start at random, so there is nothing to pull them to: set --model.optimizer.pull 0 and "
            "lower --model.adapter.init_args.lora.alpha or lora.rank"
        )
    starts = {parameter: start[name].to(parameter) for name, parameter in model.named_parameters() if name in start}

    @torch.no_grad()
    def move_back(*_: Any) -> None:
        skipped = getattr(optimizer, "found_inf", None)  # 1 if the fused step was skipped, see FiniteGradients
        for group in optimizer.param_groups:
            rate = group["lr"] * pull if skipped is None else group["lr"] * pull * (1 - skipped)
            for parameter in group["params"]:
                if parameter.grad is not None:  # AdamW skips parameters without gradients as well
                    parameter += (starts[parameter] - parameter) * rate

    optimizer.register_step_post_hook(move_back)


def _is_fused(model: nn.Module, settings: OptimizerSettings) -> bool:
    if settings.fused is not None:
        return settings.fused
    return next(model.parameters()).device.type == "cuda" and not is_sharded(model)


def _adamw(parameters: list[dict[str, object]], settings: OptimizerSettings, is_fused: bool) -> Optimizer:
    fused = is_fused or None  # None lets PyTorch choose among its other implementations
    optimizer = AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
    # Fused AdamW can unscale float16 gradients by itself, but only after clipping. Lightning therefore refuses to clip
    # its gradients, even in bfloat16, where nothing is scaled (2.6, MixedPrecision.clip_gradients). With the flag
    # off, the scaler unscales before clipping.
    optimizer._step_supports_amp_scaling = False

    def keep_fused(_: Optimizer, state: dict[str, Any]) -> None:
        """Keep this run's choice: a checkpoint may come from another kind of device."""
        for group in state["param_groups"]:
            group["fused"] = fused

    optimizer.register_load_state_dict_pre_hook(keep_fused)
    return optimizer
