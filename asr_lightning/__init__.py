"""Specialize a small speech recogniser to one voice or one domain with 100-300 short recordings.

Public names are imported on first use, so importing the package does not import torch.
"""

from __future__ import annotations

from asr_lightning._lazy import lazy

__version__ = "0.1.0"

_HOMES = {
    "ASRAdapter": "protocols",
    "ASRModule": "module",
    "AudioFolderDataModule": "datamodules.audio_folder",
    "AudioLimits": "types",
    "Collator": "protocols",
    "EvaluationOutput": "types",
    "LossOutput": "types",
    "ModelCard": "adapters.cards",
    "OptimizerSettings": "training.optim",
    "Outcome": "run.outcome",
    "Recognizer": "recognizer",
    "RunSpec": "run.spec",
    "SpeechBatch": "types",
    "Transcription": "recognizer",
    "Utterance": "types",
    "adapters": "adapters",
    "callbacks": "callbacks",
    "check_adapter": "conformance",
    "errors": "errors",
    "load": "recognizer",
    "run_spec": "api",
    "specialize": "api",
}
__all__ = ["__version__", *_HOMES]
__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
