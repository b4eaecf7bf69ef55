import pytest
import torch
from torchmetrics.text import CharErrorRate, WordErrorRate

from asr_lightning.scoring.edits import EditCounts, Transcript, count_edits, error_rates, score
from asr_lightning.scoring.text import basic, none

PAIRS = [
    ("the cat sat", "the cat sat"),
    ("the cat sat", "a cat sat down"),
    ("turn off the light", "turn of light"),
    ("one two three", ""),
    ("yes", "yes yes yes yes"),
]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", (0, 0, 0, 3)),
        ("a b c", "a x c", (1, 0, 0, 3)),
        ("a b c", "a c", (0, 1, 0, 3)),
        ("a b c", "a b b c", (0, 0, 1, 3)),
        ("a b c", "", (0, 3, 0, 3)),
        ("", "a b", (0, 0, 2, 0)),
        ("", "", (0, 0, 0, 0)),
    ],
)
def test_wer_edge_table(reference: str, hypothesis: str, expected: tuple[int, ...]) -> None:
    """Counted by hand."""
    assert count_edits(reference, hypothesis, none).words == expected


def test_rates_equal_torchmetrics() -> None:
    references, hypotheses = zip(*PAIRS, strict=True)
    rates = error_rates([count_edits(*pair, none) for pair in PAIRS])
    assert rates.wer == pytest.approx(WordErrorRate()(hypotheses, references).item())
    assert rates.cer == pytest.approx(CharErrorRate()(hypotheses, references).item())


def test_corpus_vs_mean_example() -> None:
    """The mean over clips caps each WER at 1 and weighs short clips like long ones; the corpus WER does neither."""
    rates = error_rates(
        [count_edits("yes", "no no no no", none), count_edits("one two three four", "one two three", none)]
    )
    assert rates.wer == 5 / 5
    assert rates.mean_wer == (1.0 + 0.25) / 2


def test_empty_reference() -> None:
    """A reference that normalises to nothing counts its insertions and leaves the corpus defined."""
    transcripts = [Transcript("1", "[cough]", "uh um"), Transcript("2", "one two three four", "one two three four")]
    rates = score(transcripts, basic)
    assert rates.words == EditCounts(0, 0, 2, 4)
    assert rates.wer == 0.5
    assert EditCounts(insertions=3).rate == 3.0


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        error_rates([])


def test_wer_is_a_plain_float() -> None:
    assert not isinstance(error_rates([count_edits("a", "b", none)]).wer, torch.Tensor)
