"""Compares eager and compiled layers in training, with Whisper tiny.en on the sample data set.

Each run is a separate process, in the order A B B A, with the same batches, encoder only. The first compiled run starts
with an empty cache of kernels, the second with the cache of the first. The first step, in which everything is compiled,
is reported separately. Run: ``python benchmarks/compile.py`` (about seven minutes on two cores); CUDA is used if it is
available.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from train_speed import SOURCE, StepClock, data_module

WARMUP_STEPS = 3
"""Steps that are not counted. The first compiles everything, except for a batch of a single clip."""


class DeviceClock(StepClock):
    """A step clock that waits for the GPU before each mark."""

    def mark(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        super().mark()


def run(compiled: bool, steps: int, batch_size: int, mode: str) -> dict[str, Any]:
    """Train in this process, and report the durations of the first step, of later steps, and before the first."""
    from lightning.pytorch import Callback, Trainer, seed_everything

    from asr_lightning.adapters.whisper import WhisperAdapter
    from asr_lightning.callbacks.compile_layers import CompileLayers
    from asr_lightning.callbacks.train_only import TrainOnly
    from asr_lightning.module import ASRModule
    from asr_lightning.training.devices import resolve_precision

    class Clock(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.mark()

    seed_everything(0, verbose=False)
    clock, adapter = DeviceClock(), WhisperAdapter(SOURCE)
    trainer = Trainer(
        max_steps=steps + 1, precision=resolve_precision("auto"), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False,
        callbacks=[TrainOnly(["encoder"]), Clock(), CompileLayers(compiled, mode)],
    )  # fmt: skip
    started = time.perf_counter()
    trainer.fit(ASRModule(adapter), data_module(adapter, batch_size))
    later = clock.seconds[WARMUP_STEPS:]
    return {
        "setup": clock.marks[0] - started,
        "first": clock.seconds[0],
        "median": statistics.median(later),
        "longest": max(later),
        "device": str(trainer.strategy.root_device),
        "precision": trainer.precision,
    }


def compare(steps: int, batch_size: int, mode: str) -> None:
    """Run both sides in the order A B B A, and print the ratio of each pair."""
    runs: dict[str, list[dict[str, Any]]] = {"eager": [], "compiled": []}
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        for side in ("eager", "compiled", "compiled", "eager"):
            sizes = ["--steps", str(steps), "--batch_size", str(batch_size), "--mode", mode]
            command = [sys.executable, __file__, "--side", side, *sizes]
            result = subprocess.run(command, capture_output=True, text=True, env=environment)
            if result.returncode:
                raise RuntimeError(f"the {side} side failed:\n{result.stderr}")
            one = json.loads(result.stdout.splitlines()[-1])
            runs[side].append(one)
            print(
                f"{side:9}{1 / one['median']:6.2f} steps/s, longest step {one['longest']:.1f} s; "
                f"first step {one['first']:.1f} s, {one['setup']:.1f} s before it",
                flush=True,
            )
    ratios = [eager["median"] / fast["median"] for eager, fast in zip(runs["eager"], runs["compiled"], strict=True)]
    cold, warm = (one["setup"] + one["first"] for one in runs["compiled"])
    plain = statistics.mean(one["setup"] + one["first"] for one in runs["eager"])
    print(
        f"mode {mode}, batch size {batch_size}, {one['device']}, {one['precision']}, {torch.get_num_threads()} threads"
    )
    print(f"speed, compiled / eager: {ratios[0]:.2f} and {ratios[1]:.2f}")
    print(f"start-up more than eager: {cold - plain:.0f} s with an empty cache, {warm - plain:.0f} s with a full one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["eager", "compiled"], help="run only this side, in this process")
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--mode", default="default")
    options = parser.parse_args()
    sizes = (options.steps, options.batch_size, options.mode)
    if options.side is None:
        compare(*sizes)
    else:
        print(json.dumps(run(options.side == "compiled", *sizes)))


if __name__ == "__main__":
    main()
