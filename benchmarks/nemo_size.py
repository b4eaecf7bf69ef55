"""Measures steps per second, memory, and decoding with and without CUDA graphs of NVIDIA's model sizes.

The shapes are real and the weights random, so nothing is downloaded. Trains the encoder on the sample clips (synthetic
speech), as the configurations in ``configs/models`` do. Run it on a CPU or a GPU, for one size or all:

    .venv-nemo/bin/python benchmarks/nemo_size.py fastconformer_ctc
    .venv-nemo/bin/python benchmarks/nemo_size.py --accelerator cuda --precision bf16-mixed
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CLIPS = ROOT / "examples" / "german_accent" / "clips"
WARMUP_STEPS = 2

LARGE = {"width": 512, "layers": 17, "encoder__subsampling_conv_channels": 256}
XLARGE = {"width": 1024, "layers": 24, "encoder__subsampling_conv_channels": 256, "preprocessor__features": 128,
          "encoder__feat_in": 128, "decoder__prednet__pred_rnn_layers": 2}  # fmt: skip
CONFORMER = {"encoder__n_heads": 8, "encoder__ff_expansion_factor": 4, "vocab_size": 1024}
TRANSDUCER = {
    f"{place}__{name}": 640
    for place in ("model_defaults", "joint__jointnet", "decoder__prednet")
    for name in (("pred_hidden",) if place == "decoder__prednet" else ("pred_hidden", "joint_hidden"))
}
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "fastconformer_ctc": ("ctc", CONFORMER | LARGE),
    "fastconformer_hybrid": ("hybrid", CONFORMER | LARGE | TRANSDUCER),
    "parakeet_tdt": ("tdt", CONFORMER | XLARGE | TRANSDUCER | {"joint__fuse_loss_wer": True}),
}


def main() -> None:
    """Measure each size in a separate process, so that the peak of memory is that of the size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", choices=[*SIZES, []], default=[])
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    if len(options.sizes) == 1:
        print(measure(options.sizes[0], options), flush=True)
        return
    for size in options.sizes or SIZES:
        subprocess.run([sys.executable, __file__, size, *sys.argv[1 + len(options.sizes) :]], check=True)


def measure(size: str, options: argparse.Namespace) -> str:
    """Measure ``size``, and return one line about it."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything

    from asr_lightning.callbacks.train_only import TrainOnly
    from asr_lightning.module import ASRModule
    from asr_lightning.training.devices import peak_memory_mb

    class Clock(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            if options.accelerator == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

    seed_everything(0, verbose=False)
    marks: list[float] = []
    adapter = load(size)
    data = data_module(adapter, options.batch_size)
    trainer = Trainer(
        accelerator=options.accelerator, devices=1, precision=options.precision, max_steps=options.steps + 1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, use_distributed_sampler=False, callbacks=[TrainOnly(["encoder"]), Clock()],
    )  # fmt: skip
    trainer.fit(ASRModule(adapter), data)
    steps = (len(marks) - 1 - WARMUP_STEPS) / (marks[-1] - marks[WARMUP_STEPS])
    memory = peak_memory_mb() / 1000
    parameters = sum(parameter.numel() for parameter in adapter.model.parameters())
    reading = ", ".join(f"{name} {rate:.1f}" for name, rate in decoding(adapter, data, options.accelerator).items())
    return (
        f"{size}: {parameters / 1e6:.0f} million parameters, batch {options.batch_size}, {options.accelerator}, "
        f"{options.precision}: {steps:.2f} steps/s, peak {memory:.1f} GB; utterances/s read: {reading}"
    )


def load(size: str) -> Any:
    """Load the adapter of ``size`` with random weights, from a ``.nemo`` file like any other."""
    from asr_lightning.adapters.nemo import NeMoAdapter
    from tests.tiny_nemo import PHRASES, tiny_nemo, write_tokenizer

    kind, shape = SIZES[size]
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.txt"  # the phrases alone have too few words for 1024 pieces
        texts.write_text(PHRASES.read_text() + (ROOT / "LICENSE").read_text() + (ROOT / "README.md").read_text())
        write_tokenizer(Path(folder) / "m-tokenizer", shape["vocab_size"], texts)
        return NeMoAdapter(str(tiny_nemo(Path(folder) / "m.nemo", kind, **shape)))


def data_module(adapter: Any, batch_size: int) -> Any:
    """Return a data module of the sample data set, without augmentation."""
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule

    return AudioFolderDataModule(str(CLIPS), batch_size=batch_size, collator=adapter.collator(), limits=adapter.limits)


def decoding(adapter: Any, data: Any, device: str) -> dict[str, float]:
    """Measure utterances per second over three batches of test clips, on a GPU with and without CUDA graphs."""
    import torch

    adapter.model.to(device)
    batches = [batch.to(device) for batch in list(data.loader("test"))[:3]]
    rates: dict[str, float] = {}
    for graphs in (False, True) if device == "cuda" else (False,):
        with adapter.evaluating():
            if not graphs:
                adapter._switch_cuda_graphs(False)
            for repeat in range(2):  # the first pass captures the graphs
                started = time.perf_counter()
                for batch in batches:
                    adapter.transcribe(batch)
                if device == "cuda":
                    torch.cuda.synchronize()
                if repeat:
                    rate = sum(map(len, batches)) / (time.perf_counter() - started)
                    rates["with CUDA graphs" if graphs else "without CUDA graphs"] = rate
    return rates


if __name__ == "__main__":
    main()
