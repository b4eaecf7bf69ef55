import pytest

from asr_lightning.text import basic, none, normalizer, spreadsheet_cell

STRINGS = [
    "Hello, World!",
    "don't  stop",
    "[laughs] the (quiet) cat <noise> sat",
    "Äpfel & Öl — 5 €",
    "ﬁne ½ ＡＢＣ",
    "naïve café",
    "a\tb\nc",
    "",
    "...",
    "(unclosed and [also",
    "日本語 テスト。",
]


@pytest.mark.parametrize("text", STRINGS)
def test_basic_equals_whispers_own(text: str) -> None:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    assert basic(text) == BasicTextNormalizer()(text).strip()


def test_normalizer_golden() -> None:
    assert basic("Don't go, Mr. O'Neill!") == "don t go mr o neill"
    assert none("  Two   words. ") == "Two words."


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="none, basic"):
        normalizer("english-ish")


@pytest.mark.parametrize(("text", "cell"), [("=1+1", "'=1+1"), ("@home", "'@home"), ("plain", "plain"), ("", "")])
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    assert spreadsheet_cell(text) == cell
