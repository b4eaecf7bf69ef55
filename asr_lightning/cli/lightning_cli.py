"""The command line of fit, validate and test: LightningCLI with the defaults and the results of this project.

It puts together the parts of a run. It imports torch, so ``__main__`` imports it only when a run starts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from asr_lightning.adapters import old_names, registry, saved
from asr_lightning.callbacks.average_steps import AverageSteps
from asr_lightning.callbacks.compile_layers import CompileLayers
from asr_lightning.callbacks.early_stopping import StopEarly
from asr_lightning.callbacks.half_epoch import HalfEpochValidation
from asr_lightning.callbacks.train_only import TrainOnly
from asr_lightning.cli import finished_model, finished_run, stopping, usage_errors
from asr_lightning.cli.arguments import long_options, with_model, with_off, with_off_in_files, with_plan
from asr_lightning.cli.help_pages import DESCRIPTIONS
from asr_lightning.data.folder import list_audio
from asr_lightning.data.folds import HELP, TEST_HELP, FoldCount, TestOn
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.errors import OptionError
from asr_lightning.module import ASRModule
from asr_lightning.protocols import ASRAdapter
from asr_lightning.run.config_text import write_names_in_quotes
from asr_lightning.run.folder import SaveConfig, loggers_of, write_anew
from asr_lightning.run.outcome import Scores
from asr_lightning.run.runner import Runner
from asr_lightning.run.selection import SelectionSettings
from asr_lightning.run.spec import RunSpec
from asr_lightning.scoring.comparison import Comparison, rates_of, write_pairs, write_readable_json
from asr_lightning.training.checkpoints import VerifiedCheckpoints
from asr_lightning.training.devices import matmul_precision
from asr_lightning.training.precision import precision_options
from asr_lightning.training.quiet import quiet
from asr_lightning.training.sharded import ShardedStrategy

TRAINER_DEFAULTS = {
    "max_epochs": 10,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # the data module divides the batches among the ranks itself
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class ASRCLI(LightningCLI):
    """Parses the options of fit, validate and test, builds the objects that they describe, and runs the command.

    Args:
        started: ``time.monotonic()`` at the start of the process.
        callbacks: Callbacks of the caller, which are called before all others during training.
        log_clips: Whether TensorBoard gets the sound and the text of some dev clips.
        more: Options of ``fit`` from a command line, in addition to a ``RunSpec``.
        kwargs: Arguments of ``LightningCLI``.

    Attributes:
        runner: Carries out ``fit``.
        scores: Results of ``test``; None on ranks other than 0.
    """

    runner: Runner
    scores: Scores | None = None

    def __init__(
        self,
        started: float,
        callbacks: Sequence[Callback] = (),
        log_clips: bool = True,
        more: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        self._runner_options = (started, tuple(callbacks), log_clips)
        self._more = long_options(more)
        super().__init__(
            ASRModule,
            AudioFolderDataModule,
            save_config_callback=SaveConfig,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            **kwargs,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Take the options from a command line, or from a ``RunSpec`` and the options typed in addition to it.

        Raises:
            OptionError: There is no such option, or a value does not fit it.
        """
        try:
            self._parse(parser, args)
        except ArgumentError as error:
            command = "specialize" if isinstance(args, RunSpec) else args[0]
            known = [action.dest for action in self._subcommand_parsers["fit"]._actions]
            raise OptionError(usage_errors.readable(error.message, command, known)) from error

    def _parse(self, parser: LightningArgumentParser, args: Any) -> None:
        if not isinstance(args, RunSpec):
            super().parse_arguments(parser, old_names.renamed_arguments(with_off_in_files(args)))
            return
        fit, plan = self._subcommand_parsers["fit"], args.plan()
        adapter = plan.asked["model"]["adapter"]
        kind = saved.adapter_named(adapter["class_path"], args.model)
        registry.require_options(args.model, kind, ["language"] if args.language is not None else [])
        if self._more:
            options = fit.parse_args(old_names.renamed_arguments(with_off_in_files(with_plan(plan, self._more))))
        else:
            options = fit.parse_object(old_names.renamed_options(with_off(plan.options)))
        if any(option.startswith("--print_config") for option in self._more):  # the parser of a subcommand ignores it
            sys.stdout.write(fit.dump(options))
            sys.exit(0)
        self.config = Namespace(subcommand="fit", fit=options)

    def _parse_ckpt_path(self) -> None:
        """Do nothing. Lightning 2.6 would read options from the checkpoint here, whose hash is verified only later."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's subcommands without ``predict``, which needs no trainer here."""
        names = ("fit", "validate", "test")
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name in names}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run and of its callbacks, and the links between adapter and data."""
        parser.add_argument("--run_dir", type=str, default="runs/run", help="Folder for everything that a run writes.")
        parser.add_argument(
            "--wandb", type=Literal["off", "offline", "online"], default="off", help="Also log to Weights & Biases."
        )
        parser.add_argument("--budget", type=str | None, help="Time for the whole run, such as 5m; limits its epochs.")
        parser.add_argument("--export", type=str | None, help="Formats that the model is exported to at the end.")
        parser.add_argument("--bf16_on_cpu", type=bool, default=False, help="Train in bfloat16 on CPUs that have it.")
        parser.add_argument("--folds", type=FoldCount, default="auto", help=HELP)
        parser.add_argument("--test_on", type=TestOn, default="auto", help=TEST_HELP)
        parser.add_argument(
            "--selection", type=SelectionSettings, default=SelectionSettings(), help="Choice of the final weights."
        )
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
        """The parsed options of the subcommand."""
        return self.config[self.subcommand]

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        return Path(self.options.run_dir)

    @property
    def model_dir(self) -> Path:
        """The folder of the run's specialized model."""
        return self.run_dir / "model"

    def before_instantiate_classes(self) -> None:
        """Prepare the run, or refuse it, before anything heavy is loaded."""
        general = {self.options.data.replay} - {"off", "bundled"} if self.subcommand == "fit" else ()
        for folder in (self.options.data.audio_dir, *general):
            list_audio(Path(folder).expanduser())
        if self.subcommand == "fit":
            self._resumed = bool(self.options.ckpt_path)
            self.runner = Runner(self.options, *self._runner_options)
            self.runner.prepare()
            self.options.ckpt_path = self.runner.ckpt_path
        else:
            finished_model.prepare(str(self.subcommand), self.options, self.run_dir)

    def instantiate_trainer(self, part: str = "", **kwargs: Any) -> Trainer:
        """A trainer with the run's loggers and callbacks, and a precision for the device; ``part`` names its logs."""
        trainer = self.config_init[self.subcommand].trainer
        kwargs |= precision_options(str(trainer.accelerator), trainer.precision, self.options.bf16_on_cpu)
        kwargs["plugins"] += [*_as_list(trainer.plugins), VerifiedCheckpoints()]
        if trainer.strategy == ShardedStrategy.strategy_name:
            kwargs["strategy"] = ShardedStrategy()
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=False, **kwargs)
        tensorboard = TensorBoardLogger(self.run_dir, name="tensorboard", version=part)
        callbacks = [*self.runner.own_callbacks, *_as_list(trainer.callbacks), *self.runner.callbacks(tensorboard)]
        loggers = trainer.logger if trainer.logger not in (None, True) else loggers_of(tensorboard, self.options.wandb)
        try:
            return super().instantiate_trainer(logger=loggers, callbacks=callbacks, **kwargs)
        except MisconfigurationException as error:  # such as a device that is not there
            raise OptionError(f"{error}: set --trainer.accelerator auto, or cpu", "accelerator") from error

    def adapter_from_source(self) -> ASRAdapter:
        """Load the untouched model again, with the options of this run."""
        parser = ArgumentParser()
        parser.add_argument("--adapter", type=ASRAdapter)
        options = parser.parse_object({"adapter": self.options.model.adapter.as_dict()})
        return parser.instantiate_classes(options).adapter

    def fit(self, model: ASRModule, datamodule: AudioFolderDataModule, **kwargs: Any) -> None:
        """Train once, or once for each fold from the same weights."""
        with stopping.explained(self.run_dir, self._resumed):
            self.runner.train(model, datamodule, self.trainer, self.instantiate_trainer, **kwargs)

    def after_fit(self) -> None:
        """Choose the final weights, test them and write the report."""
        options = self.config_init.fit
        with stopping.explained(self.run_dir, resumed=True):
            self.runner.conclude(options.selection, options.average_steps, self.adapter_from_source)

    def test(self, **kwargs: Any) -> None:
        """Score the run's model and the untouched one on the test split, and write ``test.json``."""
        if not self.trainer.is_global_zero:
            return
        self.datamodule.prepare_data()
        self.datamodule.setup("test")
        base, device = self.model.adapter, self.trainer.strategy.root_device
        compare = Comparison(self.datamodule, device, self.model.normalizer)
        tested = compare.test(base, saved.load(self.model_dir))
        write_anew(self.run_dir / "test_transcripts.csv", partial(write_pairs, pairs=tested.pairs))
        self.scores = Scores(
            run_dir=self.run_dir,
            model=self.options.model.adapter.init_args.source,
            source=base.source,
            normalizer=compare.normalizer,
            clips=compare.clips,
            test=rates_of(tested.pairs, compare.normalize),
            native=rates_of(tested.native or tested.pairs, compare.normalize).wer,
        )
        write_anew(self.run_dir / "test.json", partial(write_readable_json, content=self.scores.as_results()))


def _as_list(value: Any) -> list[Any]:
    """The value of a trainer's option as a list: it may be one object, several of them, or None."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def main(arguments: Sequence[str], started: float | None = None) -> ASRCLI:
    """Run one of fit, validate and test.

    Args:
        arguments: The command line after the program's name.
        started: ``time.monotonic()`` at the start of the process, for the run's total time.
    """
    arguments = finished_run.with_folder(long_options(arguments))
    command, *options = with_model(arguments)
    return _cli([command, *finished_run.recorded_options(arguments), *options], started or time.monotonic())


def run(
    spec: RunSpec,
    more: Sequence[str] = (),
    started: float | None = None,
    callbacks: Sequence[Callback] = (),
    log_clips: bool = True,
) -> Runner:
    """Carry out the run that ``spec`` describes.

    Args:
        spec: The run.
        more: Further options of ``fit``, as on a command line; they override ``spec``.
        started: ``time.monotonic()`` at the start of the process, for the run's total time.
        callbacks: Callbacks of the caller, which are called before all others during training.
        log_clips: Whether TensorBoard gets the sound and the text of some dev clips.

    Raises:
        ValueError: There is no such model or option, a value is not valid, or the recordings cannot be used.
    """
    return _cli(spec, started or time.monotonic(), callbacks, log_clips, more).runner


def _cli(run_options: Sequence[str] | RunSpec, *options: Any) -> ASRCLI:
    kwargs: dict[str, Any] = {
        name: {"usage": f"python -m asr_lightning {name} [options]", "description": description}
        for name, description in DESCRIPTIONS.items()
    }
    write_names_in_quotes()
    with quiet(), matmul_precision("high"):
        return ASRCLI(*options, args=run_options, parser_kwargs={**kwargs, "exit_on_error": False})
