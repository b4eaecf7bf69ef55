"""The form of ``POST /v1/audio/transcriptions``, as OpenAI's clients send it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile

from asr_lightning.model_server import formats
from asr_lightning.model_server.problems import Refusal, wrong

ALIASES = frozenset({"whisper-1"})
"""Names that stand for the model as well, since many apps can ask for no other."""
STREAMED = ("json", "text")
LISTS = "timestamp_granularities[]"


@dataclass(frozen=True)
class TranscriptionRequest:
    """What a client asks for.

    Attributes:
        file: The recording.
        response_format: Format of the answer.
        granularities: What ``verbose_json`` has times of.
        stream: Whether the text is wanted piece by piece.
    """

    file: UploadFile
    response_format: str
    granularities: tuple[str, ...]
    stream: bool

    @property
    def words(self) -> bool:
        """Whether words with their times are wanted."""
        return "word" in self.granularities


def parse(form: FormData, model: str, language: str | None) -> TranscriptionRequest:
    """Read the fields of a request to the model called ``model`` that reads ``language``.

    ``prompt``, ``temperature`` and fields of other models are accepted and have no effect.

    Raises:
        Refusal: A field is missing or invalid, or asks for what this model does not do.
    """
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise Refusal(400, "missing_required_parameter", "send the recording as the field file", "file")
    require_model(_text(form, "model"), model)
    require_language(_text(form, "language"), language)
    _require_temperature(_text(form, "temperature"))
    response_format = _text(form, "response_format") or "json"
    if response_format not in formats.FORMATS:
        raise wrong("response_format", f"response_format is one of {', '.join(formats.FORMATS)}")
    granularities = tuple(str(value) for name in (LISTS, LISTS[:-2]) for value in form.getlist(name))
    if unknown := set(granularities) - set(formats.GRANULARITIES):
        raise wrong("timestamp_granularities", f"{sorted(unknown)[0]!r} is neither segment nor word")
    if granularities and response_format != "verbose_json":
        raise wrong("timestamp_granularities", "times are in response_format verbose_json only")
    stream = _text(form, "stream").lower() in ("true", "1")
    if stream and response_format not in STREAMED:
        raise wrong("stream", f"only the formats {' and '.join(STREAMED)} are streamed")
    return TranscriptionRequest(file, response_format, granularities or ("segment",), stream)


def require_model(asked: str, model: str) -> None:
    """Refuse a request for another model than ``model``.

    Raises:
        Refusal: It asks for another one.
    """
    if not asked:
        raise Refusal(400, "missing_required_parameter", f"give model: {model}", "model")
    if asked != model and asked not in ALIASES:
        raise Refusal(404, "model_not_found", f"there is no model {asked[:80]!r} here: ask for {model}", "model")


def require_language(asked: str, language: str | None) -> None:
    """Refuse a request for another language than the model reads; where nobody knows that, all are accepted.

    Raises:
        Refusal: It asks for another one.
    """
    if asked and language is not None and asked.lower().replace("_", "-").partition("-")[0] != language:
        raise wrong("language", f"this model reads {language}: leave out language, or send {language}")


def _require_temperature(text: str) -> None:
    try:
        valid = not text or 0 <= float(text) <= 1
    except ValueError:
        valid = False
    if not valid or (text and math.isnan(float(text))):
        raise wrong("temperature", "temperature is a number from 0 to 1")


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""
