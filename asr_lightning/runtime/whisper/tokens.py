"""Whisper's tokens as text and as words, by the file ``tokenizer.json``. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces. Source: openai/whisper ``tokenizer.py``, ``split_to_word_tokens``."""
BROKEN = "�"
"""What a token stands for that ends inside a character."""
OPENING, CLOSING = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"
"""Punctuation that belongs to the word after it, and to the word before it. Source: openai/whisper ``timing.py``."""


class WhisperTokens:
    """The tokens of one model.

    Args:
        path: Its ``tokenizer.json``.
        eos: Token that ends a text; tokens from there on are special.
        language: Code of the language, by which words are told apart.
    """

    def __init__(self, path: Path, eos: int, language: str | None) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self.eos = eos
        self.language = language

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens``, without the special ones, stripped."""
        plain = [token for token in tokens if token < self.eos]
        return str(self._tokenizer.decode(plain, skip_special_tokens=True)).strip()

    def words(self, tokens: Sequence[int]) -> list[tuple[str, int]]:
        """Divide ``tokens`` into words; returns each word, stripped, and the number of its tokens.

        Punctuation stays with the word that it belongs to. The numbers sum to the number of ``tokens``, none special.
        """
        return in_words(tokens, lambda run: self._tokenizer.decode(run, skip_special_tokens=False), self.language)


def in_words(
    tokens: Sequence[int], decode: Callable[[Sequence[int]], str], language: str | None
) -> list[tuple[str, int]]:
    """Divide ``tokens``, which ``decode`` turns into text, into words, as ``WhisperTokens.words`` does."""
    words: list[tuple[str, int]] = []
    for piece, count in _characters(tokens, decode):
        starts = piece.startswith(" ") or language in WITHOUT_SPACES or not words
        if starts and not _is_closing(piece):
            words.append((piece, count))
        else:
            text, before = words.pop() if words else ("", 0)
            words.append((text + piece, before + count))
    return [(text.strip(), count) for text, count in _with_opening(words)]


def _characters(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[tuple[str, int]]:
    """The shortest runs of ``tokens`` that are whole characters, each with its number of tokens."""
    pieces, run = [], []
    for token in tokens:
        run.append(token)
        piece = decode(run)
        if BROKEN not in piece:
            pieces.append((piece, len(run)))
            run = []
    if run:
        pieces.append((decode(run), len(run)))
    return pieces


def _is_closing(piece: str) -> bool:
    return bool(piece.strip()) and piece.strip() in CLOSING and not piece.startswith(" ")


def _with_opening(words: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Join words that are nothing but opening punctuation to the next word."""
    result: list[tuple[str, int]] = []
    before, count_before = "", 0
    for text, count in words:
        if text.strip() and text.strip() in OPENING:
            before, count_before = before + text, count_before + count
            continue
        result.append((before + text, count_before + count))
        before, count_before = "", 0
    if before:
        text, count = result.pop() if result else ("", 0)
        result.append((text + before, count + count_before))
    return result
