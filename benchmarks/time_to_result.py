"""Measures how much of a default run is training, for the first run on a data set and for the next one.

    python benchmarks/time_to_result.py [FOLDER] [--model NAME] [any option of specialize]

It runs ``specialize`` twice in fresh processes with a separate cache: the second run finds the texts that the untouched
model wrote for dev, test and canary. This takes about ten minutes on two cores for the sample data set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "examples/german_accent/clips"


def seconds_of(folder: Path, model: str, cache: Path, run_dir: Path, more: list[str]) -> dict[str, float]:
    """Do one run, and return its durations."""
    command = [sys.executable, "-m", "asr_lightning", "specialize", str(folder), "--model", model]
    environment = {**os.environ, "ASR_LIGHTNING_CACHE": str(cache)}
    subprocess.run([*command, "--run_dir", str(run_dir), *more], check=True, env=environment, stdout=subprocess.DEVNULL)
    cost: dict[str, float] = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))["cost"]
    return cost


def main() -> None:
    """Run twice, and print the durations of both runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--model", default="whisper-tiny.en")
    options, more = parser.parse_known_args()
    print(f"{'run':14}{'training':>10}{'checks':>9}{'the rest':>10}{'whole':>8}{'not training':>14}")
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("the first", "the next"):
            run_dir = Path(temporary) / name
            cost = seconds_of(options.folder, options.model, Path(temporary) / "cache", run_dir, more)
            training, checks, whole = (cost[f"{what}_seconds"] for what in ("train", "validation", "total"))
            rest = whole - training - checks
            share = 1 - training / whole
            print(f"{name:14}{training:>8.0f} s{checks:>7.0f} s{rest:>8.0f} s{whole:>6.0f} s{share:>14.0%}", flush=True)


if __name__ == "__main__":
    main()
