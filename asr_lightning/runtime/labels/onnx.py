"""Reads clips with an exported CTC model or transducer in onnxruntime, with numpy alone. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, RuntimeModel, Samples
from asr_lightning.runtime.labels.features import log_mel
from asr_lightning.runtime.labels.settings import LabelSettings
from asr_lightning.runtime.labels.texts import Label, ctc_labels, hypothesis_of, read_tokens
from asr_lightning.runtime.onnx_session import open_session

TOKENS, MODEL = "vocab.txt", "model.onnx"
ENCODER, DECODER_JOINT = "encoder-model.onnx", "decoder_joint-model.onnx"
"""The names that onnx-asr looks for."""

VARIANCE_GUARD = 1e-7
"""Added to the variance of the samples. Source: transformers ``Wav2Vec2FeatureExtractor``."""


def load(folder: Path, settings: Mapping[str, object], threads: int) -> RuntimeModel:
    """Load the model in ``folder``.

    Raises:
        ModelError: A file is missing or cannot be read.
    """
    own = LabelSettings.from_json(settings)
    tokens = read_labels(folder / TOKENS, own)
    if own.kind == "transducer":
        return TransducerModel(folder, own, tokens, threads)
    return CTCModel(folder, own, tokens, threads)


def read_labels(path: Path, settings: LabelSettings) -> tuple[str, ...]:
    """Read how each label is written from ``path``.

    Raises:
        ModelError: The file is missing, or has another number of labels than the model.
    """
    tokens = read_tokens(path)
    if len(tokens) != settings.labels:
        raise ModelError(f"{path} has {len(tokens)} labels, the model has {settings.labels}: copy the folder again")
    return tokens


def normalized(samples: Samples) -> Samples:
    """Return ``samples`` with mean 0 and variance 1."""
    result: Samples = ((samples - samples.mean()) / np.sqrt(samples.var() + VARIANCE_GUARD)).astype(np.float32)
    return result


class LabelReader:
    """What both kinds share: the limits, and a clip at a time.

    Args:
        settings: How the model reads.
        tokens: How each label is written.
    """

    def __init__(self, settings: LabelSettings, tokens: tuple[str, ...]) -> None:
        self.settings, self.tokens = settings, tokens
        self.sample_rate = settings.sample_rate
        self.min_seconds, self.max_seconds = settings.min_seconds, settings.max_seconds
        self.language = settings.language

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order."""
        return [
            hypothesis_of(self._spoken(clip), self.tokens, self.settings.frame_seconds, decoding.words)
            for clip in clips
        ]

    def _spoken(self, clip: Samples) -> list[Label]:
        return [label for label in self._labels(clip) if label.number not in self.settings.special]

    def _labels(self, clip: Samples) -> list[Label]:
        raise NotImplementedError

    def _inputs(self, clip: Samples) -> dict[str, NDArray[Any]]:
        if self.settings.features is None:
            return {"samples": (normalized(clip) if self.settings.is_normalized else clip)[None]}
        features = log_mel(clip, self.settings.features)
        return {"audio_signal": features[None], "length": np.array([features.shape[1]])}


class CTCModel(LabelReader):
    """A CTC model, read greedily: the best label of each frame.

    Args:
        folder: Folder of the graph.
        settings: How the model reads.
        tokens: How each label is written.
        threads: Number of threads.
    """

    def __init__(self, folder: Path, settings: LabelSettings, tokens: tuple[str, ...], threads: int) -> None:
        super().__init__(settings, tokens)
        self._session = open_session(folder / MODEL, threads)

    def _labels(self, clip: Samples) -> list[Label]:
        (log_probs,) = self._session.run(["logprobs"], self._inputs(clip))
        return ctc_labels(log_probs[0], self.settings.blank)


class TransducerModel(LabelReader):
    """A transducer, RNNT or TDT, read greedily.

    Args:
        folder: Folder of the graphs.
        settings: How the model reads.
        tokens: How each label is written.
        threads: Number of threads.
    """

    def __init__(self, folder: Path, settings: LabelSettings, tokens: tuple[str, ...], threads: int) -> None:
        super().__init__(settings, tokens)
        self._encoder = open_session(folder / ENCODER, threads)
        self._decoder = open_session(folder / DECODER_JOINT, threads)

    def _labels(self, clip: Samples) -> list[Label]:
        encoded, lengths = self._encoder.run(["outputs", "encoded_lengths"], self._inputs(clip))
        settings, frames = self.settings, int(lengths[0])
        zeros = np.zeros((settings.predictor_layers, 1, settings.predictor_width), np.float32)
        state, last, here, at = (zeros, zeros), settings.blank, 0, 0
        labels: list[Label] = []
        while at < frames:
            logits, next_state = self._step(encoded[:, :, at : at + 1], last, state)
            token = int(logits[: settings.labels].argmax())
            step = settings.durations[int(logits[settings.labels :].argmax())] if settings.durations else 0
            if token != settings.blank:
                probability = 1 / float(np.exp(logits[: settings.labels] - logits[token]).sum())
                labels.append(Label(token, at, min(at + max(step, 1), frames) - 1, probability))
                state, last, here = next_state, token, here + 1
            if step == 0 and (token == settings.blank or here == settings.max_symbols):
                step = 1
            at, here = at + step, 0 if step else here
        return labels

    def _step(
        self, frame: NDArray[np.float32], last: int, state: tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return the logits ``[V + N]`` of one frame after the label ``last``, and the state after that label."""
        logits, hidden, cell = self._decoder.run(
            ["outputs", "output_states_1", "output_states_2"],
            {
                "encoder_outputs": frame,
                "targets": np.array([[last]], np.int32),
                "target_length": np.array([1], np.int32),
                "input_states_1": state[0],
                "input_states_2": state[1],
            },
        )
        return logits.reshape(-1), (hidden, cell)
