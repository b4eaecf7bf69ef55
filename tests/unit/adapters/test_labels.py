"""How a text is written with a vocabulary that never changes, and what is said of the rest before training."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch

from asr_lightning.adapters.nemo.collator import NeMoCollator
from asr_lightning.adapters.shared.frames import joint_gigabytes
from asr_lightning.adapters.shared.labels import BPEVocabulary, CharacterVocabulary, spell, validate_texts
from asr_lightning.types import Utterance

LOWER = CharacterVocabulary(" 'abcdefghijklmnopqrstuvwxyz")
UPPER = CharacterVocabulary(" ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CASED = CharacterVocabulary(" '.,?abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@pytest.mark.parametrize(
    ("text", "vocabulary", "written", "marks", "unknown"),
    [
        ("Open the window.", LOWER, "open the window", ".", ""),
        ("Open the window.", UPPER, "OPEN THE WINDOW", ".", ""),
        ("Open the window.", CASED, "Open the window.", "", ""),
        ("Don’t", LOWER, "don't", "", ""),
        ("Don’t", UPPER, "DONT", "’", ""),
        ("twenty-five", LOWER, "twenty five", "-", ""),
        ("25 %", LOWER, "", "%", "25"),
        ("cafe\u0301", LOWER, "caf", "", "é"),
        ("cost: 5€", LOWER, "cost", ":", "5€"),
        ("  two\n lines ", LOWER, "two lines", "", ""),
    ],
)
def test_spelling(text: str, vocabulary: CharacterVocabulary, written: str, marks: str, unknown: str) -> None:
    spelling = spell(text, vocabulary)
    assert (spelling.text, spelling.marks, spelling.unknown) == (written, set(marks), set(unknown))


def test_unknown_characters_are_refused_with_their_files() -> None:
    """Unknown characters are named before training, each with its recordings: a 25 must not be learned as silence."""
    texts = {"a.wav": "open 25 doors", "b.wav": "25 cafés", "c.wav": "fine"}
    with pytest.raises(ValueError, match=r"cannot write 3 characters") as error:
        validate_texts(texts, LOWER, "refuse")
    assert "'2' (DIGIT TWO) in a.wav, b.wav" in str(error.value)
    assert "'é' (LATIN SMALL LETTER E WITH ACUTE) in b.wav" in str(error.value)
    assert "c.wav" not in str(error.value)
    assert "25 as twenty-five" in str(error.value)


def test_unknown_characters_may_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    validate_texts({"a.wav": "room 5, please"}, LOWER, "leave_out")
    assert "left out of the transcripts" in caplog.text and "DIGIT FIVE" in caplog.text


def test_marks_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        validate_texts({"a.wav": "Well, yes!"}, LOWER, "refuse")
    assert "this model writes no ! ,;" in caplog.text


def test_a_text_of_which_nothing_is_left() -> None:
    with pytest.raises(ValueError, match=r"nothing of the transcripts of b.wav"):
        validate_texts({"a.wav": "yes", "b.wav": "?!"}, LOWER, "refuse")


@pytest.mark.parametrize(
    ("texts", "warning"),
    [
        (["open the window", "close it"], "capital letters and punctuation and the transcripts have none"),
        (["open the window.", "close it"], "capital letters and the transcripts"),
        (["Open the window", "Close it"], "writes punctuation and"),
        (["Open the window.", "Close it"], None),
        (["OPEN THE WINDOW.", "Close it", "CLOSE IT"], "2 of 3 transcripts are in capitals only"),
    ],
)
def test_style_mismatch_warning(texts: list[str], warning: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """Lower-case transcripts teach a model that writes capitals to leave them out, and WER rises."""
    validate_texts(dict(enumerate(texts)), CASED, "refuse")  # type: ignore[arg-type]
    assert (warning in caplog.text) if warning else not caplog.text
    caplog.clear()
    validate_texts({"a": "open it"}, LOWER, "refuse")
    assert not caplog.text


def collator(**options) -> NeMoCollator:
    settings = {"unknown_characters": "refuse", "frames_per_second": 12.5, "needs_frames": True, "joint_columns": 0}
    return NeMoCollator(LOWER, **{**settings, **options})


def test_infeasible_ctc_listed(caplog: pytest.LogCaptureFixture) -> None:
    """12 labels, two of them equal neighbours, need 13 frames: 1.04 s at 12.5 frames a second."""
    texts = dict.fromkeys(["short.wav", "enough.wav"], "a long balls")
    collator().check(texts, {"short.wav": 1.0, "enough.wav": 1.1})
    assert "1 recordings are too short for their text" in caplog.text
    assert "short.wav (12 labels in 1.00 s)" in caplog.text
    assert "enough.wav" not in caplog.text


def test_transducers_need_no_frame_for_each_label(caplog: pytest.LogCaptureFixture) -> None:
    collator(needs_frames=False).check({"short.wav": "a long balls"}, {"short.wav": 0.5})
    assert "too short" not in caplog.text


def test_joint_memory_estimate(caplog: pytest.LogCaptureFixture) -> None:
    """The memory that is logged before the run equals that of the tensor and its gradient."""
    labels = {f"{n}.wav": list(range(n % 7 + 1)) for n in range(20)}
    seconds = {name: 1 + 0.1 * len(ids) for name, ids in labels.items()}
    largest = sorted(seconds, key=lambda name: -seconds[name])[:16]
    joint = torch.empty(16, round(max(seconds[n] for n in largest) * 100), 8, 1030)
    estimate = joint_gigabytes(labels, {name: 100 * s for name, s in seconds.items()}, 1030)
    assert estimate == pytest.approx(2 * joint.nbytes / 1e9, rel=0.01)
    with caplog.at_level(logging.INFO):
        collator(joint_columns=1030).check({"a.wav": "hello"}, {"a.wav": 30.0})
    assert "the joint takes up to 0.02 GB" in caplog.text


def test_batch_pads_labels_with_minus_100() -> None:
    clips = [Utterance("a", torch.ones(800), 16_000, "Hi!"), Utterance("b", torch.ones(400), 16_000, "hello")]
    batch = collator()(clips)
    assert batch.texts == ("Hi!", "hello")
    assert batch.inputs["input_signal"].shape == (2, 800)
    assert batch.inputs["input_signal_length"].tolist() == [800, 400]
    assert batch.target_lengths.tolist() == [2, 5]
    assert batch.targets[0].tolist() == [LOWER.ids["h"], LOWER.ids["i"], -100, -100, -100]


@pytest.mark.nemo
def test_bpe_vocabulary_equals_the_tokenizer(tmp_path: Path) -> None:
    """NeMo's own tokenizer on every sample phrase, in another process's copy too."""
    from nemo.collections.common.tokenizers import SentencePieceTokenizer

    from tests.tiny_nemo import PHRASES, write_tokenizer

    write_tokenizer(tmp_path, 128)
    own = SentencePieceTokenizer(str(tmp_path / "tokenizer.model"))
    vocabulary = pickle.loads(pickle.dumps(BPEVocabulary(own.tokenizer.serialized_model_proto())))
    for line in PHRASES.read_text(encoding="utf-8").splitlines():
        spelling = spell(line, vocabulary)
        assert vocabulary.encode(spelling.text) == own.text_to_ids(spelling.text)
        assert not spelling.unknown
    assert not vocabulary.knows("€") and vocabulary.knows("a")
    assert vocabulary.characters() >= set("abcdefghijklmnopqrstuvwxyz'▁")
