"""How many clips are read after training, to choose the weights and to test them. Knows no model."""

from __future__ import annotations

from typing import NamedTuple

from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.datamodules.canary import SPOT_CHECK

DEV_PASSES = 7  # after training: two sets of weights, four steps towards the untouched model, one in reserve
CANARY_PASSES = 2  # in the mode of training: the weights that are best on dev, and one step towards the untouched model


class ScoringWork(NamedTuple):
    """Numbers of clips.

    Attributes:
        as_trained: Clips that are read as in training.
        native: Clips that are read natively, which may take much longer.
    """

    as_trained: float
    native: float

    def seconds(self, per_clip: float, per_clip_native: float) -> float:
        """The time for this work."""
        return self.as_trained * per_clip + self.native * per_clip_native


def work_after_training(data: AudioFolderDataModule, num_canary: int, untouched_known: bool = False) -> ScoringWork:
    """What is read after the training of all folds.

    Args:
        data: The data module of a run, or of one of its folds.
        num_canary: Number of clips in the canary.
        untouched_known: Whether the texts of the untouched model are known from an earlier run, or shipped.
    """
    dev, test = len(data.splits["dev"]) * data.fold.count, len(data.splits["test"])
    native = (test or dev) + num_canary / SPOT_CHECK  # without a test split, dev is read natively too
    if not untouched_known:
        native += test + num_canary
    return ScoringWork(DEV_PASSES * dev + test + CANARY_PASSES * num_canary, native)
