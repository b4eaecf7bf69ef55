"""Measures a validation: loss and text of every clip in one pass from a draft, and in two passes token by token.

Both use the same clips and weights in one process, in the order A B B A. It prints seconds for a clip, the ratio, and
how many texts are equal; it fails unless all are. Run: ``python benchmarks/validation.py [MODEL]``, with a model folder
or a name in ``python -m asr_lightning models``. This takes about a minute on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

CLIPS = Path(__file__).parents[1] / "examples" / "german_accent" / "clips"
BATCH = 16


def drafted(adapter: Any, batch: Any, _: Any) -> list[str]:
    """Transcribe as validation does: decoding continues from the pass that gave the loss."""
    with adapter.evaluating():
        adapter.loss(batch)
        return adapter.transcribe(batch)


def plain(adapter: Any, batch: Any, without_text: Any) -> list[str]:
    """Compute loss and text separately, without a draft for the text."""
    with adapter.evaluating():
        adapter.loss(batch)
    return adapter.transcribe(without_text)


@torch.no_grad()
def timed(way: Callable[..., list[str]], adapter: Any, batches: list[tuple[Any, Any]]) -> tuple[float, list[str]]:
    """Return the seconds for a clip, and all texts."""
    started = time.perf_counter()
    texts = [text for batch, without_text in batches for text in way(adapter, batch, without_text)]
    return (time.perf_counter() - started) / len(texts), texts


def main() -> None:
    """Print both ways and their ratio."""
    from asr_lightning.adapters import registry
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="whisper-tiny.en")
    name = parser.parse_args().model
    adapter = registry.build(name)
    collate = adapter.collator()
    dataset = AudioFolderDataModule(str(CLIPS), collator=collate, limits=adapter.limits).dataset("dev")
    clips = sorted((dataset[index] for index in range(len(dataset))), key=lambda clip: clip.seconds)
    groups = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    batches = [(collate(group), collate([replace(clip, text="") for clip in group])) for group in groups]
    seconds: dict[Any, list[float]] = {drafted: [], plain: []}
    texts = {}
    for way in (plain, drafted, drafted, plain):
        taken, texts[way] = timed(way, adapter, batches)
        seconds[way].append(taken)
    equal = sum(one == other for one, other in zip(texts[drafted], texts[plain], strict=True))
    before, after = statistics.mean(seconds[plain]), statistics.mean(seconds[drafted])
    print(f"{name}, {len(clips)} dev clips, {torch.get_num_threads()} threads")
    print(f"two passes, token by token {1000 * before:7.1f} ms a clip")
    print(f"one pass, from a draft     {1000 * after:7.1f} ms a clip, {before / after:.1f} times as fast")
    print(f"equal texts: {equal} of {len(clips)}")
    if equal < len(clips):
        raise SystemExit("a draft has changed a text, which must never happen: report it with the model and the clips")


if __name__ == "__main__":
    main()
