from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from asr_lightning.runtime.whisper import beam

EOS, SIZE = 3, 4


def _language(seed: int):
    """Logits of the next token after each text of up to four tokens, as a decoder with a cache of rows gives them."""
    generator = np.random.default_rng(seed)
    table: dict[tuple[int, ...], np.ndarray] = {}

    def after(text: tuple[int, ...]) -> np.ndarray:
        if text not in table:
            table[text] = generator.normal(size=SIZE).astype(np.float32) * 2
        return table[text]

    rows: list[tuple[int, ...]] = [()]

    def step(tokens: np.ndarray, parents: np.ndarray) -> np.ndarray:
        nonlocal rows
        rows = [(*rows[parent], int(token)) for token, parent in zip(tokens, parents, strict=True)]
        return np.stack([after(row) for row in rows])

    return after, step


def _score(after, tokens: tuple[int, ...]) -> float:
    parts = []
    for place, token in enumerate(tokens):
        logits = after(tokens[:place]).astype(np.float64)
        parts.append(logits[token] - np.log(np.exp(logits).sum()))
    return float(np.mean(parts))


@pytest.mark.parametrize("seed", range(5))
def test_greedy_takes_the_likeliest_token_at_each_step(seed: int) -> None:
    after, step = _language(seed)
    text: tuple[int, ...] = ()
    while len(text) < 4 and (token := int(after(text).argmax())) != EOS:
        text = (*text, token)
    found = beam.search(after(()), step, EOS, 1, 4)
    assert found.tokens == text
    assert found.score == pytest.approx(_score(after, (*text, EOS)[: len(found.log_probs)]), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_every_text_finds_the_best_one(seed: int) -> None:
    """With as many hypotheses as there are texts, nothing is lost, and the best mean of all texts is found."""
    after, step = _language(seed)
    texts = [
        (*text, *end)
        for length in range(4)
        for text in product(range(EOS), repeat=length)
        for end in ([(EOS,)] if length < 3 else [(EOS,), *((token,) for token in range(EOS))])
    ]
    found = beam.search(np.pad(after(()), (0, 400), constant_values=-np.inf), _padded(step), EOS, 200, 4)
    assert found.score == pytest.approx(max(_score(after, text) for text in texts), abs=1e-5)


def _padded(step):
    """Forbidden tokens beside the others: a vocabulary must have more tokens than a beam has rows."""
    return lambda tokens, parents: np.pad(step(tokens, parents), ((0, 0), (0, 400)), constant_values=-np.inf)


def test_forbidden_tokens_are_never_written() -> None:
    first = np.full(50, -np.inf, np.float32)
    first[[7, EOS]] = [1.0, 0.0]
    found = beam.search(first, lambda tokens, parents: np.tile(first, (len(tokens), 1)), EOS, 5, 3)
    assert set(found.tokens) <= {7}
    assert np.isfinite(found.log_probs).all()
