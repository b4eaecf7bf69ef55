"""Compares this package with Hugging Face's Seq2SeqTrainer on a GPU, or on a CPU at small size, with the same clips.

    .venv/bin/python benchmarks/gpu.py                      # on a GPU: whisper-small's shape, ten epochs of 166 clips
    .venv/bin/python benchmarks/gpu.py --device cpu --quick # a trial of the script itself, below three minutes

The shapes are OpenAI's and the weights random: nothing is downloaded, speeds are right, and no word error rate is
printed. Each arm runs in separate processes, in the order A B B A: encoder only, bf16 on a GPU and float32 on a CPU.
The peer gets 30 s windows and its features before training; ours gets true-length audio, and its features in training.

Steps and clips per second are of the steps after the first tenth, timed between two waits for the GPU, with none in
between. The share of the peak counts the work for the true length of the audio, without padding or the silence of the
window. "Cold" is the time from the start of the process to its last step, including imports; "warm" is from the first
step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

from flops import SHAPES, Shape
from gpu_arms import ARMS, Job

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CLIPS = ROOT / "examples" / "german_accent" / "clips"
TOKENIZER = "openai/whisper-tiny.en"
FEW = {"train": 16, "dev": 4, "test": 4}
"""Number of clips with --quick."""
THIN = 4
"""Width of a head where only the time of the host is measured."""
HOST_STEPS = 20


def write_model(shape: Shape, folder: Path, source: str = TOKENIZER) -> Path:
    """Write a Whisper of ``shape`` with random weights and the tokenizer of ``source`` to ``folder``, and return it."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration
    from transformers.utils import logging

    from asr_lightning.adapters.whisper import WhisperAdapter

    logging.disable_progress_bar()
    like = WhisperAdapter(source)
    like.save(folder)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**(like.model.config.to_dict() | shape.changes())))
    model.generation_config = like.model.generation_config
    model.save_pretrained(folder)
    return folder


def few_clips(target: Path) -> Path:
    """Fill ``target`` with links to the first clips of each split, and return it."""
    from asr_lightning.data.manifest import CSV_NAMES, read_manifest, write_manifests

    rows = {
        split: [entry.row for entry in read_manifest(CLIPS / name, CLIPS)][: FEW[split]]
        for split, name in CSV_NAMES.items()
    }
    target.mkdir()
    for row in (row for split in rows.values() for row in split):
        (target / row.file_name).symlink_to(CLIPS / row.file_name)
    write_manifests(target, rows)
    return target


def in_a_process(job: Job) -> dict[str, Any]:
    """Run ``job`` in a fresh process, and return its report.

    The process sees one GPU only, since the peer would use all of them in its own way.

    Raises:
        RuntimeError: The process failed; the message has what it wrote.
    """
    environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ}
    content = json.dumps(job._replace(started=time.time())._asdict())
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_arms.py"), content]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"{job.arm} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def host_of(job: Job, folder: Path) -> dict[str, float | str]:
    """Measure the host time of a step in two ways that need no GPU and are not exact; the reason if one failed.

    Thin: a model with as many layers, but so narrow, and one clip, so that a CPU's kernels take almost no time and
    dispatch is the real one. Meta: the real width without kernels, but with shapes that Python computes (torch._refs).
    """
    thin = SHAPES[job.shape]
    thin = thin._replace(width=THIN * thin.heads)
    ways = {
        "thin": job._replace(model=str(write_model(thin, folder, job.model)), device="cpu", batch_size=1),
        "meta": job._replace(device="meta"),
    }
    times: dict[str, float | str] = {}
    for way, host_job in ways.items():
        try:
            times[way] = in_a_process(host_job._replace(arm="host", steps=HOST_STEPS))["ms"]
        except RuntimeError as error:
            times[way] = textwrap.shorten(str(error).strip().splitlines()[-1], 100, placeholder=" ...")
        print(f"host time of a step, {way}: {times[way] if isinstance(times[way], str) else f'{times[way]:.1f} ms'}")
    return times


def specialize(job: Job, epochs: int, folder: Path) -> dict[str, float]:
    """Run ``fit`` as a user does, in a separate process, but without validation.

    Random weights write nonsense up to the limit of tokens, so that a validation takes longer than with a trained
    model. The untouched model is still scored on dev, and on test at the end.
    """
    command = [
        *(sys.executable, "-m", "asr_lightning", "fit", "--folds=off", "--run_dir", str(folder)),
        *("--data.audio_dir", job.clips),
        *("--model.adapter", "asr_lightning.adapters.whisper.WhisperAdapter"),
        *("--model.adapter.init_args.source", job.model, "--data.batch_size", str(job.batch_size)),
        *("--data.num_workers", str(job.workers), "--trainer.accelerator", job.device, "--trainer.devices", "1"),
        *("--trainer.max_epochs", str(epochs), "--trainer.limit_val_batches", "0", "--selection.canary", "off"),
    ]
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        raise RuntimeError(f"fit failed:\n{result.stderr}")
    cold = time.perf_counter() - started
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    kept = ("train_seconds", "train_utterances_per_second", "peak_memory_mb")
    return {"epochs": epochs, "cold_seconds": cold, **{name: results[name] for name in kept}}


HEADER = (
    f"{'':30}{'steps/s':>9}{'clips/s':>9}{'of peak':>9}{'first step':>12}{'before it':>11}{'warm':>9}{'cold':>9}"
    f"{'memory':>10}"
)


def row(title: str, run: dict[str, Any]) -> str:
    """Format one arm as a row of the table."""
    share = run["flops_per_second"] / run["peak"]
    return (
        f"{title:30}{run['steps_per_second']:>9.2f}{run['clips_per_second']:>9.1f}{share:>9.2%}"
        f"{run['first_step_seconds']:>10.2f} s{run['ready_seconds']:>9.1f} s{run['warm_seconds']:>7.1f} s"
        f"{run['cold_seconds']:>7.1f} s{run['peak_memory_mb']:>7.0f} MB"
    )


def median_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure, and the highest peak."""
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "peak_source"}
    return medians | {"peak": max(run["peak"] for run in runs), "peak_source": runs[0]["peak_source"]}


def device_name(device: str) -> str:
    """Return the name of the device for the heading."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def compare(jobs: dict[str, Job]) -> dict[str, Any]:
    """Run all arms in order and then in reverse order, so that a machine that slows down affects all of them."""
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in jobs}
    print(HEADER)
    for arm in (*jobs, *reversed(jobs)):
        runs[arm].append(in_a_process(jobs[arm]))
        print(row(arm, runs[arm][-1]), flush=True)
    medians = {arm: median_of(arm_runs) for arm, arm_runs in runs.items()}
    highest = max(median["peak"] for median in medians.values())
    medians = {arm: median | {"peak": highest} for arm, median in medians.items()}
    print(f"\nmedians; peak {highest / 1e12:.3g} TFLOP/s, from {next(iter(medians.values()))['peak_source']}\n{HEADER}")
    for arm, median in medians.items():
        print(row(ARMS[arm].title, median))
    for arm in list(medians)[1:]:
        ratio = medians[arm]["clips_per_second"] / medians[next(iter(medians))]["clips_per_second"]
        print(f"clips a second, {arm} / {next(iter(medians))}: {ratio:.1f}")
    return {"runs": runs, "medians": medians}


def measure(options: argparse.Namespace, temporary: Path) -> dict[str, Any]:
    """Measure everything, and print each figure as soon as it is known."""
    from asr_lightning.training.devices import resolve_precision

    clips = few_clips(temporary / "clips") if options.quick else CLIPS
    job = Job(
        arm="", shape=options.shape, model=str(write_model(SHAPES[options.shape], temporary / "model")),
        clips=str(clips), device=options.device, steps=options.steps, batch_size=options.batch_size,
        workers=options.workers,
    )  # fmt: skip
    sizes = {name: getattr(job, name) for name in ("shape", "steps", "batch_size", "workers")}
    about = {"device": device_name(options.device), "precision": resolve_precision(options.device), **sizes}
    print(
        f"whisper-{options.shape}.en's shape, random weights, synthetic speech, encoder only; {about['device']}, "
        f"{about['precision']}, batch {job.batch_size}, steps: peer {options.peer_steps}, others {job.steps}; "
        "a tenth of them warms up",
        flush=True,
    )
    steps = {arm: options.peer_steps if arm == "peer" else job.steps for arm in options.arms}
    comparison = compare({arm: job._replace(arm=arm, steps=number) for arm, number in steps.items()})
    print()
    host = host_of(job, temporary / "thin")
    whole = specialize(job, options.epochs, temporary / "run")
    print(
        f"fit, {options.epochs} epochs, dev unchecked: cold {whole['cold_seconds']:.1f} s, of which training "
        f"{whole['train_seconds']:.1f} s ({whole['train_utterances_per_second']:.1f} clips/s), "
        f"peak {whole['peak_memory_mb']:.0f} MB"
    )
    return {"about": about, **comparison, "host": host, "fit": whole}


def arguments() -> argparse.Namespace:
    """The command line."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["peer", "ours"], help="held to the first")
    parser.add_argument("--steps", type=int, default=110, help="of each arm; 11 are one epoch at batch size 16")
    parser.add_argument("--peer_steps", type=int, help="number of steps of the peer, which is slow on a CPU")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the run of fit")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="loader processes of this package: data.num_workers")
    parser.add_argument("--quick", action="store_true", help="a trial: shape tiny, few clips, batch size 4, few steps")
    parser.add_argument("--output", type=Path, help="file to which all figures are written as JSON")
    options = parser.parse_args()
    if options.quick:
        quick = {"shape": "tiny", "steps": 12, "peer_steps": 3, "epochs": 1, "batch_size": 4}
        options = argparse.Namespace(**(vars(options) | quick))
    options.peer_steps = options.peer_steps or options.steps
    if min(options.steps, options.peer_steps) < 2:
        parser.error("--steps and --peer_steps must be at least 2: the first step is warm-up")
    return options


def main() -> None:
    """Measure and print all figures, and write them as JSON."""
    options = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(options, Path(temporary))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
