"""Reads clips with an exported CTC model or transducer in the package onnx-asr. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_asr
import onnxruntime

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples
from asr_lightning.runtime.labels.onnx import TOKENS, read_labels
from asr_lightning.runtime.labels.settings import LabelSettings
from asr_lightning.runtime.labels.texts import mean_probability


def load(folder: Path, settings: Mapping[str, object], threads: int) -> OnnxAsrModel:
    """Load the model in ``folder``.

    Raises:
        ModelError: A file is missing, or the package cannot read it.
    """
    own = LabelSettings.from_json(settings)
    read_labels(folder / TOKENS, own)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        model = onnx_asr.load_model(
            model_type(own), folder, sess_options=options, providers=["CPUExecutionProvider"]
        ).with_timestamps()
    except Exception as error:  # of the package and of onnxruntime, which share no base class
        raise ModelError(f"{folder} cannot be read ({error}): copy it again, or export the model again") from error
    return OnnxAsrModel(model, own)


def model_type(settings: LabelSettings) -> str:
    """Return what onnx-asr calls a model with ``settings``."""
    return "nemo-conformer-" + ("ctc" if settings.kind == "ctc" else "tdt" if settings.durations else "rnnt")


class OnnxAsrModel:
    """A model in onnx-asr, which reads greedily. It tells when tokens start, and not when words end: no words.

    Args:
        model: The model of the package.
        settings: How the model reads.
    """

    def __init__(self, model: Any, settings: LabelSettings) -> None:
        self._model = model
        self.sample_rate = settings.sample_rate
        self.min_seconds, self.max_seconds = settings.min_seconds, settings.max_seconds
        self.language = settings.language

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order, each by itself."""
        return [self._read(clip) for clip in clips]

    def _read(self, clip: Samples) -> Hypothesis:
        result = self._model.recognize(clip, sample_rate=self.sample_rate)
        return Hypothesis(result.text.strip(), (), mean_probability([_probability(x) for x in result.logprobs or ()]))


def _probability(log_probability: float) -> float:
    return float(min(1.0, 2.718281828459045**log_probability))
