"""Tokens as text and as words, against transformers' tokenizer and its division into words."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from asr_lightning.runtime.whisper.tokens import WhisperTokens
from tests.tiny_models import tiny_whisper

EOS = 50257
TEXTS = {
    "plain": " the thin thing in the inn",
    "punctuation": ' He said: "no (never)!" Did he, then? Yes...',
    "numbers": " 3.5 % of 1,000",
    "umlauts": " Größe über Fuß – naïve, don't",
    "other letters": " дом 日本語 🙂 end",
    "spaces": "  two  spaces , and a comma ",
    "empty": "",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper(tmp_path_factory.mktemp("tokens"), multilingual=True)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> WhisperTokenizer:
    return WhisperTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokens(folder: Path) -> WhisperTokens:
    return WhisperTokens(folder / "tokenizer.json", EOS, "de")


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_equals_transformers(tokens: WhisperTokens, tokenizer: WhisperTokenizer, name: str) -> None:
    ids = tokenizer(TEXTS[name], add_special_tokens=False).input_ids
    expected = tokenizer.batch_decode([ids], skip_special_tokens=True)[0].strip()
    assert tokens.text(ids) == expected
    timestamps = [50364, 50400, 51864]
    assert tokens.text([*timestamps[:1], *ids, *timestamps[1:], EOS]) == expected, "special tokens are no text"


@pytest.mark.parametrize("ids", [[230], [72, 230], [230, 157, 72], [160, 188, 80]])
def test_bytes_that_are_no_character_equal_transformers(
    tokens: WhisperTokens, tokenizer: WhisperTokenizer, ids: list[int]
) -> None:
    """A model may stop, or be stopped, in the middle of a character."""
    assert tokens.text(ids) == tokenizer.batch_decode([ids], skip_special_tokens=True)[0].strip()
    assert sum(count for _, count in tokens.words(ids)) == len(ids)


@pytest.mark.parametrize("name", TEXTS)
def test_words_are_the_whole_text(tokens: WhisperTokens, tokenizer: WhisperTokenizer, name: str) -> None:
    ids = tokenizer(TEXTS[name], add_special_tokens=False).input_ids
    words = tokens.words(ids)
    assert sum(count for _, count in words) == len(ids)
    assert "".join(word for word, _ in words).replace(" ", "") == TEXTS[name].replace(" ", "")


@pytest.mark.parametrize("name", ["plain", "punctuation"])
def test_words_equal_transformers(tokens: WhisperTokens, tokenizer: WhisperTokenizer, name: str) -> None:
    ids = tokenizer(TEXTS[name], add_special_tokens=False).input_ids
    words, _, indices = _combine_tokens_into_words(tokenizer, ids, "german")
    expected = [(word.strip(), len(own)) for word, own in zip(words, indices, strict=True)]
    assert tokens.words(ids) == expected


def test_words_of_a_language_without_spaces(folder: Path, tokenizer: WhisperTokenizer) -> None:
    ids = tokenizer("日本語。", add_special_tokens=False).input_ids
    words = WhisperTokens(folder / "tokenizer.json", EOS, "ja").words(ids)
    assert [word for word, _ in words] == ["日", "本", "語。"]


def test_punctuation_stays_with_its_word(tokens: WhisperTokens, tokenizer: WhisperTokenizer) -> None:
    ids = tokenizer(' so "yes," (well-known) don\'t 3.5!', add_special_tokens=False).input_ids
    assert [word for word, _ in tokens.words(ids)] == ["so", '"yes,"', "(well-known)", "don't", "3.5!"]
