"""Characters of transcripts that nobody sees or says, and names of files that look alike. The standard library only.

A zero-width space or a soft hyphen inside a word makes it another word for a tokenizer and for an error rate.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

JOINERS = "\u200c\u200d"  # ZERO WIDTH NON-JOINER and ZERO WIDTH JOINER
VOWEL_SEPARATOR = "\u180e"  # of Mongolian
VISIBLE_FORMATS = frozenset(
    [*map(chr, range(0x600, 0x606)), "\u06dd", "\u070f", "\u0890", "\u0891", "\u08e2", "\U000110bd", "\U000110cd",
     *map(chr, range(0x13430, 0x13440))]
)  # fmt: skip
"""Format characters (category Cf) that are drawn: signs around Arabic, Syriac and Kaithi numbers (the property
Prepended_Concatenation_Mark), and those that arrange hieroglyphs."""
FILLERS = "\u3164\uffa0"  # Hangul fillers are letters by category, and are drawn as blanks
VIRAMA = 9  # canonical combining class
CURSIVE = ("ARABIC", "SYRIAC", "MANDAIC", "MONGOLIAN", "NKO", "PHAGS-PA", "MANICHAEAN", "ADLAM", "HANIFI", "SOGDIAN")
"""First words of the names of letters that are joined to their neighbours."""


class Visible(NamedTuple):
    """A text without invisible characters.

    Attributes:
        text: The text on one line.
        left_out: Names of the characters that were left out, each once.
    """

    text: str
    left_out: tuple[str, ...]


def visible(text: str) -> Visible:
    """Leave out of ``text`` what nobody sees, and replace each run of white space and control characters by a space.

    What is left out are the format characters of Unicode (category Cf): zero-width spaces, soft hyphens, marks of
    direction, byte-order marks and the like. Those that spelling depends on stay: both joiners beside a virama, as
    Indic scripts and Sinhala use them, and between letters of cursive scripts, as Persian needs them.
    Source: RFC 5892, appendix A.1 and A.2; The Unicode Standard, 12.1 (joiners before a virama) and 23.2.
    """
    line = " ".join(text.split())
    if line.isprintable() and not any(filler in line for filler in FILLERS):
        return Visible(line, ())
    kept, left_out = [], []
    for index, char in enumerate(line):
        if char in FILLERS or unicodedata.category(char) == "Cc":
            kept.append(" ")
        elif unicodedata.category(char) != "Cf" or _matters(line, index):
            kept.append(char)
            continue
        left_out.append(unicodedata.name(char, f"U+{ord(char):04X}"))
    return Visible(" ".join("".join(kept).split()), tuple(dict.fromkeys(left_out)))


def _matters(line: str, index: int) -> bool:
    """Whether the spelling depends on the format character at ``index``."""
    char, before, after = line[index], _letter(line[:index][::-1]), _letter(line[index + 1 :])
    if char in VISIBLE_FORMATS:
        return True
    if char == VOWEL_SEPARATOR:
        return before.startswith("MONGOLIAN")
    if char not in JOINERS:
        return False
    neighbours = line[max(index - 1, 0) : index] + line[index + 1 : index + 2]
    if any(unicodedata.combining(neighbour) == VIRAMA for neighbour in neighbours):
        return True
    joined = [name.startswith(CURSIVE) for name in (before, after)]
    return all(joined) if char == JOINERS[0] else any(joined)  # a letter alone can be drawn as if it were joined


def _letter(text: str) -> str:
    """The name of the first character of ``text`` that is neither a mark nor a format character; "" if none is."""
    for char in text:
        if unicodedata.category(char)[0] != "M" and unicodedata.category(char) != "Cf":
            return unicodedata.name(char, "")
    return ""


def same_name(name: str) -> str:
    """A key that is equal for names that look equal: macOS writes "ü" as two characters, and most others as one."""
    return unicodedata.normalize("NFC", name)


def shown(name: str) -> str:
    """``name`` with an escape such as ``\\xe9`` for each byte that is not UTF-8, so that it can be printed anywhere."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def told_apart(names: Sequence[str]) -> list[str]:
    """The names as they are or, if two of them look equal, with escapes that show the difference."""
    return list(names) if len(set(map(same_name, names))) == len(names) else [ascii(name) for name in names]
