"""Carries out one run of ``fit``: training, in folds if wanted, the choice of the weights, the test and the report.

Every entry uses it, and there is no second training path. Knows the adapter contract and no model.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from asr_lightning.adapters import registry
from asr_lightning.callbacks.average_steps import AverageSteps
from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.finite import FiniteGradients
from asr_lightning.callbacks.keep_best import KeepBest
from asr_lightning.callbacks.keep_last import KeepLast
from asr_lightning.callbacks.log_clips import LogClips
from asr_lightning.callbacks.progress import Progress, minutes
from asr_lightning.callbacks.time_budget import TimeBudget, seconds_of
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.datamodules.canary import open_canary
from asr_lightning.errors import OptionError
from asr_lightning.export.run import Exports, export, require_formats
from asr_lightning.export.source import family_of, find
from asr_lightning.module import ASRModule
from asr_lightning.protocols import ASRAdapter
from asr_lightning.run import evidence, folds
from asr_lightning.run.conclusion import Choice, Finished, choose, report
from asr_lightning.run.ends import End, ends_of_validations
from asr_lightning.run.folder import last_checkpoint, refuse_place
from asr_lightning.run.lock import RunLock
from asr_lightning.run.outcome import Cost, Outcome
from asr_lightning.run.selection import SelectionSettings
from asr_lightning.runtime import formats
from asr_lightning.scoring.comparison import Comparison
from asr_lightning.training.devices import peak_memory_mb
from asr_lightning.training.sharded import disconnect, is_sharded

logger = logging.getLogger(__name__)


class Runner:
    """One run, from its options to its outcome.

    Args:
        options: The resolved options of ``fit``.
        started: ``time.monotonic()`` at the start of the process.
        callbacks: The caller's own callbacks, called before all others during training.
        log_clips: Whether the audio and transcripts of some dev clips are logged to TensorBoard.

    Attributes:
        ckpt_path: Checkpoint that training is resumed from; None for a new run.
        outcome: The result; None until the run is over, and in processes other than the first.
        finished: The run after training.
        choice: The weights that were chosen.
        exports: What was exported; None if nothing was asked for, and until the run is over.
    """

    def __init__(
        self, options: Namespace, started: float, callbacks: Sequence[Callback] = (), log_clips: bool = True
    ) -> None:
        self.options = options
        self.run_dir = Path(options.run_dir)
        self.ckpt_path: str | None = options.ckpt_path
        self.outcome: Outcome | None = None
        self.exports: Exports | None = None
        self.finished: Finished
        self.choice: Choice
        self.baseline = BaselineWER()
        self.progress = Progress(self.baseline)
        self._lock = RunLock(self.run_dir)
        self._started = started
        self.own_callbacks = tuple(callbacks)
        self._log_clips = log_clips
        self._ends: tuple[End, ...] = ()  # of folds
        self._go_on = False  # with folds that an earlier start has finished

    def prepare(self) -> None:
        """Settle which run this is, before anything heavy is loaded: a new one, or the one in ``run_dir`` resumed.

        Raises:
            ValueError: Options contradict each other, or there is nothing to resume.
        """
        if self.options.trainer.val_check_interval is not None:
            raise ValueError(
                "--trainer.val_check_interval has no effect here: set --half_epoch_validation.half instead"
            )
        self._lock.refuse_if_held()
        if self.options.export:
            model = self.options.model.adapter.init_args.source
            require_formats(formats.parse(self.options.export), family_of(model), model)
        args = self.options.model.adapter.init_args
        self.canary = open_canary(self.options.selection.canary, registry.language(args.source, args.get("language")))
        self.progress.num_canary = len(self.canary.references) if self.canary else 0
        if self.ckpt_path == "last":
            self._go_on = self.options.folds != "off" and bool(folds.finished(self.run_dir))
            self.ckpt_path = None if self._go_on else str(last_checkpoint(self.run_dir))
        registry.warn_of_licence(args.source)
        if self.ckpt_path is None and not self._go_on:
            refuse_place(self.run_dir, Path(self.options.data.audio_dir), args.source)
        elif self.ckpt_path and self.options.trainer.max_steps != -1:
            # Lightning 2.6 takes such a run for one that stopped inside an epoch, and counts one that it never trains.
            raise ValueError("a run with --trainer.max_steps cannot be resumed exactly: add --trainer.max_steps=-1")
        logger.info("plan: %s", self.plan)

    @property
    def plan(self) -> str:
        """The main options in one line; ``config.yaml`` has all of them."""
        options = self.options
        return (
            f"{options.trainer.max_epochs} epochs, learning rate {options.model.optimizer.lr:g}, batches of "
            f"{options.data.batch_size}, training {' and '.join(options.train_only.groups)}, folds {options.folds}, "
            f"seed {options.seed_everything}"
        )

    def callbacks(self, tensorboard: TensorBoardLogger) -> list[Callback]:
        """Callbacks for one trainer. The progress and the validation before training are shared by the whole run."""
        folder = self.run_dir / "checkpoints"
        self.best = KeepBest(folder / "best")
        last = KeepLast(folder, self.best)
        callbacks: list[Callback] = [self.baseline, FiniteGradients(), self.progress, self.best, last]
        if self._log_clips:
            callbacks.append(LogClips(tensorboard))
        if self.options.budget is not None:
            callbacks.append(TimeBudget(seconds_of(self.options.budget), self._started, self.progress.num_canary))
        return callbacks

    def train(
        self,
        module: ASRModule,
        data: AudioFolderDataModule,
        trainer: Trainer,
        make_trainer: Callable[[str], Trainer],
        **kwargs: Any,
    ) -> None:
        """Train once with ``trainer``, or once for each fold from the same weights. An earlier run is set aside.

        Args:
            module: The module to train.
            data: The data module with all recordings.
            trainer: Trainer for a run without folds.
            make_trainer: Makes the trainer of a fold; its argument names the folder of the logs.
            kwargs: Further arguments of ``Trainer.fit``.
        """
        self.module, self.data, self.trainer = module, data, trainer
        try:
            self._train(make_trainer, **kwargs)
        except BaseException:
            self._lock.release()
            raise

    def _train(self, make_trainer: Callable[[str], Trainer], **kwargs: Any) -> None:
        data, trainer, options = self.data, self.trainer, self.options
        is_new = self.ckpt_path is None and not self._go_on
        obstacle = folds.obstacle(trainer, self.ckpt_path is not None)
        evidence.settle(options.test_on, options.folds, data, obstacle, is_new)
        if is_new:
            _inspect(data)
        self._lock.take(is_new)  # only now: a run that lacks its model, device or recordings moves nothing
        parts = folds.folds_of(options.folds, data, obstacle)
        if parts:
            self.data = self.baseline.data = folds.together(data)
        min_probability = options.selection.min_probability
        for doubt in evidence.doubts(self.data.splits, options.folds, min_probability, obstacle):
            logger.warning(doubt)
        if not parts:
            trainer.fit(self.module, datamodule=data, **kwargs)
            return
        end, self.trainer = folds.train(parts, self.module, make_trainer, self.run_dir, self._go_on)
        self._ends = (end,)

    def conclude(
        self, settings: SelectionSettings, averaged: AverageSteps, make_source: Callable[[], ASRAdapter]
    ) -> None:
        """Choose the weights, test the model as a user would load it, and write results and report, in one process.

        Args:
            settings: How the weights are chosen.
            averaged: The callback that has averaged training steps.
            make_source: Loads the untouched model.

        Raises:
            OptionError: The options left nothing to train.
        """
        try:
            self._conclude(settings, averaged, make_source)
        finally:
            self._lock.release()

    def _conclude(
        self, settings: SelectionSettings, averaged: AverageSteps, make_source: Callable[[], ASRAdapter]
    ) -> None:
        disconnect(self.trainer.strategy)
        if not self.trainer.is_global_zero:
            return
        if self.baseline.dev is None:
            raise OptionError(
                "nothing was trained: set --trainer.max_epochs 1 or more, and leave out --trainer.max_steps 0"
            )
        if not (sharded := is_sharded(self.module)):
            self.module.cpu()
        self.finished = Finished(
            run_dir=self.run_dir,
            model=self.options.model.adapter.init_args.source,
            seed=int(self.options.seed_everything),
            comparison=Comparison(self.data, self.trainer.strategy.root_device, self.module.normalizer),
            settings=settings,
            canary=self.canary,
            # A process holds a part of a sharded network: the weights of the best validations fit a fresh one.
            live=make_source() if sharded else self.module.adapter,
            source=make_source(),
            ends=self._ends or ends_of_validations(self.best, averaged, self.data, settings.average),
            validations=() if self._ends else self.best.validations,
            base_dev=self.baseline.dev,
            cost=self._cost,
            can_choose_again=self._log_clips,  # a job's folder is out of reach for the person who reads its report
        )
        logger.info("training is over; dev and the canary choose the weights: %s", self._time_left())
        self.choice = choose(self.finished)
        self.outcome = report(self.finished, self.choice)
        if self.options.export:
            self.exports = export(find(str(self.run_dir)), formats.parse(self.options.export))

    def _time_left(self) -> str:
        """The time of what follows training; a run that was resumed after training has measured none."""
        seconds = self.progress.seconds_after
        return f"at most {minutes(seconds)} left, test and report included" if seconds else "test and report follow"

    def _cost(self) -> Cost:
        return Cost(
            best_epoch=self.best.best[0].epoch if self.best.best else 0.0,
            **self.progress.cost(self.trainer.world_size),
            total_seconds=time.monotonic() - self._started,
            peak_memory_mb=peak_memory_mb(),
        )


def _inspect(data: AudioFolderDataModule) -> None:
    """Refuse recordings that cannot be used, before the folder of an earlier run is renamed."""
    if os.access(data.audio_dir, os.W_OK):
        data.prepare_data()
        data.setup("fit")
    else:
        data.inspect()  # the split of such a folder is written to the run folder, so it must come later
