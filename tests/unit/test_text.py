import subprocess
import sys

import pytest

from asr_lightning.scoring.text import basic, english, none, normalizer, spreadsheet_cell

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


def test_english_knows_how_numbers_and_contractions_are_said() -> None:
    assert english("Press 1, then press two.") == english("press one then press 2")
    assert english("I'm on the 21st floor") == english("I am on the twenty-first floor")
    assert english("Four colours") != english("Five colours")


def test_english_loads_no_torch() -> None:
    code = "import sys; from asr_lightning.scoring.text import english; english('one'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="none, basic, english"):
        normalizer("english-ish")


@pytest.mark.parametrize(("text", "cell"), [("=1+1", "'=1+1"), ("@home", "'@home"), ("plain", "plain"), ("", "")])
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    assert spreadsheet_cell(text) == cell
