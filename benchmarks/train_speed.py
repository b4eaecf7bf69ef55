"""Compares training speed with Hugging Face's Seq2SeqTrainer at the predecessor's settings, on the sample data set.

Each side runs in a separate process, in the order A B B A, with the same clips, batch size and threads, encoder only,
float32. Run: ``python benchmarks/train_speed.py`` (about seven minutes on two cores). Quote the ratio of one run, since
machines differ and are noisy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

SOURCE = "openai/whisper-tiny.en"
CLIPS = Path(__file__).parents[1] / "examples" / "german_accent" / "clips"
WARMUP_STEPS = 1


def matmul_peak() -> float:
    """Measure the FLOP/s of float32 matrix products of 1024 x 1024 on this machine: the best of 20."""
    left, right = torch.randn(2, 1024, 1024)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best


def measurement(
    batch_size: int, step_seconds: list[float], flops_per_utterance: float, peak: float
) -> dict[str, float]:
    """Return the report of one process; the first steps are warm-up."""
    rate = batch_size / statistics.median(step_seconds[WARMUP_STEPS:])
    peak = max(peak, matmul_peak())
    return {"utterances_per_second": rate, "peak": peak, "share_of_peak": rate * flops_per_utterance / peak}


class StepClock:
    """Measures the seconds from the start of one step to the start of the next."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> None:
        """Note that a step starts."""
        self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Duration of each finished step."""
        return [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]


def data_module(adapter: Any, batch_size: int) -> Any:
    """Return a data module of the sample data set, without augmentation."""
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule

    return AudioFolderDataModule(str(CLIPS), batch_size=batch_size, collator=adapter.collator(), limits=adapter.limits)


def flops_of(step: Any, batch_size: int) -> float:
    """Count the FLOP per utterance of ``step``, padding included, with PyTorch's counter."""
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return counter.get_total_flops() / batch_size


def run_ours(steps: int, batch_size: int) -> dict[str, float]:
    """Train with this package: true-length audio in duration buckets."""
    from lightning.pytorch import Callback, Trainer, seed_everything

    from asr_lightning.adapters.whisper import WhisperAdapter
    from asr_lightning.callbacks.train_only import TrainOnly
    from asr_lightning.module import ASRModule

    class Clock(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.mark()

    seed_everything(0, verbose=False)
    peak, clock, adapter = matmul_peak(), StepClock(), WhisperAdapter(SOURCE)
    data = data_module(adapter, batch_size)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps + 1,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[TrainOnly(["encoder"]), Clock()],
        **quiet,
    )
    trainer.fit(ASRModule(adapter), data)
    batches = sorted(data.train_dataloader(), key=lambda batch: batch.inputs["waveforms"].shape[-1])
    middle = batches[len(batches) // 2]
    flops = flops_of(lambda: adapter.loss(middle).loss.backward(), len(middle))
    return measurement(len(middle), clock.seconds, flops, peak)


def run_peer(steps: int, batch_size: int) -> dict[str, float]:
    """Train with Hugging Face's trainer at the predecessor's settings.

    These are 30 s windows, AdamW at 1e-5, decoder and head frozen.
    """
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    from asr_lightning.adapters.whisper import WhisperAdapter

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.mark()

    peak, clock = matmul_peak(), StepClock()
    adapter = WhisperAdapter(SOURCE, context="window")  # for the weights and the features, which both sides share
    model, data = adapter.model, data_module(adapter, 1)
    data.setup("fit")
    rows = [peer_row(batch, adapter.features(batch)) for batch in data.loader("train")]
    model.model.decoder.requires_grad_(False)
    model.proj_out.requires_grad_(False)
    arguments = Seq2SeqTrainingArguments(
        output_dir="runs/benchmark-peer",
        per_device_train_batch_size=batch_size,
        learning_rate=1e-5,
        max_steps=steps + 1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Seq2SeqTrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=peer_batch, callbacks=[Clock()]
    )
    trainer.train()
    batch = peer_batch(rows[:batch_size])
    flops = flops_of(lambda: model(**batch).loss.backward(), batch_size)
    return measurement(batch_size, clock.seconds, flops, peak)


def peer_row(batch: Any, features: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return one utterance as the predecessor prepares it: features once, before training."""
    labels = torch.cat([batch.inputs["decoder_input_ids"][0, 1:], batch.targets[0, -1:]])
    return {"input_features": features[0], "labels": labels}


def peer_batch(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Collate rows as the Hugging Face course does: labels padded with -100."""
    labels = torch.nn.utils.rnn.pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=-100)
    return {"input_features": torch.stack([row["input_features"] for row in rows]), "labels": labels}


def measure(side: str, steps: int, batch_size: int) -> dict[str, float]:
    """Run one side in a fresh process, and return its report."""
    command = [sys.executable, __file__, "--side", side, "--steps", str(steps), "--batch_size", str(batch_size)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the {side} side failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def compare(peer_steps: int, our_steps: int, batch_size: int) -> None:
    """Run both sides in the order A B B A, and print the ratio of their medians."""
    results: dict[str, list[dict[str, float]]] = {"peer": [], "ours": []}
    for side in ("peer", "ours", "ours", "peer"):
        results[side].append(measure(side, peer_steps if side == "peer" else our_steps, batch_size))
        print(side, json.dumps(results[side][-1]), flush=True)
    median = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in results.items()
    }
    print(f"\nbatch size {batch_size}, {torch.get_num_threads()} threads, encoder only, float32")
    for side, name in (("peer", "Seq2SeqTrainer, 30 s window"), ("ours", "asr_lightning, true length")):
        rate, share = median[side]["utterances_per_second"], median[side]["share_of_peak"]
        print(f"{name:30}{rate:8.2f} utterances/s  {share:6.1%} of matrix-multiply peak, padding counted")
    print(f"ratio {median['ours']['utterances_per_second'] / median['peer']['utterances_per_second']:.1f}")


def main() -> None:
    """Parse the command line; a child process gets the side that it runs by ``--side``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["peer", "ours"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args()
    if options.side is None:
        compare(peer_steps=4, our_steps=22, batch_size=options.batch_size)
    else:
        run = run_peer if options.side == "peer" else run_ours
        print(json.dumps(run(options.steps, options.batch_size)))


if __name__ == "__main__":
    main()
