"""Vocabularies of labels, and texts spelled with them, for models that write labels: CTC and transducers.

The vocabulary of a checkpoint is never changed, so every text must be written with what it has. Knows no audio and no
network. Used by the collators of CTC models and transducers.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr_lightning.adapters.shared.style import warn_of_style
from asr_lightning.scoring.text import name_some

logger = logging.getLogger(__name__)

APOSTROPHES = "'’‘ʼ`´"
UnknownCharacters = Literal["refuse", "leave_out"]


def validate_unknown_characters(choice: str) -> None:
    """Require that ``choice`` is one of ``UnknownCharacters``.

    Raises:
        ValueError: It is not.
    """
    if choice not in get_args(UnknownCharacters):
        raise ValueError(f"--model.adapter.init_args.unknown_characters must be refuse or leave_out, not {choice!r}")


class Vocabulary(Protocol):
    """The labels that a checkpoint can write."""

    def encode(self, text: str) -> list[int]:
        """Return the labels of ``text``, whose characters are all known."""
        ...

    def knows(self, char: str) -> bool:
        """Return whether some label writes ``char``."""
        ...

    def characters(self) -> set[str]:
        """Return every character that labels are made of."""
        ...


class BPEVocabulary:
    """The pieces of a SentencePiece model, which is given as the bytes of its file."""

    def __init__(self, model: bytes) -> None:
        import sentencepiece  # comes with the extra nemo

        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.knows = lru_cache(maxsize=None)(self._knows)

    def encode(self, text: str) -> list[int]:
        """Return the piece ids of ``text``."""
        return list(self.processor.encode_as_ids(text))

    def _knows(self, char: str) -> bool:
        return self.processor.unk_id() not in self.processor.encode_as_ids(char)

    def characters(self) -> set[str]:
        """Return the characters of all pieces but the control ones."""
        plain = (
            n for n in range(len(self.processor)) if not (self.processor.is_control(n) or self.processor.is_unknown(n))
        )
        return {char for number in plain for char in self.processor.id_to_piece(number)}

    def __getstate__(self) -> bytes:
        return bytes(self.processor.serialized_model_proto())

    def __setstate__(self, model: bytes) -> None:
        self.__init__(model)  # type: ignore[misc]


class CharacterVocabulary:
    """A label for each character, numbered in the order of ``labels``."""

    def __init__(self, labels: Iterable[str]) -> None:
        self.ids = {label: number for number, label in enumerate(labels)}

    def encode(self, text: str) -> list[int]:
        """Return the number of each character."""
        return [self.ids[char] for char in text]

    def knows(self, char: str) -> bool:
        """Return whether ``char`` is a label."""
        return char in self.ids

    def characters(self) -> set[str]:
        """Return all labels."""
        return set(self.ids)


@dataclass(frozen=True)
class Spelling:
    """A text as a vocabulary can write it.

    Attributes:
        text: The text in the vocabulary's case, without the characters that it lacks.
        marks: Punctuation that was left out; nobody speaks it.
        unknown: Letters, digits and symbols that were left out although they are spoken.
    """

    text: str
    marks: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()


def spell(text: str, vocabulary: Vocabulary) -> Spelling:
    """Write ``text`` with ``vocabulary``: in the other case if only that is known, with a blank for unknown marks."""
    written, marks, unknown = [], set(), set()
    for char in unicodedata.normalize("NFC", text):
        plain = "'" if char in APOSTROPHES else char
        known = next((form for form in (char, char.lower(), char.upper(), plain) if vocabulary.knows(form)), None)
        if known is not None or char.isspace():
            written.append(" " if known is None else known)
        elif char in APOSTROPHES:
            marks.add(char)
        elif unicodedata.category(char)[0] == "P":
            marks.add(char)
            written.append(" ")
        else:
            unknown.add(char)
    return Spelling(" ".join("".join(written).split()), frozenset(marks), frozenset(unknown))


def labels_of(text: str, vocabulary: Vocabulary) -> list[int]:
    """Return the labels of ``text``, as far as ``vocabulary`` can write it."""
    return vocabulary.encode(spell(text, vocabulary).text)


def padded_labels(texts: Iterable[str], vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return the labels of ``texts``, int64 ``[B, U]`` padded with -100, and the number of labels of each, ``[B]``."""
    labels = [torch.tensor(labels_of(text, vocabulary), dtype=torch.int64) for text in texts]
    padded = pad_sequence(labels, batch_first=True, padding_value=-100)
    return padded, torch.tensor([len(label) for label in labels])


def validate_texts(texts: Mapping[str, str], vocabulary: Vocabulary, unknown_characters: UnknownCharacters) -> None:
    """Report, before training, everything in ``texts`` that cannot be written as it is.

    Args:
        texts: Transcripts, by the name that the user knows each by.
        vocabulary: Vocabulary of the checkpoint.
        unknown_characters: Whether to ``refuse`` characters that are spoken but cannot be written, or to ``leave_out``
            them.

    Raises:
        ValueError: Characters are refused, or nothing would be left of some text. The message names the characters and
            the files.
    """
    spelled = {name: spell(text, vocabulary) for name, text in texts.items()}
    unknown = _files_by_character({name: spelling.unknown for name, spelling in spelled.items()})
    empty = [name for name, spelling in spelled.items() if not spelling.text]
    if unknown and unknown_characters == "refuse":
        raise ValueError(
            f"this model cannot write {len(unknown)} characters of the transcripts:\n{_listed(unknown)}\n"
            "Write them as they are spoken (25 as twenty-five, % as percent), choose a model whose vocabulary has "
            "them, or set --model.adapter.init_args.unknown_characters leave_out"
        )
    if empty:
        raise ValueError(f"this model can write nothing of the transcripts of {name_some(empty)}: choose another model")
    if unknown:
        logger.warning("left out of the transcripts, since this model cannot write them:\n%s", _listed(unknown))
    marks = _files_by_character({name: spelling.marks for name, spelling in spelled.items()})
    if marks:
        logger.info("this model writes no %s; they are left out of what it learns", " ".join(sorted(marks)))
    warn_of_style(texts.values(), vocabulary.characters())


def _files_by_character(characters: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = defaultdict(list)
    for name, chars in characters.items():
        for char in chars:
            files[char].append(name)
    return dict(sorted(files.items()))


def _listed(files: Mapping[str, list[str]]) -> str:
    lines = [f"  {char!r} ({unicodedata.name(char, 'no name')}) in {name_some(names)}" for char, names in files.items()]
    return name_some(lines, "\n")
