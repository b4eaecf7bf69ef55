"""LoRA: low-rank matrices beside the projections of a network, trained in their place and merged when it is saved.

Matrices that somebody else has trained and saved with peft are merged into their base when they are loaded.

peft does the work. Knows no model family; every Hugging Face adapter uses it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr_lightning.adapters import model_files
from asr_lightning.adapters.shared import hub
from asr_lightning.errors import ModelError, require_extra

ATTENTION = ("q_proj", "k_proj", "v_proj")
NOT_MERGED = (
    "a matrix of LoRA that was not merged into the weights, so what was trained would be lost: merge it where it was "
    "trained, by merge_and_unload and save_pretrained, and give that folder"
)


@dataclass(frozen=True)
class LoRA:
    """Train low-rank matrices beside some projections, and nothing else. Rank 0, the default, is no LoRA.

    ``train_only`` decides which of the matrices are trained: those inside its groups.

    Attributes:
        rank: Rank of the matrices; 8 to 32 is usual.
        alpha: Scale of the update, which is multiplied by ``alpha / rank``; None takes twice the rank.
        dropout: Dropout on the input of the matrices.
        targets: Names of linear layers, or the last parts of names, such as ``self_attn.q_proj``; None takes the query,
            key and value projections of every attention.
    """

    rank: int = 0
    alpha: float | None = None
    dropout: float = 0.0
    targets: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"--model.adapter.init_args.lora.rank must not be negative, and lora.dropout lies in [0, 1): {self}"
            )


def keys(names: Iterable[str]) -> list[str]:
    """Return those ``names`` of tensors that are matrices of LoRA as peft names them, such as ``q_proj.lora_A``."""
    return [name for name in names if ".lora_" in name or "/lora_" in name]


class LoRANetwork:
    """A network that LoRA may be attached to, and from which the merged network can be taken to be saved.

    Args:
        model: A Hugging Face network. LoRA replaces its target layers in place.
        lora: Settings of LoRA; rank 0 leaves ``model`` as it is.
        targets: Layers to take where ``lora`` names none.

    Raises:
        ValueError: peft is not installed, or no linear layer has a name in ``lora.targets``.
    """

    def __init__(self, model: Any, lora: LoRA, targets: Sequence[str] = ATTENTION) -> None:
        self.model = model
        self._keys = set(model.state_dict())
        self._peft = _attach(model, lora, list(lora.targets or targets)) if lora.rank else None

    def merged(self) -> Any:
        """Return the network as upstream knows it, in float32 and with LoRA merged; a copy only where one is needed.

        Raises:
            ValueError: The merged network has other tensors than the untouched one.
        """
        if self._peft is None:
            return self.model if self.model.dtype == torch.float32 else copy.deepcopy(self.model).float()
        merged = copy.deepcopy(self._peft).float().merge_and_unload(safe_merge=True)
        different = set(merged.state_dict()) ^ self._keys
        if different:
            raise ValueError(
                f"merging LoRA changed what the model consists of ({', '.join(sorted(different)[:3])}); it is not "
                "saved, since no runtime could load it. Choose other --model.adapter.init_args.lora.targets"
            )
        return merged


def merge_adapter(model: Any, source: str) -> None:
    """Merge the adapter in the folder ``source`` into its base ``model``, in place; nothing if there is none.

    Raises:
        ModelError: The adapter cannot be read, does not fit the base, or is of a kind that cannot be merged.
        MissingExtraError: peft is not installed.
    """
    if model_files.base_of(source) is None:
        return
    folder = Path(source).expanduser()
    if not any((folder / name).is_file() for name in model_files.ADAPTER_WEIGHTS):
        raise ModelError(
            f"{folder} holds an adapter without {model_files.ADAPTER_WEIGHTS[0]}: copy the whole folder again"
        )
    model_files.refuse_broken(folder)
    require_extra("lora", "peft", f"the adapter in {folder}")
    from peft import PeftModel

    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    try:
        with hub.quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 uses an old name of transformers 5.23
            warnings.filterwarnings("error", "Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(folder), local_files_only=True)
            adapted.merge_and_unload(safe_merge=True)
    except UserWarning as warning:  # peft would go on with matrices that change nothing
        raise ModelError(
            f"{folder} lacks weights that its adapter_config.json announces ({str(warning)[:200]} …): copy the whole "
            "folder again"
        ) from warning
    except Exception as error:  # peft raises what its many kinds of adapters happen to raise
        raise ModelError(
            f"the adapter in {folder} cannot be merged with {model_files.base_of(source)} ({type(error).__name__}: "
            f"{error}): check base_model_name_or_path in its adapter_config.json, or merge it where it was trained, by "
            "merge_and_unload and save_pretrained, and give that folder"
        ) from error
    for name, weight in model.named_parameters():
        weight.requires_grad = name in trainable
    model.eval()


def _attach(model: Any, lora: LoRA, targets: list[str]) -> Any:
    require_extra("lora", "peft", "LoRA")
    from peft import LoraConfig, get_peft_model

    # Without task_type: peft would wrap ``forward`` in one for language models, which takes token ids and no audio.
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
    )
    try:
        with hub.quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 uses an old name of transformers 5.23
            return get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(
            f"LoRA fits no layer: {', '.join(targets)} (--model.adapter.init_args.lora.targets) must name "
            f"linear layers of this model, "
            f"such as {', '.join(_linear_names(model))}"
        ) from error


def _linear_names(model: Any) -> list[str]:
    names = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    return sorted(names)[:8]
