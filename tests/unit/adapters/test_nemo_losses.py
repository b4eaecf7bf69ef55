"""Transducer losses outside CUDA, against computations that share no code with them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from asr_lightning.adapters.nemo.losses import PortableTransducerLoss

BLANK = 5
FRAMES, LABELS = torch.tensor([4, 3]), torch.tensor([2, 1])
TARGETS = torch.tensor([[1, 3], [2, 0]])


def activations(extra: int = 0) -> Tensor:
    return torch.randn(2, 4, 3, BLANK + 1 + extra, generator=torch.Generator().manual_seed(1)).requires_grad_()


def portable(**settings) -> PortableTransducerLoss:
    return PortableTransducerLoss(SimpleNamespace(blank=BLANK, reduction="mean", **settings))


def test_rnnt_equals_torchaudio() -> None:
    from torchaudio.functional import rnnt_loss

    acts = activations()
    ours = portable()(acts, TARGETS, FRAMES, LABELS)
    lengths = (FRAMES.int(), LABELS.int())
    theirs = rnnt_loss(acts, TARGETS.int(), *lengths, blank=BLANK, reduction="none")
    assert torch.allclose(ours, theirs, atol=1e-5)
    gradients = [torch.autograd.grad(loss.sum(), acts)[0] for loss in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-5)


def paths(tokens: Tensor, durations: Tensor, steps: list[int], labels: list[int], t: int, u: int) -> Tensor:
    """Probability of writing ``labels[u:]`` from frame ``t`` on: the sum over all paths, by recursion."""
    if t >= len(tokens):
        return torch.tensor(float(t == len(tokens) and u == len(labels)), dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for number, step in enumerate(steps):
        moved = durations[t, u, number]
        if step and t + step <= len(tokens):
            total = total + tokens[t, u, BLANK] * moved * paths(tokens, durations, steps, labels, t + step, u)
        if u < len(labels) and t + step < len(tokens):  # the last move of every path is a blank
            total = total + tokens[t, u, labels[u]] * moved * paths(tokens, durations, steps, labels, t + step, u + 1)
    return total


@pytest.mark.parametrize(("steps", "sigma"), [([0, 1, 2, 3, 4], 0.0), ([0, 1], 0.05), ([0, 1, 2], 0.02)])
def test_tdt_equals_the_sum_over_all_paths(steps: list[int], sigma: float) -> None:
    acts = activations(len(steps))
    ours = portable(durations=steps, sigma=sigma)(acts, TARGETS, FRAMES, LABELS)
    for row in range(2):
        clip = acts[row, : FRAMES[row]].double()
        tokens = (clip[..., : BLANK + 1].log_softmax(-1) - sigma).exp()
        durations = clip[..., BLANK + 1 :].softmax(-1)
        expected = -paths(tokens, durations, steps, TARGETS[row, : LABELS[row]].tolist(), 0, 0).log()
        assert ours[row].item() == pytest.approx(expected.item(), rel=1e-5)


def test_tdt_grad_finite() -> None:
    """The same holds for a text that is longer than its frames."""
    acts = activations(5)
    loss = portable(durations=[0, 1, 2, 3, 4], sigma=0.02)(acts, TARGETS, torch.tensor([4, 1]), torch.tensor([2, 2]))
    (gradient,) = torch.autograd.grad(loss.sum(), acts)
    assert loss.isfinite().all() and gradient.isfinite().all()


def test_tdt_without_the_duration_0_is_refused() -> None:
    """Places that no path reaches have a NaN gradient."""
    with pytest.raises(ValueError, match="needs the duration 0"):
        portable(durations=[1, 2], sigma=0.0)


@pytest.mark.nemo
@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_reduction_matches_reference(kind: str) -> None:
    """The same reductions as NeMo's, whose kernel for RNNT runs on a CPU too."""
    from nemo.collections.asr.losses.rnnt import RNNTLoss

    from asr_lightning.adapters.nemo.losses import make_portable

    settings = {"durations": [0, 1, 2], "sigma": 0.02} if kind == "tdt" else {}
    acts = activations(3 if kind == "tdt" else 0)
    inputs = {"log_probs": acts, "targets": TARGETS, "input_lengths": FRAMES, "target_lengths": LABELS}
    rows = portable(**settings)(acts, TARGETS, FRAMES, LABELS)
    expected = {
        "mean_batch": rows.mean(),
        "mean": (rows / LABELS).mean(),
        "sum": rows.sum(),
        "mean_volume": rows.sum() / LABELS.sum(),
    }
    for reduction, value in expected.items():
        name = "tdt" if kind == "tdt" else "warprnnt_numba"
        loss = RNNTLoss(BLANK, reduction=reduction, loss_name=name, loss_kwargs=dict(settings) or None)
        if kind == "rnnt":
            assert loss(**inputs).item() == pytest.approx(value.item(), rel=1e-5), "NeMo's own kernel"
        make_portable(loss)
        assert loss(**inputs).item() == pytest.approx(value.item(), rel=1e-6)
