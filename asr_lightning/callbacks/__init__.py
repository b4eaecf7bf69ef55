"""Lightning callbacks that decide when a run validates, freezes, stops and saves.

They know the adapter's contract and no model. The classes are imported on first use.
"""

from __future__ import annotations

from asr_lightning._lazy import lazy

_HOMES = {
    "AverageSteps": "average_steps",
    "BaselineWER": "baseline",
    "CompileLayers": "compile_layers",
    "FiniteGradients": "finite",
    "HalfEpochValidation": "half_epoch",
    "KeepBest": "keep_best",
    "KeepLast": "keep_last",
    "LogClips": "log_clips",
    "Progress": "progress",
    "StopEarly": "early_stopping",
    "TimeBudget": "time_budget",
    "TrainOnly": "train_only",
}
__all__ = [*_HOMES]
__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
