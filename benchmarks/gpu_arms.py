"""The arms of ``gpu.py``: each trains in a separate process, which prints one line of JSON.

To add an arm, add a line to ``ARMS``.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flops import SHAPES, peak_of, training_flops

sys.path.insert(0, str(Path(__file__).parents[1]))


class Job(NamedTuple):
    """One process of one arm."""

    arm: str
    shape: str
    model: str
    clips: str
    device: str
    steps: int
    batch_size: int
    workers: int
    started: float = 0.0

    @property
    def warm_up(self) -> int:
        """Number of steps that are not counted: a tenth, which is one epoch of ten and has batches of every length."""
        return max(1, self.steps // 10)


class Watch:
    """Times the start and end of the first step, the end of warm-up and the end, and waits for the GPU only there."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.marks: list[float] = []
        self.batches: list[Any] = []
        self.ready = 0.0

    def starts(self) -> None:
        """Note that a step starts."""
        if not self.batches:
            self._mark()
            self.ready = time.time() - self.job.started

    def ends(self, clips: Any) -> None:
        """Note that a step over ``clips`` has ended, including the optimizer's part."""
        self.batches.append(clips)
        done = len(self.batches)
        for _ in range([1, self.job.warm_up, self.job.steps].count(done)):
            self._mark()

    def _mark(self) -> None:
        if self.job.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())

    def report(self, work: Callable[[Any], Sequence[float]]) -> dict[str, Any]:
        """Return the report of the process; ``work`` gives the FLOP of each clip of a step."""
        from asr_lightning.training.devices import peak_memory_mb

        start, first, warm, end = self.marks
        memory = peak_memory_mb()  # before the peak FLOP/s of the device is measured, which takes memory itself
        measured = [work(clips) for clips in self.batches[self.job.warm_up :]]
        peak, source = peak_of(self.job.device)
        return {
            "steps_per_second": len(measured) / (end - warm),
            "clips_per_second": sum(map(len, measured)) / (end - warm),
            "flops_per_second": sum(map(sum, measured)) / (end - warm),
            "first_step_seconds": first - start,
            "ready_seconds": self.ready,
            "warm_seconds": end - start,
            "cold_seconds": self.ready + end - start,
            "peak_memory_mb": memory,
            "peak": peak,
            "peak_source": source,
        }


def train_ours(job: Job, callbacks: Callable[[], list[Any]] = list) -> dict[str, Any]:
    """Train with the trainer of ``fit`` without validation: its options, the callbacks in a step, and curves."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything
    from lightning.pytorch.loggers import TensorBoardLogger

    from asr_lightning.adapters.whisper import WhisperAdapter
    from asr_lightning.callbacks.finite import FiniteGradients
    from asr_lightning.callbacks.train_only import TrainOnly
    from asr_lightning.cli.lightning_cli import TRAINER_DEFAULTS
    from asr_lightning.module import ASRModule
    from asr_lightning.training.devices import resolve_precision
    from asr_lightning.training.quiet import quieten

    class Clock(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            watch.starts()

        def on_train_batch_end(self, _: Any, __: Any, ___: Any, batch: Any, ____: Any) -> None:
            watch.ends(batch.uids)

    quieten()
    torch.set_float32_matmul_precision("high")  # as fit does
    seed_everything(0, verbose=False)
    watch, adapter = Watch(job), WhisperAdapter(job.model)
    data = data_module(adapter, job.clips, job.batch_size, job.workers)
    options = TRAINER_DEFAULTS | {"max_epochs": -1, "max_steps": job.steps, "limit_val_batches": 0}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            **options, accelerator=job.device, devices=1, precision=resolve_precision(job.device),
            enable_checkpointing=False, logger=TensorBoardLogger(folder),
            callbacks=[TrainOnly(["encoder"]), FiniteGradients(), *callbacks(), Clock()],
        )  # fmt: skip
        trainer.fit(ASRModule(adapter), data)
    work = work_of(job.shape, adapter, data)
    return watch.report(lambda uids: [work[uid] for uid in uids])


def train_peer(job: Job) -> dict[str, Any]:
    """Train with Hugging Face's trainer and the predecessor's settings, as in ``train_speed.py``."""
    import torch
    from train_speed import peer_batch
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    from asr_lightning.adapters.whisper import WhisperAdapter
    from asr_lightning.training.devices import resolve_precision

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.starts()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.ends(trainer.clips)

    class Noting(Seq2SeqTrainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            self.clips = inputs.pop("clip")  # on the GPU, so it is read only at the end
            return super().training_step(model, inputs, *rest)

    watch, adapter = Watch(job), WhisperAdapter(job.model, context="window")
    model, data = adapter.model, data_module(adapter, job.clips, 1)
    uids, rows = peer_rows(adapter, data)
    model.model.decoder.requires_grad_(False)
    model.proj_out.requires_grad_(False)
    half = {"bf16-mixed": {"bf16": True}, "16-mixed": {"fp16": True}}.get(resolve_precision(job.device), {})
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder, per_device_train_batch_size=job.batch_size, learning_rate=1e-5, max_steps=job.steps,
            save_strategy="no", report_to=[], use_cpu=job.device == "cpu", disable_tqdm=True, logging_strategy="no",
            remove_unused_columns=False, **half,
        )  # fmt: skip
        trainer = Noting(
            model=model, args=arguments, train_dataset=rows, callbacks=[Clock()],
            data_collator=lambda some: {"clip": torch.stack([row["clip"] for row in some]), **peer_batch(some)},
        )  # fmt: skip
        trainer.train()
    work = work_of(job.shape, adapter, data)
    return watch.report(lambda clips: [work[uids[number]] for number in clips.tolist()])


def peer_rows(adapter: Any, data: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the uids, and every clip as the predecessor prepares it: 30 s of features, once, before training."""
    import torch

    extractor, dataset = adapter.processor.feature_extractor, data.dataset("train")
    tokens, rows = tokens_of(adapter, data), []
    for number in range(len(dataset)):
        clip = dataset[number]
        features = extractor(clip.waveform.numpy(), sampling_rate=clip.sample_rate, return_tensors="pt").input_features
        labels = torch.tensor([*adapter.rules.prompt[1:], *tokens[clip.uid], adapter.rules.eos])
        rows.append({"clip": torch.tensor(number), "input_features": features[0], "labels": labels})
    return [row.uid for row in dataset.rows], rows


def host_time(job: Job) -> dict[str, Any]:
    """Measure the milliseconds in which Python issues one training step on ``job.device``.

    That is the meta device, or the CPU if the model is thin. Autocast, Lightning and the copy of the batch are not
    included, so a real step takes longer.
    """
    import torch

    from asr_lightning.adapters.whisper import WhisperAdapter
    from asr_lightning.training.groups import train_only

    torch.set_num_threads(1)
    adapter = WhisperAdapter(job.model)
    data = data_module(adapter, job.clips, job.batch_size)
    data.setup("fit")
    train_only(adapter, ["encoder"])
    adapter.model.to(job.device).train()
    batch = next(iter(data.train_dataloader())).to(job.device)
    # On the CPU one fused kernel, as on CUDA; the meta device has no fused kernel.
    way = "fused" if job.device == "cpu" else "foreach"
    optimizer = torch.optim.AdamW([p for p in adapter.model.parameters() if p.requires_grad], **{way: True})
    seconds = []
    for _ in range(job.steps):
        started = time.perf_counter()
        adapter.loss(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return {"ms": 1000 * statistics.median(seconds[job.warm_up :])}


class Arm(NamedTuple):
    """One way to train.

    Attributes:
        title: The name in the table.
        run: Function that trains, and returns the report.
    """

    title: str
    run: Callable[[Job], dict[str, Any]]


ARMS = {
    "peer": Arm("Seq2SeqTrainer, 30 s window", train_peer),
    "ours": Arm("asr_lightning, true length", train_ours),
    "compiled": Arm("asr_lightning, compiled", lambda job: train_ours(job, lambda: [compiled("default")])),
    "graphs": Arm("asr_lightning, CUDA graphs", lambda job: train_ours(job, lambda: [compiled("reduce-overhead")])),
}


def compiled(mode: str) -> Any:
    """Return the callback of ``--compile.enabled true --compile.mode MODE``."""
    from asr_lightning.callbacks.compile_layers import CompileLayers

    return CompileLayers(enabled=True, mode=mode)


def data_module(adapter: Any, clips: str, batch_size: int, workers: int = 0) -> Any:
    """Return a data module of the clips, without augmentation."""
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule

    options = {"collator": adapter.collator(), "limits": adapter.limits, "num_workers": workers}
    return AudioFolderDataModule(clips, batch_size, **options)


def tokens_of(adapter: Any, data: Any) -> dict[str, list[int]]:
    """Return the tokens of each training text, by uid."""
    tokenizer = adapter.processor.tokenizer
    return {
        row.uid: tokenizer(f" {row.text.strip()}", add_special_tokens=False).input_ids
        for row in data.dataset("train").rows
    }


def work_of(shape: str, adapter: Any, data: Any) -> dict[str, float]:
    """Return the FLOP of a training step by uid, at the true length of audio and text."""
    train, tokens = data.dataset("train"), tokens_of(adapter, data)
    return {
        row.uid: training_flops(SHAPES[shape], seconds, len(tokens[row.uid]))
        for row, seconds in zip(train.rows, train.seconds, strict=True)
    }


def main() -> None:
    """Run the job that the command line holds as JSON."""
    job = Job(**json.loads(sys.argv[1]))
    run = host_time if job.arm == "host" else ARMS[job.arm].run
    print(json.dumps(run(job)))


if __name__ == "__main__":
    main()
