"""Measures the seconds for a clip in Whisper's 30 s window with and without ``training/memory.py``, in turns.

Each measurement is in a fresh process. Run: ``python benchmarks/memory.py``. The weights are random, which does not
affect durations; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

BATCH = 16
ARMS = {"as torch does": "plain", "memory.keep()": "kept"}


def measure(arm: str) -> float:
    """Measure the seconds for a clip in this process, after one pass to warm up."""
    if arm == "kept":
        from asr_lightning.training import memory

        memory.keep()
    import torch
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    encoder = WhisperModel(config).get_encoder().eval()
    features = torch.randn(BATCH, config.num_mel_bins, 3000)
    with torch.inference_mode():
        encoder(features)
        started = time.perf_counter()
        encoder(features)
    return (time.perf_counter() - started) / BATCH


def main() -> None:
    """Parse the command line; without ``--arm``, measure both in turns and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=list(ARMS.values()), help="measure only this arm, in this process")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.arm:
        print(measure(options.arm))
        return
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(options.repeats):
        for name, arm in ARMS.items():
            command = [sys.executable, __file__, "--arm", arm]
            times[name].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for name, seconds in times.items():
        print(f"{name:16}{statistics.median(seconds):8.3f} s a clip ({min(seconds):.3f} to {max(seconds):.3f})")
    plain, kept = (statistics.median(seconds) for seconds in times.values())
    print(f"kept / plain: {kept / plain:.2f}")


if __name__ == "__main__":
    main()
