"""``specialize``: a folder of recordings in, a model and a report out. The short way; ``fit`` is the full one.

It makes a ``RunSpec`` and runs it, once for each seed; there is no second training path.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.run.spec import DEFAULT_MODEL, RunSpec, default_run_dir

if TYPE_CHECKING:
    from asr_lightning.run.seeds import Seed

STARTED = time.monotonic()


def parser() -> argparse.ArgumentParser:
    """The options of ``specialize``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning specialize",
        description="Specialize a model on a folder of recordings, and report whether it helped. Every option of fit "
        "can be added, such as --trainer.max_epochs 4.",
        allow_abbrev=False,
    )
    options.add_argument("data", type=Path, help="folder with <UID>.wav (or mp3, …) and <UID>.txt")
    options.add_argument("--model", default=DEFAULT_MODEL, help="a name of python -m asr_lightning models, or a folder")
    options.add_argument("--run_dir", type=Path, help="where everything goes; without it runs/<name of the folder>")
    options.add_argument("--language", help="of a multilingual model, such as de")
    options.add_argument("--budget", help="time for everything, such as 5m")
    options.add_argument("--canary", help="folder of other people's speech that must not suffer; bundled, or off")
    options.add_argument("--seed", type=int, default=0, help="another seed gives another run")
    seeds = "run that many, report the spread, keep the best on dev or the average of all"
    options.add_argument("--seeds", type=int, default=1, help=seeds)
    return options


def run(command: str, arguments: list[str]) -> int:
    """Specialize, and print what was found; returns the exit status."""
    options, more = parser().parse_known_args(arguments)
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {options.seeds}")
    spec = spec_of(options)
    if options.seeds > 1:
        return _run_seeds(spec, options.seeds, more)
    from asr_lightning.cli import lightning_cli

    outcome = lightning_cli.run(spec, more, STARTED).outcome
    if outcome is not None:
        print(outcome.summary)
    return 0


def spec_of(options: argparse.Namespace) -> RunSpec:
    """What the parsed ``options`` ask for."""
    return RunSpec(
        data=options.data,
        run_dir=options.run_dir or default_run_dir(options.data),
        model=options.model,
        language=options.language,
        seed=options.seed,
        budget=options.budget,
        canary=options.canary,
    )


def _run_seeds(spec: RunSpec, count: int, more: list[str]) -> int:
    """One run for each seed, in folders of their own; it has an outcome in the first process only."""
    from asr_lightning.cli import lightning_cli
    from asr_lightning.run.folder import refuse_place, set_aside
    from asr_lightning.run.seeds import Seed, average_of, best_of

    refuse_place(spec.run_dir, spec.data, spec.model)
    set_aside(spec.run_dir)
    found = []
    for seed in range(spec.seed, spec.seed + count):
        one = replace(spec, seed=seed, run_dir=spec.run_dir / f"seed-{seed}")
        ran = lightning_cli.run(one, more, STARTED if seed == spec.seed else time.monotonic())
        if ran.outcome is not None:
            found.append(Seed(seed, ran.finished, ran.choice, ran.outcome))
    if found:
        _show_spread(found, average_of(found, spec.run_dir / "average") or best_of(found), spec.run_dir)
    return 0


def _show_spread(found: list[Seed], kept: Seed, run_dir: Path) -> None:
    """Print and write the WER of every seed; the model and the report of the run ``kept`` go to the top."""
    from asr_lightning.scoring.comparison import write_json

    averaged = kept not in found
    print(f"\n{'seed':>7}{'dev after':>12}{'test before':>14}{'after':>9}{'cut':>8}{'alpha':>8}")
    for seed in [*found, *([kept] if averaged else [])]:
        outcome, name = seed.outcome, "average" if seed is kept and averaged else seed.number
        wer = outcome.test.wer
        print(
            f"{name:>7}{outcome.dev.wer.after:>12.1%}{wer.before:>14.1%}{wer.after:>9.1%}{wer.cut:>8.0%}"
            f"{outcome.alpha:>8g}"
        )
    after = [seed.outcome.test.wer.after for seed in found]
    print(f"\ntest WER {statistics.mean(after):.1%} on average, from {min(after):.1%} to {max(after):.1%}")
    for name in ("model", "report.html", "report.json", "report.md", "results.json"):
        source, target = kept.finished.run_dir / name, run_dir / name
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy2(source, target)
    seeds = {str(seed.number): seed.outcome.as_results() for seed in found}
    write_json(run_dir / "seeds.json", {"kept": "average" if averaged else kept.number, "seeds": seeds})
    why = f"the {kept.outcome.chosen}" if averaged else f"seed {kept.number}, the best on dev"
    print(f"kept: {why}\nmodel:   {run_dir / 'model'}\nreport:  {run_dir / 'report.html'}")
    print(f"\n{kept.outcome.verdict}")
