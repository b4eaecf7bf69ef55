"""Groups of a model's parameters by name, and how groups are frozen. Knows no model.

``requires_grad=False`` alone stops neither dropout nor the update of BatchNorm statistics. Eval mode stops both, and it
lasts: after validation, Lightning restores the mode of each submodule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from asr_lightning.protocols import ASRAdapter


def group_of(name: str, groups: Mapping[str, tuple[str, ...]]) -> str | None:
    """The group with the longest prefix of the dotted path ``name``; None if no prefix matches."""
    matches = [
        (len(prefix), group)
        for group, prefixes in groups.items()
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".") or prefix == ""
    ]
    return max(matches)[1] if matches else None


def train_only(adapter: ASRAdapter, groups: Sequence[str]) -> None:
    """Freeze every group of ``adapter`` that is not in ``groups``.

    Gradients are never switched on: what the model itself keeps fixed, such as sinusoidal positions, stays fixed.

    Raises:
        ValueError: A name is not a group of this adapter, or ``groups`` is empty.
    """
    unknown = sorted(set(groups) - set(adapter.groups))
    if unknown or not groups:
        named = ", ".join(unknown) or "nothing"
        raise ValueError(f"--train_only.groups names {named}; this model's groups are {', '.join(adapter.groups)}")
    for name, parameter in adapter.model.named_parameters():
        if group_of(name, adapter.groups) not in groups:
            parameter.requires_grad = False
    for name, module in adapter.model.named_modules():
        group = group_of(name, adapter.groups)
        if group is not None and group not in groups:
            module.training = False  # not module.eval(), since its children may be trained


def hold_batch_norm(model: nn.Module) -> int:
    """Put all BatchNorm layers into eval mode, which keeps the statistics of the checkpoint; return their number.

    Otherwise a few hundred clips of one voice would replace statistics of thousands of voices. Scale and shift stay
    trainable.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.training = False
    return len(norms)
