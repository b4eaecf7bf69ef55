"""Model families, a file or a package each. They know the contract, and neither each other nor the training loop.

Adapters are imported on first use, because each imports the library of its family.
"""

from __future__ import annotations

from asr_lightning._lazy import lazy

_HOMES = {
    "HFCTCAdapter": "hf_ctc",
    "HFTransducerAdapter": "hf_transducer",
    "MoonshineAdapter": "moonshine",
    "NeMoAdapter": "nemo",
    "ToyAdapter": "toy",
    "WhisperAdapter": "whisper",
}
__all__ = [*_HOMES]
__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
