"""Measures steps per second and memory of the families that need no NeMo; with --length, the cost of a clip.

The shapes are real and the weights random, so nothing is downloaded. Trains the encoder on the sample clips (synthetic
speech), each model in a separate process. Without names, it measures one model of each family:

    .venv/bin/python benchmarks/families.py
    .venv/bin/python benchmarks/families.py moonshine-base parakeet-tdt-0.6b-v3

``--length`` compares Moonshine tiny, which takes audio at its true length, with Whisper tiny.en at true length and in
its window of 30 s, for clips of 1 to 30 s: an encoder-only training step and a transcription, including features. Times
are medians of repeats in the order A B C, of one run: machines differ and are noisy. Float operations do not depend on
the machine, and are counted as PyTorch counts them, without the features.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SAMPLE = ROOT / "examples" / "german_accent"
WARMUP_STEPS = 2
NUM_PIECES = 1000
"""Vocabulary of the tokenizers. With letters alone, a transcript would have three times as many tokens, and a joint
network would need three times the memory."""

LENGTHS = (1, 3, 10, 30)
LENGTH_BATCH = 4
WORDS_PER_SECOND = 2.5
TOKENS_PER_SECOND = 4.0
"""Limit of decoded tokens, besides 8 for every clip. Random weights never stop, so all decode exactly this many."""

Shape = dict[str, Any]


def both(**values: Any) -> Shape:
    """Give encoder and decoder the same values."""
    return {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in values.items()}


def whisper(width: int, layers: int, heads: int) -> tuple[str, Shape]:
    """Kind and changes of the configuration that tiny_whisper writes."""
    sides = both(layers=layers, attention_heads=heads, ffn_dim=4 * width)
    return "whisper", {"d_model": width, "init_std": 0.02, **sides}


def moonshine(width: int, layers: int, rotary: float) -> tuple[str, Shape]:
    """Kind and changes of the configuration that tiny_moonshine writes, first generation."""
    sides = both(num_hidden_layers=layers, num_attention_heads=8)
    own = {"partial_rotary_factor": rotary, "pad_head_dim_to_multiple_of": 8, "initializer_range": 0.02}
    return "moonshine", {"hidden_size": width, "intermediate_size": 4 * width, "vocab_size": 32768, **own, **sides}


def streaming(encoder: int, decoder: int, layers: int, heads: int) -> tuple[str, Shape]:
    """Kind and changes of the configuration that tiny_moonshine writes, second generation."""
    common = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads}
    common["head_dim"] = decoder // heads
    windows = [[16, 4] if layer in (0, 1, layers - 2, layers - 1) else [16, 0] for layer in range(layers)]
    inner = {"hidden_size": encoder, "intermediate_size": 4 * encoder, "sliding_windows": windows, **common}
    outer = {"hidden_size": decoder, "intermediate_size": 4 * decoder, "vocab_size": 32768, **common}
    return "moonshine-streaming", {"encoder_config": inner, **outer}


def wav2vec2(kind: str, width: int, layers: int, heads: int) -> tuple[str, Shape]:
    """Kind and changes of the configuration that tiny_ctc writes."""
    return kind, {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width,
        "conv_dim": [512] * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
    }  # fmt: skip


def parakeet(width: int, layers: int, vocab_size: int, lstms: int = 0, **encoder: Any) -> tuple[str, Shape]:
    """Kind and changes of the configuration that tiny_ctc writes, or with LSTM layers tiny_transducer."""
    inner = {
        "model_type": "parakeet_encoder", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 8,
        "intermediate_size": 4 * width, "subsampling_conv_channels": 256,
    }  # fmt: skip
    shape = {"encoder_config": inner | encoder, "vocab_size": vocab_size}
    if not lstms:
        return "parakeet_ctc", shape
    return "parakeet_tdt", {"decoder_hidden_size": 640, "num_decoder_layers": lstms, **shape}


SHAPES: dict[str, tuple[str, Shape]] = {
    "whisper-tiny.en": whisper(384, 4, 6),
    "moonshine-tiny": moonshine(288, 6, 0.9),
    "moonshine-streaming-tiny": streaming(320, 320, 6, 8),
    "wav2vec2-base-960h": wav2vec2("wav2vec2-group", 768, 12, 12),
    "parakeet-ctc-110m": parakeet(512, 17, 1025),
    "parakeet-tdt-110m": parakeet(512, 17, 1025, lstms=1),
}
LARGER: dict[str, tuple[str, Shape]] = {
    "whisper-base.en": whisper(512, 6, 8),
    "whisper-small.en": whisper(768, 12, 12),
    "moonshine-base": moonshine(416, 8, 0.62),
    "moonshine-streaming-small": streaming(620, 512, 10, 8),
    "moonshine-streaming-medium": streaming(768, 640, 14, 10),
    "hubert-large-ls960-ft": wav2vec2("hubert", 1024, 24, 16),
    "parakeet-ctc-0.6b": parakeet(1024, 24, 1025),
    "parakeet-tdt-0.6b-v3": parakeet(
        1024, 24, 8193, lstms=2, num_mel_bins=128, attention_bias=False, convolution_bias=False
    ),
}
"""Names are those of ``adapters/cards.py``, except parakeet-*-110m, NVIDIA's FastConformer in transformers."""


def main() -> None:
    """Measure each model in a separate process, so that the peak of memory is that of the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SHAPES, *LARGER, []], default=[])
    parser.add_argument("--length", action="store_true", help="clips of 1 to 30 s, Moonshine beside Whisper")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5, help="number of repeats for --length")
    options = parser.parse_args()
    if options.length:
        compare_lengths(options.repeats)
    elif len(options.names) == 1:
        print(measure(options.names[0], options.batch_size, options.steps), flush=True)
    else:
        for name in options.names or SHAPES:
            flags = ["--batch_size", str(options.batch_size), "--steps", str(options.steps)]
            subprocess.run([sys.executable, __file__, name, *flags], check=True)


def measure(name: str, batch_size: int, num_steps: int) -> str:
    """Measure ``name``, and return one line about it."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything

    from asr_lightning.callbacks.train_only import TrainOnly
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
    from asr_lightning.module import ASRModule
    from asr_lightning.training.devices import peak_memory_mb

    class Clock(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            marks.append(time.perf_counter())

    seed_everything(0, verbose=False)
    marks: list[float] = []
    adapter = load(name)
    data = AudioFolderDataModule(
        str(SAMPLE / "clips"), batch_size=batch_size, collator=adapter.collator(), limits=adapter.limits
    )
    trainer = Trainer(
        accelerator="cpu", max_steps=num_steps + 1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False,
        callbacks=[TrainOnly(["encoder"]), Clock()],
    )  # fmt: skip
    trainer.fit(ASRModule(adapter), data)
    steps = (len(marks) - 1 - WARMUP_STEPS) / (marks[-1] - marks[WARMUP_STEPS])
    every = sum(p.numel() for p in adapter.model.parameters()) / 1e6
    trained = sum(p.numel() for p in adapter.model.parameters() if p.requires_grad) / 1e6
    return (
        f"{name}: {every:.0f} million parameters, {trained:.0f} trained, batch {batch_size}, "
        f"{torch.get_num_threads()} threads: {steps:.2f} steps/s, peak {peak_memory_mb() / 1000:.1f} GB"
    )


def load(name: str, **options: Any) -> Any:
    """Load the adapter of ``name`` with random weights, from a folder like any other."""
    from asr_lightning.adapters.hf_ctc import HFCTCAdapter
    from asr_lightning.adapters.hf_transducer import HFTransducerAdapter
    from asr_lightning.adapters.moonshine import MoonshineAdapter
    from asr_lightning.adapters.whisper import WhisperAdapter
    from tests import tiny_hf, tiny_models

    tiny_hf.MERGES = learned_merges()
    tiny_models.MERGES = [(left.replace("▁", "Ġ"), right) for left, right in tiny_hf.MERGES]
    kind, shape = (SHAPES | LARGER)[name]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        if kind == "whisper":
            return WhisperAdapter(str(whisper_folder(folder, shape)), **options)
        if kind.startswith("moonshine"):
            tiny_hf.tiny_moonshine(folder, streaming=kind.endswith("streaming"), **shape)
            return MoonshineAdapter(str(folder), **options)
        if kind != "parakeet_tdt":
            tiny_hf.tiny_ctc(folder, kind, **shape)
            return HFCTCAdapter(str(folder), unknown_characters="leave_out", **options)
        tiny_hf.tiny_transducer(folder, kind, **shape)
        settings = folder / "processor_config.json"
        extractor = json.loads(settings.read_text())["feature_extractor"]
        bins = shape["encoder_config"].get("num_mel_bins", extractor["feature_size"])
        tiny_hf.edit_json(settings, feature_extractor=extractor | {"feature_size": bins})
        return HFTransducerAdapter(str(folder), unknown_characters="leave_out", **options)


def learned_merges() -> list[tuple[str, str]]:
    """Train the merges of a BPE on the sample texts, so that these have about as many tokens as in real models."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    files = (SAMPLE / "phrases.txt", ROOT / "README.md", ROOT / "LICENSE")
    text = " ".join(re.findall("[a-z']+", " ".join(path.read_text(encoding="utf-8") for path in files).lower()))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=NUM_PIECES, show_progress=False))
    pairs = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return list({left + right: (left, right) for left, right in reversed(pairs)}.values())[::-1]  # no piece twice


def whisper_folder(folder: Path, shape: Shape) -> Path:
    """Write the folder of tiny_whisper with a network of ``shape``."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from tests.tiny_hf import save
    from tests.tiny_models import tiny_whisper

    settings = tiny_whisper(folder, multilingual=False) / "generation_config.json"
    kept, stale = settings.read_text(), ("max_length", "forced_decoder_ids")
    config = {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k not in stale}
    save(WhisperForConditionalGeneration(WhisperConfig(**(config | shape))), folder)
    settings.write_text(kept)
    return folder


def compare_lengths(repeats: int) -> None:
    """Print a table whose rows are lengths and tasks and whose columns are models."""
    import torch

    from asr_lightning.training.groups import train_only

    cap = {"max_tokens_per_second": TOKENS_PER_SECOND}
    adapters = {
        "Moonshine tiny": load("moonshine-tiny", **cap),
        "Whisper tiny.en, true length": load("whisper-tiny.en", context="true_length", **cap),
        "Whisper tiny.en, 30 s window": load("whisper-tiny.en", context="window", **cap),
    }
    for adapter in adapters.values():
        train_only(adapter, ["encoder"])
        adapter.rules = replace(adapter.rules, suppress=(*adapter.rules.suppress, adapter.rules.eos))  # never stop
    print(
        f"a clip in a batch of {LENGTH_BATCH}, {torch.get_num_threads()} threads, float32, median of {repeats}; "
        f"decoded tokens of each clip: 8 and {TOKENS_PER_SECOND:.0f} a second; in brackets: times Moonshine"
    )
    print(f"{'':19}" + "".join(f"{name:>36}" for name in adapters))
    for seconds in LENGTHS:
        clips = clips_of(seconds)
        for task in (training_step, transcription):
            calls = [task(adapter, clips) for adapter in adapters.values()]
            flops = [flops_of(call) / LENGTH_BATCH / 1e9 for call in calls]
            times = [1000 * s / LENGTH_BATCH for s in median_seconds(calls, repeats)]
            row = f"{seconds:2} s {task.__name__.replace('_', ' '):14}"
            for ms, giga in zip(times, flops, strict=True):
                cell = f"{ms:.0f} ms ({ms / times[0]:.1f}), {giga:.1f} GFLOP ({giga / flops[0]:.1f})"
                row += f"{cell:>36}"
            print(row, flush=True)


def clips_of(seconds: int) -> list[Any]:
    """Make a batch of chirps of ``seconds`` with as many words as are spoken in that time."""
    from tests.tiny_models import clip

    words = (SAMPLE / "phrases.txt").read_text(encoding="utf-8").split()[: round(WORDS_PER_SECOND * seconds)]
    return [clip(float(seconds), " ".join(words), f"clip{seed}", seed) for seed in range(LENGTH_BATCH)]


def training_step(adapter: Any, clips: list[Any]) -> Callable[[], None]:
    """Return a training step: features, loss, gradients of the encoder and AdamW."""
    import torch

    optimizer = torch.optim.AdamW((p for p in adapter.model.parameters() if p.requires_grad), lr=1e-5)
    collator = adapter.collator()

    def step() -> None:
        optimizer.zero_grad()
        adapter.loss(collator(clips)).loss.backward()
        optimizer.step()

    return step


def transcription(adapter: Any, clips: list[Any]) -> Callable[[], None]:
    """Return a transcription: features and greedy decoding."""
    collator = adapter.collator()
    return lambda: adapter.transcribe(collator(clips))


def flops_of(call: Callable[[], None]) -> int:
    """Count the float operations of ``call``, with plain attention, since PyTorch does not count the CPU's kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return int(counter.get_total_flops())


def median_seconds(calls: list[Callable[[], None]], repeats: int) -> list[float]:
    """Time the calls in turns, and return the median of each; the first round is warm-up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(1 + repeats):
        for call, column in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            column.append(time.perf_counter() - started)
    return [statistics.median(column[1:]) for column in seconds]


if __name__ == "__main__":
    main()
