"""Reads clips with an exported wav2vec2 in CTranslate2, with numpy alone beside it. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import Samples
from asr_lightning.runtime.labels.onnx import LabelReader, normalized, read_labels
from asr_lightning.runtime.labels.settings import LabelSettings
from asr_lightning.runtime.labels.texts import Label, ctc_labels

TOKENS = "vocab.txt"
FILES = ("model.bin", "config.json", TOKENS)


def load(folder: Path, settings: Mapping[str, Any], threads: int) -> Wav2Vec2Model:
    """Load the model in ``folder``.

    Raises:
        ModelError: A file is missing or cannot be read.
    """
    return Wav2Vec2Model(folder, LabelSettings.from_json(settings), threads)


def open_model(folder: Path, settings: LabelSettings, threads: int) -> Any:
    """Open the model in ``folder`` in CTranslate2.

    Raises:
        ModelError: A file is missing or cannot be read.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing: copy the whole folder again")
    kind = "int8" if settings.variant == "int8" else "float32"
    try:
        return ctranslate2.models.Wav2Vec2(str(folder), device="cpu", compute_type=kind, intra_threads=threads)
    except Exception as error:  # of the library, without a class of its own
        raise ModelError(f"{folder} cannot be read ({error}): copy it again, or export the model again") from error


def log_probs(model: Any, samples: Samples, blank: int, special: Sequence[int]) -> NDArray[np.float32]:
    """Return the log-probabilities ``[F', V]`` of ``samples`` ``[T]``; ``special`` labels count as the blank.

    Greedy decoding drops special labels after repeats are merged, where they act as a blank does.
    """
    given = ctranslate2.StorageView.from_array(np.ascontiguousarray(samples[None, None]))
    logits = np.array(model.encode(given, to_cpu=True))[0]
    if special:
        logits[:, blank] = logits[:, [blank, *special]].max(-1)
        logits[:, list(special)] = -1e9
    shifted = logits - logits.max(-1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


class Wav2Vec2Model(LabelReader):
    """wav2vec2 in CTranslate2, read greedily: the best label of each frame.

    Args:
        folder: Folder of the model.
        settings: How the model reads.
        threads: Number of threads.
    """

    def __init__(self, folder: Path, settings: LabelSettings, threads: int) -> None:
        self._model = open_model(folder, settings, threads)
        super().__init__(settings, read_labels(folder / TOKENS, settings))

    def _labels(self, clip: Samples) -> list[Label]:
        samples = normalized(clip) if self.settings.is_normalized else clip
        settings = self.settings
        return ctc_labels(log_probs(self._model, samples, settings.blank, settings.special), settings.blank)
