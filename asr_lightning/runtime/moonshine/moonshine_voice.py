"""Reads clips with an exported Moonshine in its makers' own runtime, moonshine-voice. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from moonshine_voice import ModelArch, Transcriber

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples
from asr_lightning.runtime.moonshine.settings import CAP_BASE_TOKENS, MoonshineSettings

ENCODER, DECODER, TOKENIZER = "encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"

ARCHITECTURES = {(6, 8, 36): ModelArch.TINY, (8, 8, 52): ModelArch.BASE}
"""Layers, heads and their width of the shapes that the runtime knows. Source: its ``moonshine-model.cpp``."""

WINDOW = 512
"""Number of samples that the runtime takes at once; it drops an incomplete rest."""


def load(folder: Path, settings: Mapping[str, object], threads: int) -> MoonshineVoiceModel:
    """Load the model in ``folder``. The runtime chooses the number of its threads itself.

    Raises:
        ModelError: A file is missing, or the runtime cannot read it.
    """
    return MoonshineVoiceModel(folder, MoonshineSettings.from_json(settings))


class _KeptTranscriber(Transcriber):
    """A transcriber that lasts as long as its process: freeing one crashes moonshine-voice 0.0.48, also with the model
    that it brings itself."""

    def close(self) -> None:
        """Do nothing."""


class MoonshineVoiceModel:
    """Moonshine in its makers' runtime, which reads greedily and tells no words.

    Args:
        folder: Folder with both graphs and ``tokenizer.bin``.
        settings: How the model reads.
    """

    def __init__(self, folder: Path, settings: MoonshineSettings) -> None:
        self.settings = settings
        self.sample_rate = settings.sample_rate
        self.min_seconds, self.max_seconds = settings.min_seconds, settings.max_seconds
        self.language = settings.language
        for name in (ENCODER, DECODER, TOKENIZER):
            if not (folder / name).is_file():
                raise ModelError(f"{folder / name} is missing: copy the whole folder again")
        shape = settings.layers, settings.heads, settings.head_width
        try:
            self._transcriber = _KeptTranscriber(str(folder), ARCHITECTURES[shape], options=options_of(settings))
        except Exception as error:  # the package raises its own class, KeyError stands for another shape
            raise ModelError(f"{folder} cannot be read ({error}): copy it again, or export the model again") from error

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order."""
        return [self._read(clip) for clip in clips]

    def _read(self, clip: Samples) -> Hypothesis:
        padded = np.pad(clip, (0, -len(clip) % WINDOW))
        lines = self._transcriber.transcribe_without_streaming(padded.tolist(), self.sample_rate).lines
        return Hypothesis(" ".join(line.text.strip() for line in lines).strip())


def options_of(settings: MoonshineSettings) -> dict[str, str]:
    """Return the options of the runtime: the whole clip is read as one line, also where it is quiet.

    The runtime's cap has no constant part. Half of ours is added to that of a second, so that for clips of 2 s both are
    equal, and longer texts than ours are possible in longer clips.
    """
    return {
        "vad_threshold": "0",
        "vad_max_segment_duration": str(settings.max_seconds + 1),
        "identify_speakers": "false",
        "max_tokens_per_second": str(settings.max_tokens_per_second + CAP_BASE_TOKENS / 2),
    }
