"""``specialize``: turn a folder of recordings into a model and a report. ``fit`` does the same with all options.

Both train in the same way; this one builds a ``RunSpec`` from a few options, and runs it once for each seed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cli.arguments import long_options
from asr_lightning.cli.stopping import RunStoppedError
from asr_lightning.errors import OptionError, require_training
from asr_lightning.run.spec import DEFAULT_MODEL, RunSpec, default_run_dir

if TYPE_CHECKING:
    from asr_lightning.run.seeds import Seed

STARTED = time.monotonic()


def parser() -> argparse.ArgumentParser:
    """The parser for ``specialize``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning specialize",
        description="Specialize a model on a folder of recordings, and report whether it helped. Every option of fit "
        "can be added, such as --trainer.max_epochs 4.",
        allow_abbrev=False,
    )
    options.add_argument("data", type=Path, help="folder with <UID>.wav (or mp3, …) and <UID>.txt")
    options.add_argument("--model", default=DEFAULT_MODEL, help="a name of python -m asr_lightning models, or a folder")
    options.add_argument("--run_dir", type=Path, help="folder for all results; default: runs/<name of the folder>")
    options.add_argument("--language", help="language of the recordings, such as de; for multilingual models only")
    options.add_argument("--budget", help="time for the whole run, such as 5m")
    options.add_argument("--canary", help="folder of other people's speech that must not suffer; bundled, or off")
    options.add_argument("--export", help="formats that the model is exported to, as in export --to: ctranslate2")
    options.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    seeds = "number of runs, each with another seed; the best on dev or the average of all is kept"
    options.add_argument("--seeds", type=int, default=1, help=seeds)
    return options


def run(command: str, arguments: list[str]) -> int:
    """Specialize a model, and print the results; returns the exit status."""
    options, fit_options = parser().parse_known_args(joined(arguments))
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {options.seeds}")
    require_training("specialize")
    spec = spec_of(options)
    if not any(option.startswith("--print_config") for option in fit_options):
        from asr_lightning.data.folder import list_audio

        list_audio(spec.data)  # before anything heavier is imported
    if options.seeds > 1:
        return _run_seeds(spec, options.seeds, fit_options)
    from asr_lightning.cli import lightning_cli

    runner = lightning_cli.run(spec, fit_options, STARTED)
    if runner.outcome is not None:
        print(runner.outcome.summary)
    if runner.exports is not None:
        print(f"\n{runner.exports.table}")
    return 0


def joined(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with the options of ``fit`` as ``--name=value``, so that they may also stand before the folder.

    Every option of ``fit`` has a value, except ``--print_config``. Without this, the parser, which does not know them,
    would take the first value for the folder.
    """
    ours = {name for action in parser()._actions for name in action.option_strings}
    result: list[str] = []
    left = iter(long_options(arguments))
    for argument in left:
        is_of_fit = argument.startswith("--") and "=" not in argument and argument not in ours
        if not is_of_fit or argument == "--print_config":
            result.append(argument)
            continue
        value = next(left, None)
        if value is None or value.startswith("--"):
            raise OptionError(f"{argument} needs a value, as in {argument} VALUE")
        result.append(f"{argument}={value}")
    return result


def spec_of(options: argparse.Namespace) -> RunSpec:
    """The run that the parsed ``options`` ask for."""
    return RunSpec(
        data=options.data,
        run_dir=options.run_dir or default_run_dir(options.data),
        model=options.model,
        language=options.language,
        seed=options.seed,
        budget=options.budget,
        canary=options.canary,
        export=options.export,
    )


def _run_seeds(spec: RunSpec, count: int, fit_options: list[str]) -> int:
    """Run each seed in a folder of its own. With several processes, only the first one gets the outcomes."""
    from asr_lightning.run.folder import refuse_place
    from asr_lightning.run.lock import RunLock

    if spec.export:
        raise OptionError(
            "--export goes with one run: leave it out here, and export what was kept afterwards: "
            f"python -m asr_lightning export {spec.run_dir} --to {spec.export}",
            "export",
        )
    refuse_place(spec.run_dir, spec.data, spec.model)
    with RunLock(spec.run_dir) as lock:
        lock.take(new=True)
        _run_each_seed(spec, count, fit_options)
    return 0


def _run_each_seed(spec: RunSpec, count: int, fit_options: list[str]) -> None:
    from asr_lightning.cli import lightning_cli
    from asr_lightning.run.seeds import Seed, average_of, best_of

    results = []
    for seed in range(spec.seed, spec.seed + count):
        seed_spec = replace(spec, seed=seed, run_dir=spec.run_dir / f"seed-{seed}")
        try:
            runner = lightning_cli.run(seed_spec, fit_options, STARTED if seed == spec.seed else time.monotonic())
        except RunStoppedError as stop:
            raise RunStoppedError(
                f"stopped at seed {seed}. {spec.run_dir} keeps the finished seeds, each a run of its own, but --seeds "
                "does not go on with them: the same command starts with the first seed, and renames this folder"
            ) from stop
        if runner.outcome is not None:
            results.append(Seed(seed, runner.finished, runner.choice, runner.outcome))
    if results:
        _show_spread(results, average_of(results, spec.run_dir / "average") or best_of(results), spec.run_dir)


def _show_spread(results: list[Seed], kept: Seed, run_dir: Path) -> None:
    """Print and write the WER of every seed, and copy the model and the report of ``kept`` to ``run_dir``."""
    from asr_lightning.scoring.comparison import write_readable_json

    averaged, out_of_fold = kept not in results, kept.outcome.is_out_of_fold
    measured = "out of fold" if out_of_fold else "test"
    print(f"\n{'seed':>7}{'dev after':>12}{f'{measured} before':>21}{'after':>9}{'cut':>8}{'alpha':>8}")
    for result in [*results, *([kept] if averaged else [])]:
        outcome, name = result.outcome, "average" if result is kept and averaged else result.number
        wer = outcome.test.wer
        print(
            f"{name:>7}{outcome.dev.wer.after:>12.1%}{wer.before:>21.1%}{wer.after:>9.1%}{wer.cut:>8.0%}"
            f"{outcome.alpha:>8g}"
        )
    after = [result.outcome.test.wer.after for result in results]
    print(f"\n{measured} WER {statistics.mean(after):.1%} on average, from {min(after):.1%} to {max(after):.1%}")
    for name in ("model", "report.html", "report.json", "report.md", "results.json"):
        source, target = kept.finished.run_dir / name, run_dir / name
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy2(source, target)
    seeds = {str(result.number): result.outcome.as_results() for result in results}
    write_readable_json(run_dir / "seeds.json", {"kept": "average" if averaged else kept.number, "seeds": seeds})
    choice = f"the {kept.outcome.chosen}" if averaged else f"seed {kept.number}, the best on dev"
    print(f"kept: {choice}\nmodel:   {run_dir / 'model'}\nreport:  {run_dir / 'report.html'}")
    if out_of_fold and not averaged:
        print("The figures of this seed are also those that it was chosen by, so expect the average of all seeds.")
    print(f"\n{kept.outcome.verdict}")
