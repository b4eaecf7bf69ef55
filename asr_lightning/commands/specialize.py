"""``specialize``: a folder of recordings in, a model and a report out. The short way; ``fit`` is the full one.

It writes the options of ``fit`` and runs it, once for each seed; there is no second training path.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
DEFAULT_MODEL = "whisper-tiny.en"


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
    options.add_argument("--seeds", type=int, default=1, help="run that many, report the spread, keep the best on dev")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Specialize, and print what was found; returns the exit status."""
    options, more = parser().parse_known_args(arguments)
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {options.seeds}")
    run_dir = options.run_dir or Path("runs") / options.data.resolve().name
    if options.seeds == 1:
        return _show(_fit(options, more, options.seed, run_dir), run_dir)
    from asr_lightning.run_folder import set_aside

    set_aside(run_dir)
    seeds = range(options.seed, options.seed + options.seeds)
    found = {seed: _fit(options, more, seed, run_dir / f"seed-{seed}") for seed in seeds}
    results = {seed: result for seed, result in found.items() if result is not None}
    return _show_spread(results, run_dir) if results else 0


def fit_arguments(options: argparse.Namespace, more: list[str], seed: int, run_dir: Path) -> list[str]:
    """The command line of ``fit`` that does it."""
    given = {
        "--model.adapter.init_args.language": options.language,
        "--budget": options.budget,
        "--selection.canary": options.canary,
    }
    return [
        "fit", "--model", options.model, f"--data.audio_dir={options.data}", f"--run_dir={run_dir}",
        f"--seed_everything={seed}", f"--data.seed={seed}",
        *(f"{name}={value}" for name, value in given.items() if value is not None), *more,
    ]  # fmt: skip


def _fit(options: argparse.Namespace, more: list[str], seed: int, run_dir: Path) -> dict[str, Any] | None:
    """Results of one run; None on every process but the first."""
    from asr_lightning import cli

    started = STARTED if seed == options.seed else time.monotonic()
    return cli.main(fit_arguments(options, more, seed, run_dir), started).results


def _show(result: dict[str, Any] | None, run_dir: Path) -> int:
    from asr_lightning import results

    if result is not None:
        print(results.summary(result, run_dir))
    return 0


def _show_spread(found: dict[int, dict[str, Any]], run_dir: Path) -> int:
    """Print and write the WER of every seed; the model and the report of the best on dev go to the top."""
    from asr_lightning.results import write_json

    best = min(found, key=lambda seed: found[seed]["dev"]["wer"]["after"])
    print(f"\n{'seed':>6}{'dev after':>12}{'test before':>14}{'after':>9}{'cut':>8}{'alpha':>8}")
    for seed, result in found.items():
        wer = result["test"]["wer"]
        print(
            f"{seed:>6}{result['dev']['wer']['after']:>12.1%}{wer['before']:>14.1%}{wer['after']:>9.1%}"
            f"{1 - wer['after'] / max(wer['before'], 1e-9):>8.0%}{result['alpha']:>8g}"
        )
    after = [result["test"]["wer"]["after"] for result in found.values()]
    print(f"\ntest WER {statistics.mean(after):.1%} on average, from {min(after):.1%} to {max(after):.1%}")
    for name in ("model", "report.html", "report.json", "report.md", "results.json"):
        source, target = run_dir / f"seed-{best}" / name, run_dir / name
        shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy2(source, target)
    write_json(run_dir / "seeds.json", {"kept": best, "seeds": {str(seed): result for seed, result in found.items()}})
    print(f"kept: seed {best}, the best on dev\nmodel:   {run_dir / 'model'}\nreport:  {run_dir / 'report.html'}")
    print(f"\n{found[best]['verdict']}")
    return 0
