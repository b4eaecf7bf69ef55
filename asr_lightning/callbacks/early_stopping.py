"""Stop when dev WER has not improved for some checks. Lightning's own callback with this project's defaults."""

from __future__ import annotations

from lightning.pytorch.callbacks import EarlyStopping


class StopEarly(EarlyStopping):
    """Lightning's EarlyStopping on ``dev/wer``.

    Args:
        patience: Checks without improvement, not epochs; with half-epoch validation six checks are three epochs.
        min_delta: Smallest fall of the WER, as a fraction, that counts.
    """

    def __init__(self, patience: int = 6, min_delta: float = 0.0) -> None:
        super().__init__(
            monitor="dev/wer", mode="min", patience=patience, min_delta=min_delta, check_on_train_epoch_end=False
        )
