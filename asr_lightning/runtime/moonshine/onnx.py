"""Reads clips with an exported Moonshine in onnxruntime, with numpy and the tokenizer. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples
from asr_lightning.runtime.labels.texts import mean_probability
from asr_lightning.runtime.moonshine.settings import MoonshineSettings
from asr_lightning.runtime.onnx_session import open_session

ENCODER, DECODER, TOKENIZER = "encoder_model.onnx", "decoder_model_merged.onnx", "tokenizer.json"


def load(folder: Path, settings: Mapping[str, object], threads: int) -> MoonshineModel:
    """Load the model in ``folder``."""
    return MoonshineModel(folder, MoonshineSettings.from_json(settings), threads)


class MoonshineModel:
    """Moonshine in onnxruntime, read greedily. It tells no words: Moonshine was not trained on times.

    Args:
        folder: Folder with both graphs and the tokenizer.
        settings: How the model reads.
        threads: Number of threads.
    """

    def __init__(self, folder: Path, settings: MoonshineSettings, threads: int) -> None:
        self.settings = settings
        self.sample_rate = settings.sample_rate
        self.min_seconds, self.max_seconds = settings.min_seconds, settings.max_seconds
        self.language = settings.language
        if not (folder / TOKENIZER).is_file():
            raise ModelError(f"{folder / TOKENIZER} is missing: copy the whole folder again")
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._encoder = open_session(folder / ENCODER, threads)
        self._decoder = open_session(folder / DECODER, threads)
        self._past = [node.name for node in self._decoder.get_inputs() if node.name.startswith("past_key_values.")]

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order."""
        return [self._read(clip) for clip in clips]

    def _read(self, clip: Samples) -> Hypothesis:
        (hidden,) = self._encoder.run(["last_hidden_state"], {"input_values": clip[None]})
        tokens, probabilities = self._decode(hidden, self.settings.max_tokens(len(clip)))
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        return Hypothesis(text, (), mean_probability(probabilities))

    def _decode(self, hidden: NDArray[np.float32], cap: int) -> tuple[list[int], list[float]]:
        """Return the new tokens, without the end token, and the probability of each."""
        empty = np.zeros((1, self.settings.heads, 0, self.settings.head_width), np.float32)
        cache = dict.fromkeys(self._past, empty)
        tokens: list[int] = []
        probabilities: list[float] = []
        last = self.settings.start
        while len(tokens) < cap:
            inputs = {"input_ids": np.array([[last]]), "encoder_hidden_states": hidden, **cache}
            logits, *kept = self._decoder.run(None, {**inputs, "use_cache_branch": np.array([bool(tokens)])})
            cache = dict(zip(self._past, kept, strict=True))
            last = int(logits[0, -1].argmax())
            if last == self.settings.eos:
                break
            tokens.append(last)
            probabilities.append(float(1 / np.exp(logits[0, -1] - logits[0, -1, last]).sum()))
        return tokens, probabilities
