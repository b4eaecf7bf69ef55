"""Model families, a file or a package each; they know the contract, and neither each other nor the training loop.

The adapters load on first use, since each brings the library of its family.
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
