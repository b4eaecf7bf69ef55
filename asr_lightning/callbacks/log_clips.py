"""Shows a few dev clips in TensorBoard: the sound once, reference and hypothesis after every validation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from asr_lightning.scoring.edits import Transcript
from asr_lightning.types import SpeechBatch


class LogClips(Callback):
    """Write sound and transcripts of the first dev clips.

    Args:
        tensorboard: The logger to write to.
        num_clips: Number of clips to write.
    """

    def __init__(self, tensorboard: TensorBoardLogger, num_clips: int = 4) -> None:
        self.tensorboard = tensorboard
        self.num_clips = num_clips
        self._transcripts: list[Transcript] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the sound of each clip once."""
        if not trainer.is_global_zero:
            return
        dataset = trainer.datamodule.dataset("dev")
        for index in range(min(self.num_clips, len(dataset))):
            utterance = dataset[index]
            self.tensorboard.experiment.add_audio(
                f"dev/{utterance.uid}", utterance.waveform[None], sample_rate=utterance.sample_rate
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SpeechBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the transcripts of this process's batches."""
        self._transcripts.extend(outputs["transcripts"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the transcripts of those clips that this process has scored."""
        chosen = {row.uid for row in trainer.datamodule.dataset("dev").rows[: self.num_clips]}
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING:
            for transcript in (t for t in self._transcripts if t.uid in chosen):
                text = f"reference: {transcript.reference}  \nhypothesis: {transcript.hypothesis}"
                self.tensorboard.experiment.add_text(f"dev/{transcript.uid}", text, trainer.global_step)
        self._transcripts.clear()
