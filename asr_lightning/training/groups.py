"""The parts of a model by name: who owns a parameter, and how all but some parts are held still. Knows no model.

``requires_grad=False`` stops neither dropout nor BatchNorm statistics; eval mode does, and Lightning restores modes
submodule by submodule after validation, so it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from asr_lightning.protocols import ASRAdapter


def group_of(name: str, groups: Mapping[str, tuple[str, ...]]) -> str | None:
    """The group whose prefix of the dotted path ``name`` is longest; None if no prefix fits."""
    fits = [
        (len(prefix), group)
        for group, prefixes in groups.items()
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".") or prefix == ""
    ]
    return max(fits)[1] if fits else None


def train_only(adapter: ASRAdapter, groups: Sequence[str]) -> None:
    """Freeze every group of ``adapter`` that is not in ``groups``.

    Gradients are only ever switched off: what the model itself holds fixed, such as sinusoidal positions, stays fixed.

    Raises:
        ValueError: A name is not a group of this adapter, or none is given.
    """
    unknown = sorted(set(groups) - set(adapter.groups))
    if unknown or not groups:
        named = ", ".join(unknown) or "nothing"
        raise ValueError(f"train_only names {named}; this model's groups are {', '.join(adapter.groups)}")
    for name, parameter in adapter.model.named_parameters():
        if group_of(name, adapter.groups) not in groups:
            parameter.requires_grad = False
    for name, module in adapter.model.named_modules():
        group = group_of(name, adapter.groups)
        if group is not None and group not in groups:
            module.training = False  # this module alone: a parent may hold trained children


def hold_batch_norm(model: nn.Module) -> int:
    """Put every BatchNorm into eval mode, so that its statistics stay the checkpoint's; returns their number.

    A few hundred clips of one voice move the statistics that thousands of voices have made (pitfall T28). Scale and
    shift stay trainable.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.training = False
    return len(norms)
