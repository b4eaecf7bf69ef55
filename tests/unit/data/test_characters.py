"""Invisible characters are left out of transcripts, but not where the spelling of a language depends on them."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from asr_lightning.data.characters import shown, told_apart, visible
from asr_lightning.data.folder import scan_folder
from asr_lightning.data.manifest import find_file, read_manifest
from asr_lightning.server.intake.texts import split_file, transcript
from tests.unit.conftest import write_audio


@pytest.mark.parametrize("char", ["\u200b", "\u00ad", "\u2060", "\ufeff", "\u200e", "\u202e", "\u2069", "\U000e0041"])
def test_invisible_characters_are_left_out(char: str) -> None:
    assert visible(f"Thurs{char}days {char} are {char}\n fine{char}") == (
        "Thursdays are fine",
        (unicodedata.name(char),),
    )
    assert visible("Thursdays are fine") == ("Thursdays are fine", ())


@pytest.mark.parametrize(("char", "name"), [("\x07", "U+0007"), ("\x7f", "U+007F"), ("\u3164", "HANGUL FILLER")])
def test_what_is_drawn_as_a_blank_becomes_one(char: str, name: str) -> None:
    assert visible(f"one{char}two") == ("one two", (name,))


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # Persian: the non-joiner separates a prefix inside a word
        "خانه\u200cها را",
        "ه\u200d",  # Arabic: heh in its joined form, an abbreviation of hijri
        "ක\u0dca\u200dෂ",  # Sinhala: a conjunct
        "र\u094d\u200dय",  # Marathi: eyelash ra
        "র\u200d\u09cdয",  # Bengali: the joiner stands before the virama
        "క్\u200cవ",  # Telugu: no conjunct
        "ന\u0d4d\u200d",  # Malayalam: a chillu at the end of a word
        "ᠬᠠᠷ\u180eᠠ",  # Mongolian: a separated vowel
        "\u0600 ١٢",  # the Arabic number sign is drawn
    ],
)
def test_characters_that_spelling_depends_on_stay(text: str) -> None:
    assert visible(text) == (text, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("win\u200cdow", "window"),
        ("win\u200ddow", "window"),
        ("می\u200c خواهم", "می خواهم"),
        ("окно\u200d", "окно"),
        ("han\u180ed", "hand"),
    ],
)
def test_joiners_without_effect_are_left_out(text: str, expected: str) -> None:
    assert visible(text).text == expected


def test_every_reader_leaves_them_out_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_audio(tmp_path / "a.wav")
    hidden = "a Sun\u200bday even\u00ading"
    (tmp_path / "a.txt").write_text(hidden, encoding="utf-8")
    (tmp_path / "dev_files.csv").write_text(f"uid,file_name,text\na,a.wav,{hidden}\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert scan_folder(tmp_path)[0].text == "a Sunday evening"
        assert read_manifest(tmp_path / "dev_files.csv", tmp_path)[0].row.text == "a Sunday evening"
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "a.txt (ZERO WIDTH SPACE, SOFT HYPHEN)",
        "dev_files.csv line 2 (ZERO WIDTH SPACE, SOFT HYPHEN)",
    ]
    text, warning = transcript((tmp_path / "a.txt").read_bytes())
    assert text == "a Sunday evening" and warning and "SOFT HYPHEN" in warning
    assert [line.text for line in split_file((tmp_path / "dev_files.csv").read_bytes(), "dev")] == ["a Sunday evening"]


@pytest.mark.parametrize("wanted", ["NFC", "NFD"])
@pytest.mark.parametrize("present", ["NFC", "NFD"])
def test_file_is_found_under_any_form_of_its_name(tmp_path: Path, wanted: str, present: str) -> None:
    on_disk, asked = (unicodedata.normalize(form, "Übung/ä.wav") for form in (present, wanted))
    (tmp_path / on_disk).parent.mkdir()
    (tmp_path / on_disk).write_bytes(b"")
    found = find_file(tmp_path, asked)
    assert found and (tmp_path / found).is_file() and unicodedata.normalize(wanted, found) == asked
    assert found == on_disk or (tmp_path / asked).exists()
    assert find_file(tmp_path, "Übung/ö.wav") is None and find_file(tmp_path, "ü" * 3000) is None


def test_names_can_be_printed_and_told_apart() -> None:
    assert shown("caf\udce9.wav") == r"caf\xe9.wav" and shown("café.wav") == "café.wav"
    assert told_apart(["u\u0308.wav", "ü.wav"]) == [r"'u\u0308.wav'", r"'\xfc.wav'"]
    assert told_apart(["a.wav", "A.wav"]) == ["a.wav", "A.wav"]
