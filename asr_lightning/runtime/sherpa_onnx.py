"""Reads clips with an exported Moonshine, CTC model or transducer in sherpa-onnx. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sherpa_onnx

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples
from asr_lightning.runtime.moonshine import onnx as onnx_moonshine

TOKENS = "tokens.txt"
MODEL = "model.onnx"
ENCODER, DECODER, JOINER = "encoder.onnx", "decoder.onnx", "joiner.onnx"

FILES = {
    "moonshine": (onnx_moonshine.ENCODER, onnx_moonshine.DECODER, TOKENS),
    "samples": (MODEL, TOKENS),
    "ctc": (MODEL, TOKENS),
    "transducer": (ENCODER, DECODER, JOINER, TOKENS),
}
"""Files of each kind of model."""


def load(folder: Path, settings: Mapping[str, Any], threads: int) -> SherpaModel:
    """Load the model in ``folder``.

    Raises:
        ModelError: A file is missing. sherpa-onnx ends the process for most files that it cannot read.
    """
    kind = str(settings["kind"])
    for name in FILES[kind]:
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing: copy the whole folder again")
    return SherpaModel(_recognizer(folder, kind, settings, threads), settings)


def _recognizer(folder: Path, kind: str, settings: Mapping[str, Any], threads: int) -> Any:
    paths = [str(folder / name) for name in FILES[kind]]
    make = sherpa_onnx.OfflineRecognizer
    if kind == "moonshine":
        return make.from_moonshine_v2(*paths, num_threads=threads)
    if kind == "samples":
        return make.from_omnilingual_asr_ctc(*paths, num_threads=threads)
    if kind == "ctc":
        return make.from_nemo_ctc(*paths, num_threads=threads, feature_dim=settings["features"]["mels"])
    return make.from_transducer(
        *paths, num_threads=threads, feature_dim=settings["features"]["mels"], model_type="nemo_transducer"
    )


class SherpaModel:
    """A model in sherpa-onnx, which reads greedily. It tells when tokens start, and not when words end: no words.

    Args:
        recognizer: The recognizer of the package.
        settings: Settings of ``export.json``.
    """

    def __init__(self, recognizer: Any, settings: Mapping[str, Any]) -> None:
        self._recognizer = recognizer
        self.sample_rate = int(settings["sample_rate"])
        self.min_seconds, self.max_seconds = float(settings["min_seconds"]), settings["max_seconds"]
        self.language = settings.get("language")

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order, each by itself."""
        return [Hypothesis(self._read(clip)) for clip in clips]

    def _read(self, clip: Samples) -> str:
        stream = self._recognizer.create_stream()
        stream.accept_waveform(self.sample_rate, clip)
        self._recognizer.decode_stream(stream)
        return str(stream.result.text).strip()
