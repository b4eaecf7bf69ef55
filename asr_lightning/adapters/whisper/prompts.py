"""Whisper's decoder prompt, built in one place for training and for decoding (pitfall T3).

Must never know audio or the network. Used by ``adapter.py``.
"""

from __future__ import annotations

from typing import Any

from transformers.models.whisper.tokenization_whisper import TASK_IDS, TO_LANGUAGE_CODE

from asr_lightning.errors import OptionError

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces. Source: openai/whisper ``tokenizer.py``, ``split_to_word_tokens``."""


def language_code(language: str | None, config: Any) -> str | None:
    """The code of ``language`` (``de``, ``german`` or ``<|de|>``); None for an English-only model.

    Without ``language``, the one that the checkpoint was saved with.

    Raises:
        ValueError: Not a language of this model, or a multilingual model without a language.
    """
    known = [token.strip("<|>") for token in getattr(config, "lang_to_id", None) or {}]
    language = language if language is not None else getattr(config, "language", None)
    plain = None if language is None else language.lower().strip("<|>")
    code = None if plain is None else TO_LANGUAGE_CODE.get(plain, plain)
    if not config.is_multilingual:
        if code not in (None, "en"):
            raise OptionError(
                f"this is an English-only Whisper, language={language!r} needs a multilingual one: "
                "take a source without .en, such as openai/whisper-tiny",
                "language",
            )
        return None
    if code is None:
        raise OptionError(
            "this Whisper is multilingual: set language, such as language='de' or language='german'", "language"
        )
    if code not in known:
        raise OptionError(
            f"unknown language {language!r}: write it as 'de', 'german' or '<|de|>'; "
            f"this model knows {', '.join(known)}",
            "language",
        )
    return code


def task_name(task: str | None, config: Any) -> str | None:
    """``transcribe`` or ``translate``; None for an English-only model.

    Raises:
        ValueError: Another task, or translation by an English-only model.
    """
    task = task if task is not None else getattr(config, "task", None)
    if task is not None and task not in TASK_IDS:
        raise ValueError(f"unknown task {task!r}: choose transcribe or translate")
    if not config.is_multilingual:
        if task == "translate":
            raise ValueError("this is an English-only Whisper: task='translate' needs a source without .en")
        return None
    return task or "transcribe"


def prompt_ids(config: Any, language: str | None, task: str | None) -> tuple[int, ...]:
    """Start, language and task where the model is multilingual, no timestamps."""
    start, end = config.decoder_start_token_id, config.no_timestamps_token_id
    if language is None:
        return (start, end)
    return (start, config.lang_to_id[f"<|{language}|>"], config.task_to_id[task], end)


def spoken_text(text: str, language: str | None) -> str:
    """``text`` as Whisper's decoder writes it: with a leading space where the language has spaces."""
    stripped = text.strip()
    return stripped if not stripped or language in WITHOUT_SPACES else f" {stripped}"
