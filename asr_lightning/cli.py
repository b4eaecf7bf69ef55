"""The command line of fit, validate and test: LightningCLI with this project's defaults and its results.

Knows which parts make a run; knows no model. Imports torch: ``__main__`` loads it only when a run starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from asr_lightning import folds, registry, saved
from asr_lightning.callbacks.average_steps import AverageSteps
from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.compile_layers import CompileLayers
from asr_lightning.callbacks.early_stopping import StopEarly
from asr_lightning.callbacks.finite import FiniteGradients
from asr_lightning.callbacks.half_epoch import HalfEpochValidation
from asr_lightning.callbacks.keep_best import KeepBest
from asr_lightning.callbacks.keep_last import KeepLast
from asr_lightning.callbacks.log_clips import LogClips
from asr_lightning.callbacks.progress import Progress
from asr_lightning.callbacks.time_budget import TimeBudget, seconds_of
from asr_lightning.callbacks.train_only import TrainOnly
from asr_lightning.canary import open_canary
from asr_lightning.checkpoints import CheckedCheckpoints
from asr_lightning.conclusion import Choice, Finished, choose, identity, report
from asr_lightning.data.folds import HELP, FoldCount
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.devices import peak_memory_mb
from asr_lightning.ends import End, ends_of_checks
from asr_lightning.module import ASRModule
from asr_lightning.precision import precision_of
from asr_lightning.protocols import ASRAdapter
from asr_lightning.quiet import quieten
from asr_lightning.results import Comparison, Result, write_json, write_pairs
from asr_lightning.run_folder import SaveConfig, last_checkpoint, loggers_of, run_dir_of, set_aside
from asr_lightning.selection import SelectionSettings
from asr_lightning.sharded import ShardedStrategy, disconnect, is_sharded

logger = logging.getLogger(__name__)

TRAINER_DEFAULTS = {
    "max_epochs": 10,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # the data module deals batches to ranks itself
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
DESCRIPTIONS = {
    "fit": "Specialize a model on an audio folder, and report WER before and after. The options most used: "
    "--model NAME (python -m asr_lightning models lists them), --config FILE, --data.audio_dir FOLDER, "
    "--run_dir FOLDER, --ckpt_path last to resume, --train_only.groups, --model.optimizer.lr, --trainer.max_epochs, "
    "--trainer.devices. Any option can stand in the configuration file.",
    "validate": "Dev WER of a finished run's model: --run_dir FOLDER is enough, its config.yaml is read.",
    "test": "WER on the test split, before and after, of a finished run: --run_dir FOLDER is enough.",
}


class ASRCLI(LightningCLI):
    """fit, validate and test over one run folder.

    Attributes:
        results: What ``fit`` or ``test`` found, for the caller to print; None on ranks other than 0.
        finished: The run of ``fit`` as it was when training was over.
        choice: What it hands over.
    """

    results: Result | None = None
    finished: Finished
    choice: Choice

    def __init__(self, started: float, more: Sequence[Callback] = (), log_clips: bool = True, **kwargs: Any) -> None:
        self._started = started
        self._more = tuple(more)
        self._log_clips = log_clips
        self._ends: tuple[End, ...] = ()  # of folds
        self._go_on = False  # with folds that an earlier start has finished
        self.progress, self.baseline = Progress(), BaselineWER()
        super().__init__(
            ASRModule,
            AudioFolderDataModule,
            save_config_callback=SaveConfig,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            **kwargs,
        )

    def _parse_ckpt_path(self) -> None:
        """Take no options from a checkpoint, as Lightning 2.6 would: its hash has not been checked here."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's names, less ``predict``: reading a folder needs no trainer."""
        kept = ("fit", "validate", "test")
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name in kept}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, the callbacks' options and the links between adapter and data."""
        parser.add_argument("--run_dir", type=str, default="runs/run", help="Folder for everything that a run writes.")
        parser.add_argument(
            "--wandb", type=Literal["off", "offline", "online"], default="off", help="Also log to Weights & Biases."
        )
        parser.add_argument("--budget", type=str | None, help="Time for all, such as 5m: epochs are fitted into it.")
        parser.add_argument("--bf16_on_cpu", type=bool, default=False, help="Steps in bfloat16 on CPUs that have it.")
        parser.add_argument("--folds", type=FoldCount, default="auto", help=HELP)
        parser.add_argument("--selection", type=SelectionSettings, default=SelectionSettings(), help="After training.")
        parser.add_lightning_class_args(TrainOnly, "train_only")
        parser.add_lightning_class_args(HalfEpochValidation, "half_epoch_validation")
        parser.add_lightning_class_args(StopEarly, "early_stopping")
        parser.add_lightning_class_args(AverageSteps, "average_steps")
        parser.add_lightning_class_args(CompileLayers, "compile")
        parser.link_arguments("run_dir", "data.run_dir")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("model", "data.collator", lambda model: model.adapter.collator(), "instantiate")
        parser.link_arguments("model", "data.limits", lambda model: model.adapter.limits, "instantiate")

    @property
    def options(self) -> Any:
        """The parsed options of this subcommand."""
        return self.config[self.subcommand]

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.options.run_dir)

    @property
    def model_dir(self) -> Path:
        """Where the run keeps its specialized model."""
        return self.run_dir / "model"

    def before_instantiate_classes(self) -> None:
        """Settle which run this is before anything heavy is loaded."""
        if self.subcommand == "fit":
            self._prepare_run()
        elif not self.model_dir.is_dir():
            raise ValueError(f"{self.run_dir} holds no model: run fit first, or name another --run_dir")
        elif self.subcommand == "validate":
            self.options.model.adapter.init_args.source = str(self.model_dir)
            if folds.finished(self.run_dir):
                logger.warning(
                    "this model was trained in folds, on the dev clips too: results.json has dev out of fold"
                )

    def _prepare_run(self) -> None:
        """Resume the run in ``run_dir``, or set an earlier one aside: nothing is overwritten."""
        if self.options.trainer.val_check_interval is not None:
            raise ValueError("trainer.val_check_interval has no effect here: set half_epoch_validation.half instead")
        args = self.options.model.adapter.init_args
        self.canary = open_canary(self.options.selection.canary, registry.language(args.source, args.get("language")))
        if self.options.ckpt_path == "last":
            self._go_on = bool(folds.finished(self.run_dir))
            self.options.ckpt_path = None if self._go_on else str(last_checkpoint(self.run_dir))
        registry.warn_of_licence(args.source)
        if self.options.ckpt_path is None and not self._go_on:
            set_aside(self.run_dir)
        elif self.options.ckpt_path and self.options.trainer.max_steps != -1:
            # Lightning 2.6 takes such a run for one that stopped inside an epoch, and counts one that it never trains.
            raise ValueError("a run with trainer.max_steps cannot be resumed exactly: add --trainer.max_steps=-1")

    def instantiate_trainer(self, part: str = "", **kwargs: Any) -> Trainer:
        """A trainer with the run's loggers and callbacks, and the precision of the device; ``part`` names its logs."""
        trainer = self.config_init[self.subcommand].trainer
        kwargs |= precision_of(str(trainer.accelerator), trainer.precision, self.options.bf16_on_cpu)
        kwargs["plugins"] += [*_listed(trainer.plugins), CheckedCheckpoints()]
        if trainer.strategy == ShardedStrategy.strategy_name:
            kwargs["strategy"] = ShardedStrategy()
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=False, **kwargs)
        tensorboard = TensorBoardLogger(self.run_dir, name="tensorboard", version=part)
        callbacks = [*self._more, *_listed(trainer.callbacks), *self._callbacks(tensorboard)]
        loggers = trainer.logger if trainer.logger not in (None, True) else loggers_of(tensorboard, self.options.wandb)
        return super().instantiate_trainer(logger=loggers, callbacks=callbacks, **kwargs)

    def _callbacks(self, tensorboard: TensorBoardLogger) -> list[Callback]:
        folder = self.run_dir / "checkpoints"
        self.best = KeepBest(folder / "best")
        last = KeepLast(folder, self.best)
        found = [self.baseline, FiniteGradients(), self.progress, self.best, last]
        if self._log_clips:
            found.append(LogClips(tensorboard))
        if self.options.budget is not None:
            num_canary = len(self.canary.references) if self.canary else 0
            found.append(TimeBudget(seconds_of(self.options.budget), self._started, num_canary))
        return found

    def adapter_from_source(self) -> ASRAdapter:
        """The untouched model, loaded again with the options of this run."""
        parser = ArgumentParser()
        parser.add_argument("--adapter", type=ASRAdapter)
        options = parser.parse_object({"adapter": self.options.model.adapter.as_dict()})
        return parser.instantiate_classes(options).adapter

    def fit(self, model: ASRModule, datamodule: AudioFolderDataModule, **kwargs: Any) -> None:
        """Train, once for each fold from the same weights."""
        if not (parts := folds.folds_of(self.options.folds, datamodule, self.trainer, bool(kwargs.get("ckpt_path")))):
            self.trainer.fit(model, datamodule=datamodule, **kwargs)
            return
        self.datamodule = self.baseline.data = folds.together(datamodule)
        end, self.trainer = folds.train(parts, model, self.instantiate_trainer, self.run_dir, self._go_on)
        self._ends = (end,)

    def after_fit(self) -> None:
        """Choose the weights, score the model as any user would load it, and write results and report, alone."""
        disconnect(self.trainer.strategy)
        if not self.trainer.is_global_zero:
            return
        assert self.baseline.dev is not None
        if not (sharded := is_sharded(self.model)):
            self.model.cpu()
        settings, averaged = self.config_init.fit.selection, self.config_init.fit.average_steps
        self.finished = Finished(
            run_dir=self.run_dir,
            model=self.options.model.adapter.init_args.source,
            seed=int(self.options.seed_everything),
            comparison=self._comparison(),
            settings=settings,
            canary=self.canary,
            # A part of a network is none: the weights of the best checks fit a fresh one.
            live=self.adapter_from_source() if sharded else self.model.adapter,
            source=self.adapter_from_source(),
            ends=self._ends or ends_of_checks(self.best, averaged, self.datamodule, settings.average),
            checks=() if self._ends else self.best.checks,
            base_dev=self.baseline.dev,
            cost=self._cost,
        )
        self.choice = choose(self.finished)
        self.results = report(self.finished, self.choice)

    def test(self, **kwargs: Any) -> None:
        """Score the run's model beside the untouched one on the test split, and write ``test.json``."""
        if not self.trainer.is_global_zero:
            return
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        base, compare = self.model.adapter, self._comparison()
        tested = compare.test(base, saved.load(self.model_dir))
        write_pairs(self.run_dir / "test_transcripts.csv", tested.pairs)
        model = self.options.model.adapter.init_args.source
        self.results = {**identity(model, base, compare, self.model_dir), **compare.rates_of(tested)}
        write_json(self.run_dir / "test.json", self.results)

    def _comparison(self) -> Comparison:
        return Comparison(self.datamodule, self.trainer.strategy.root_device, self.model.normalizer)

    def _cost(self) -> Result:
        return {
            "best_epoch": self.best.best[0].epoch if self.best.best else 0.0,
            **self.progress.cost(self.trainer.world_size),
            "total_seconds": time.monotonic() - self._started,
            "peak_memory_mb": peak_memory_mb(),
        }


def _listed(given: Any) -> list[Any]:
    """One or several of an option of the trainer, or none."""
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [given]


def main(
    arguments: Sequence[str],
    started: float | None = None,
    callbacks: Sequence[Callback] = (),
    log_clips: bool = True,
) -> ASRCLI:
    """Run one of fit, validate and test.

    Args:
        arguments: The command line after the program's name.
        started: ``time.monotonic()`` at the start of the process, for the run's total time.
        callbacks: Of the caller's own, called before all others while training.
        log_clips: Whether TensorBoard gets sound and text of some dev clips.
    """
    run_dir = run_dir_of(arguments)
    recorded = [str(run_dir / "config.yaml")] if run_dir else []
    kwargs: dict[str, Any] = {
        name: {"usage": f"python -m asr_lightning {name} [options]", "description": description}
        for name, description in DESCRIPTIONS.items()
    }
    for name in ("validate", "test"):
        kwargs[name]["default_config_files"] = recorded
    quieten()
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it; no effect on a CPU
    return ASRCLI(
        started or time.monotonic(), callbacks, log_clips, args=registry.expand(arguments), parser_kwargs=kwargs
    )
