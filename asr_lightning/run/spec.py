"""What a run is asked for, the same from a command, a server, a rented GPU and Python. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_lightning.adapters import registry

DEFAULT_MODEL = "whisper-tiny.en"


@dataclass(frozen=True)
class RunSpec:
    """One run. Of what is left out, the recipe of the model's family decides, and then the default of ``fit``.

    Attributes:
        data: Folder with recordings and transcripts.
        run_dir: Where everything goes.
        model: A name of ``python -m asr_lightning models``, a hub id of that list, or a folder.
        language: Of a multilingual model, such as ``de``.
        epochs: How long to train; models in folds share them.
        seed: Of everything random: the same one gives the same weights on one machine.
        budget: Time for everything, such as ``5m``.
        canary: Folder of other people's speech that must not suffer; ``bundled``, or ``off``.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: How many, or a list of their numbers.
        resume: Go on with what an earlier start in ``run_dir`` has got to.
        options: Any others of ``fit``, nested as in its configuration files; they override all the above.
    """

    data: Path
    run_dir: Path
    model: str = DEFAULT_MODEL
    language: str | None = None
    epochs: int | None = None
    seed: int = 0
    budget: str | None = None
    canary: str | None = None
    accelerator: str | None = None
    devices: int | tuple[int, ...] | None = None
    resume: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def plan(self) -> dict[str, Any]:
        """The options of ``fit``, nested as in its configuration files: the recipe, and over it what is asked for.

        Raises:
            ValueError: There is no such model.
        """
        choice = registry.choose(self.model)
        registry.tell_recipe(self.model, choice)
        init_args = _given(language=self.language) | {"source": choice.source}
        devices = list(self.devices) if isinstance(self.devices, tuple) else self.devices
        asked = {
            "model": {"adapter": {"class_path": choice.adapter, "init_args": init_args}},
            "data": {"audio_dir": str(self.data), "seed": self.seed},
            "trainer": _given(max_epochs=self.epochs, accelerator=self.accelerator, devices=devices),
            "selection": _given(canary=self.canary),
            "run_dir": str(self.run_dir),
            "seed_everything": self.seed,
            **_given(budget=self.budget, ckpt_path="last" if self.resume else None),
        }
        return registry.merge(registry.merge(choice.recipe, asked), self.options)


def _given(**options: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}
