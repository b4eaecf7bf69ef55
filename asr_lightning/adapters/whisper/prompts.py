"""Whisper's decoder prompt, built in one place so that training and decoding agree on it.

Knows no audio and no network. Used by ``adapter.py``.
"""

from __future__ import annotations

from typing import Any

from transformers.models.whisper.tokenization_whisper import TASK_IDS, TO_LANGUAGE_CODE

from asr_lightning.errors import OptionError

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces. Source: openai/whisper ``tokenizer.py``, ``split_to_word_tokens``."""


def language_code(language: str | None, config: Any) -> str | None:
    """Return the code of ``language`` (``de``, ``german`` or ``<|de|>``); None for an English-only model.

    If ``language`` is None, the checkpoint's own language is taken.

    Raises:
        OptionError: This is no language of the model, or a multilingual model has none.
    """
    known = [token.strip("<|>") for token in getattr(config, "lang_to_id", None) or {}]
    language = language if language is not None else getattr(config, "language", None)
    plain = None if language is None else language.lower().strip("<|>")
    code = None if plain is None else TO_LANGUAGE_CODE.get(plain, plain)
    if not config.is_multilingual:
        if code not in (None, "en"):
            raise OptionError(
                f"this is an English-only Whisper, and the language {language!r} needs a multilingual one: "
                "take a model without .en, such as --model whisper-tiny",
                "language",
            )
        return None
    if code is None:
        raise OptionError(
            "this Whisper is multilingual: say what is spoken, such as --language de; in fit this is "
            "--model.adapter.init_args.language de",
            "language",
        )
    if code not in known:
        raise OptionError(
            f"unknown language {language!r}: write it as in --language de or --language german; "
            f"this model knows {', '.join(known)}",
            "language",
        )
    return code


def task_name(task: str | None, config: Any) -> str | None:
    """Return ``transcribe`` or ``translate``; None for an English-only model.

    Raises:
        ValueError: There is no such task, or an English-only model is to translate.
    """
    task = task if task is not None else getattr(config, "task", None)
    if task is not None and task not in TASK_IDS:
        raise ValueError(f"unknown task {task!r}: choose transcribe or translate")
    if not config.is_multilingual:
        if task == "translate":
            raise ValueError("this is an English-only Whisper, and the task translate needs a model without .en")
        return None
    return task or "transcribe"


def prompt_ids(config: Any, language: str | None, task: str | None) -> tuple[int, ...]:
    """Return the tokens for the start, for language and task if the model is multilingual, and for no timestamps."""
    start, end = config.decoder_start_token_id, config.no_timestamps_token_id
    if language is None:
        return (start, end)
    return (start, config.lang_to_id[f"<|{language}|>"], config.task_to_id[task], end)


def spoken_text(text: str, language: str | None) -> str:
    """Return ``text`` as Whisper's decoder writes it: with a leading space if the language has spaces."""
    stripped = text.strip()
    return stripped if not stripped or language in WITHOUT_SPACES else f" {stripped}"
