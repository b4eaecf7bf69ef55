"""Stops training when dev WER has not improved for some validations: Lightning's own callback with other defaults."""

from __future__ import annotations

from lightning.pytorch.callbacks import EarlyStopping


class StopEarly(EarlyStopping):
    """Lightning's EarlyStopping on ``dev/wer``.

    Args:
        patience: How many validations (not epochs) may pass without an improvement. With two validations per epoch,
            6 of them are three epochs.
        min_delta: Smallest decrease of the WER, as a fraction, that counts as an improvement.
    """

    def __init__(self, patience: int = 6, min_delta: float = 0.0) -> None:
        super().__init__(
            monitor="dev/wer", mode="min", patience=patience, min_delta=min_delta, check_on_train_epoch_end=False
        )
