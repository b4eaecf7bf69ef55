"""Whisper in onnxruntime: greedy decoding and beam search with cached keys and values. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, RuntimeModel, Samples, Word
from asr_lightning.runtime.whisper import alignment, beam
from asr_lightning.runtime.whisper.features import log_mel
from asr_lightning.runtime.whisper.settings import HOP, SAMPLE_RATE, WINDOW_SECONDS, WhisperSettings
from asr_lightning.runtime.whisper.tokens import WhisperTokens

SELF = ("n_layer_self_k_cache", "n_layer_self_v_cache")
CROSS = ("n_layer_cross_k", "n_layer_cross_v")
ATTENTION = "cross_attention_weights"

Tensors = dict[str, NDArray[Any]]


def load(folder: Path, settings: Mapping[str, object], threads: int) -> RuntimeModel:
    """Load the graphs that ``export/whisper/onnx.py`` wrote to ``folder``, to be run with so many ``threads``.

    Raises:
        ModelError: A file cannot be read.
    """
    encoder, decoder = (_session(folder / f"{name}.onnx", threads) for name in ("encoder", "decoder"))
    own = WhisperSettings.from_json(settings)
    return OnnxWhisper(encoder, decoder, own, WhisperTokens(folder / "tokenizer.json", own.eos, own.language))


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions derive from nothing narrower
        raise ModelError(f"{path} cannot be read ({error}): export the model again") from error


class OnnxWhisper:
    """A Whisper in onnxruntime, which reads clips one by one.

    Args:
        encoder: Session of the encoder.
        decoder: Session of the decoder.
        settings: How the model reads audio.
        tokens: Its tokens.
    """

    sample_rate = SAMPLE_RATE
    min_seconds = 0.1
    max_seconds: float | None = WINDOW_SECONDS

    def __init__(
        self,
        encoder: onnxruntime.InferenceSession,
        decoder: onnxruntime.InferenceSession,
        settings: WhisperSettings,
        tokens: WhisperTokens,
    ) -> None:
        self.encoder, self.decoder, self.settings, self.tokens = encoder, decoder, settings, tokens
        self.language = settings.language
        self._outputs = [output.name for output in decoder.get_outputs()]
        layers, _, _, width = decoder.get_inputs()[1].shape
        self._empty = np.zeros((layers, 1, 0, width), np.float32)

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order."""
        return [self._read(clip, decoding) for clip in clips]

    def _read(self, clip: Samples, decoding: Decoding) -> Hypothesis:
        cross = self._encode(clip, decoding.native)
        written = self._write(cross, decoding.beam, self.settings.max_tokens(len(clip)))
        words = self._words(written, cross, len(clip)) if decoding.words else ()
        return Hypothesis(self.tokens.text(written.tokens), words, float(np.exp(written.score)))

    def _encode(self, clip: Samples, native: bool) -> Tensors:
        mel = log_mel(clip, self.settings.num_frames(len(clip), native), self.settings.num_mels)
        return dict(zip(CROSS, self.encoder.run(CROSS, {"mel": mel[None]}), strict=True))

    def _write(self, cross: Tensors, width: int, cap: int) -> beam.Written:
        """Decode from ``cross``. The graph suppresses tokens by itself."""
        prompt = self.settings.prompt
        state = self._step(np.array([prompt]), 0, [self._empty, self._empty], cross)
        first, offset = state["logits"][0, -1], len(prompt)

        def step(tokens: NDArray[np.int64], parents: NDArray[np.int64]) -> NDArray[np.float32]:
            nonlocal state, offset
            caches = [state[f"out_{name}"] for name in SELF]
            if width > 1:
                caches = [cache[:, parents] for cache in caches]
            state = self._step(tokens[:, None], offset, caches, cross)
            offset += 1
            logits: NDArray[np.float32] = state["logits"][:, -1]
            return logits

        return beam.search(first, step, self.settings.eos, width, cap)

    def _step(self, tokens: NDArray[np.int64], offset: int, caches: Sequence[NDArray[Any]], cross: Tensors) -> Tensors:
        """Run the decoder for ``tokens`` ``[B, U]`` from position ``offset`` on; the audio is one for all rows."""
        feeds = {f"in_{name}": cache for name, cache in zip(SELF, caches, strict=True)} | cross
        feeds |= {"tokens": tokens, "offset": np.array([offset])}
        return dict(zip(self._outputs, self.decoder.run(self._outputs, feeds), strict=True))

    def _words(self, written: beam.Written, cross: Tensors, num_samples: int) -> tuple[Word, ...]:
        """Run the decoder over the whole text once more for its attentions, and align the words with them."""
        plain = [
            (token, log_prob)
            for token, log_prob in zip(written.tokens, written.log_probs, strict=False)
            if token < self.settings.eos
        ]
        if not plain:
            return ()
        text = [token for token, _ in plain]
        fed = [*self.settings.prompt, *text][: self.settings.max_positions]
        state = self._step(np.array([fed]), 0, [self._empty, self._empty], cross)
        positions = min(-(-num_samples // (2 * HOP)), state[ATTENTION].shape[-1])
        scores = state[ATTENTION][0, :, len(self.settings.prompt) - 1 :, :positions]
        times = alignment.starts(scores)
        return tuple(alignment.words(self.tokens, text, [log_prob for _, log_prob in plain], times))
