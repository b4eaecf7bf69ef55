import pytest

from asr_lightning.training import devices


@pytest.mark.parametrize(
    ("accelerator", "ampere", "precision"),
    [
        ("cuda", True, "bf16-mixed"),
        ("cuda", False, "16-mixed"),
        ("mps", False, "32-true"),
        ("cpu", False, "32-true"),
    ],
)
def test_precision_table(accelerator: str, ampere: bool, precision: str) -> None:
    """MPS supports no half precision and has no loss scaler; a CPU gains nothing from bfloat16."""
    assert devices.default_precision(accelerator, ampere) == precision


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_device_is_found_by_itself(cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: mps)
    assert devices.accelerator_in_use("auto") == expected
    assert devices.accelerator_in_use("cpu") == "cpu"


def test_peak_memory_is_in_megabytes() -> None:
    assert 50 < devices.peak_memory_mb() < 100_000
