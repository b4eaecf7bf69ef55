"""Word error rates of this package beside those of the seed's recipe on Hugging Face's Seq2SeqTrainer, same clips.

Synthetic speech: both data sets are made by text-to-speech voices. Run: ``python benchmarks/quality.py``. It runs every
piece whose JSON is missing under ``runs/quality/``, each in a fresh process; one peer run takes most of an hour on one
core. ``--curve`` adds how the gain grows with the number of training clips.

The peer is the trainer as it is, with the seed's settings: encoder only, AdamW at 1e-5 with 50 steps of warm-up and
polynomial decay of power 4, 10 epochs, batch size 16, float32, 30 s windows, the best checkpoint by the mean over dev
clips of WER capped at 1. One thing differs: it checks dev once an epoch, where the seed did it twice. Both arms'
figures come from the same greedy decoder, text normalizer and scoring; the peer's own dev checks use ``generate``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
FOLDERS = {"sample": ROOT / "examples/german_accent/clips", "second": ROOT / "runs/second_speaker/clips"}
OUTPUT = ROOT / "runs/quality"
CURVE = (10, 50, None)
"""Training clips of the learning curve; None is all of them, 166 in both data sets."""

HEADER = f"{'data set':24}{'seeds':>6}{'before':>9}{'after':>8}  {'(range)':18}{'cut':>7}  (each seed)"

SOURCE = "openai/whisper-tiny.en"
RECIPE: dict[str, Any] = {
    "num_train_epochs": 10,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "optim": "adamw_torch",
    "learning_rate": 1e-5,
    "warmup_steps": 50,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 4.0},
    "predict_with_generate": True,
    "generation_max_length": 225,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "save_only_model": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "mean_wer",
    "greater_is_better": False,
}
SILENT = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_strategy": "epoch"}


class Piece(NamedTuple):
    """One run of one arm; its JSON is kept under a name made of these."""

    side: str
    data: str
    seed: int
    num_train: int | None = None

    @property
    def path(self) -> Path:
        """Where its result is."""
        clips = "" if self.num_train is None else f"-{self.num_train}clips"
        return OUTPUT / f"{self.side}-{self.data}{clips}-{self.seed}.json"


def run_peer(folder: Path, seed: int, output: Path, epochs: int) -> None:
    """Hugging Face's trainer with the seed's recipe; writes rates, texts, settings and seconds."""
    from asr_lightning.adapters.whisper import WhisperAdapter
    from asr_lightning.results import Comparison, pairs, rates_of, write_json

    adapter = WhisperAdapter(SOURCE, context="window")  # for the weights, the features and the decoder of both arms
    data = data_module(adapter, folder, batch_size=16)
    comparison = Comparison(data)
    before = {split: comparison.transcripts(adapter, split) for split in ("dev", "test")}
    training = train_peer(adapter, folder, seed, epochs)
    found = {split: pairs(texts, comparison.transcripts(adapter, split)) for split, texts in before.items()}
    rates = {split: rates_of(texts, comparison.normalize) for split, texts in found.items()}
    clips = {split: len(rows) for split, rows in data.splits.items()}
    about = {"arm": "peer", "audio_dir": str(folder), "seed": seed, "source": adapter.source, "normalizer": "basic"}
    texts = [pair._asdict() for pair in found["test"]]
    write_json(output, {**about, "clips": clips, **rates, **training, "test_texts": texts})


def train_peer(adapter: Any, folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Train ``adapter.model`` in place, up to the best checkpoint, and tell how it went."""
    from train_speed import peer_batch
    from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, __version__

    adapter.model.model.decoder.requires_grad_(False)
    adapter.model.proj_out.requires_grad_(False)
    settings = {**RECIPE, "num_train_epochs": epochs, "seed": seed}
    with tempfile.TemporaryDirectory() as checkpoints:
        trainer = Seq2SeqTrainer(
            model=adapter.model,
            args=Seq2SeqTrainingArguments(output_dir=checkpoints, **settings, **SILENT),
            train_dataset=peer_rows(adapter, folder, "train"),
            eval_dataset=peer_rows(adapter, folder, "dev"),
            data_collator=peer_batch,
            compute_metrics=lambda prediction: dev_rates(adapter.processor.tokenizer, prediction),
            callbacks=[report_checks()],
        )
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    checks = [entry for entry in trainer.state.log_history if "eval_wer" in entry]
    validation = sum(check["eval_runtime"] for check in checks)
    return {
        "dev_checks": checks,
        "best_step": trainer.state.best_global_step,
        "steps": trainer.state.global_step,
        "train_seconds": seconds - validation,
        "validation_seconds": validation,
        "settings": {**settings, "trains": "encoder", "precision": "float32", "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": __version__},
    }


def peer_rows(adapter: Any, folder: Path, split: str) -> list[dict[str, torch.Tensor]]:
    """Features and labels of every clip, made once, in a fixed order."""
    from train_speed import peer_row

    return [peer_row(batch) for batch in data_module(adapter, folder, batch_size=1).loader(split)]


def data_module(adapter: Any, folder: Path, batch_size: int) -> Any:
    """The clips of ``folder``, without augmentation."""
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule

    return AudioFolderDataModule(str(folder), batch_size, collator=adapter.collator(), limits=adapter.limits)


def dev_rates(tokenizer: Any, prediction: Any) -> dict[str, float]:
    """The trainer's ``compute_metrics``: the seed's figure, which picks the checkpoint, and corpus WER."""
    from asr_lightning.scoring import Transcript, score
    from asr_lightning.text import basic

    texts = [
        tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
        for ids in (prediction.label_ids, prediction.predictions)
    ]
    rates = score([Transcript("", *pair) for pair in zip(*texts, strict=True)], basic)
    return {"mean_wer": rates.mean_wer, "wer": rates.wer}


def report_checks() -> Any:
    """A callback of the trainer that prints one line for each dev check."""
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_evaluate(self, _: Any, state: Any, __: Any, metrics: dict[str, float], **___: Any) -> None:
            found = f"mean_wer {metrics['eval_mean_wer']:.1%}  WER {metrics['eval_wer']:.1%}"
            print(f"epoch {state.epoch:.0f}  step {state.global_step}  dev {found}", flush=True)

    return Report()


def run_ours(folder: Path, seed: int, output: Path) -> None:
    """The product in a process of its own; its ``results.json`` is kept with what made it."""
    from asr_lightning.results import write_json

    run_dir = output.with_suffix("")
    command = our_command(folder, seed, run_dir)
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)
    results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    write_json(output, {"arm": "ours", "seed": seed, "command": command, **results})


def our_command(folder: Path, seed: int, run_dir: Path) -> list[str]:
    """What the product is asked to do, behind the name of the interpreter."""
    return [
        *("-m", "asr_lightning", "specialize", str(folder), "--model", "whisper-tiny.en"),
        *("--run_dir", str(run_dir), "--seed", str(seed)),
    ]


def subset(folder: Path, num_train: int, seed: int, target: Path) -> Path:
    """``target`` with links to the clips of ``folder``, of train only a random choice; dev and test are the same."""
    from asr_lightning.data.manifest import CSV_NAMES, read_manifest, write_manifests

    splits = {split: [entry.row for entry in read_manifest(folder / name, folder)] for split, name in CSV_NAMES.items()}
    splits["train"] = random.Random(seed).sample(splits["train"], num_train)
    for name in (row.file_name for rows in splits.values() for row in rows):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to((folder / name).resolve())
    write_manifests(target, splits)
    return target


def run_side(options: argparse.Namespace) -> None:
    """One side, in this process."""
    folder, output = Path(options.data[0]).resolve(), options.output.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        if options.num_train is not None:
            folder = subset(folder, options.num_train, options.seed, Path(temporary))
        if options.side == "peer":
            run_peer(folder, options.seed, output, options.epochs)
        else:
            run_ours(folder, options.seed, output)


def result_of(piece: Piece) -> dict[str, Any]:
    """What ``piece`` found; it is run in a fresh process unless its JSON is there."""
    if not piece.path.exists():
        print(f"running {piece.path.stem}", flush=True)
        command = ["--side", piece.side, "--data", FOLDERS[piece.data], "--seed", piece.seed, "--output", piece.path]
        command += [] if piece.num_train is None else ["--num_train", piece.num_train]
        subprocess.run([sys.executable, __file__, *map(str, command)], check=True)
    return json.loads(piece.path.read_text(encoding="utf-8"))


def results_of(side: str, data: str, num_seeds: int, num_train: int | None = None) -> list[dict[str, Any]]:
    """One result for each seed."""
    return [result_of(Piece(side, data, seed, num_train)) for seed in range(num_seeds)]


def cuts(results: Sequence[dict[str, Any]]) -> list[float]:
    """Of each run, how much of the test WER is gone, as a fraction."""
    rates = [result["test"]["wer"] for result in results]
    return [1 - wer["after"] / wer["before"] for wer in rates]


def table_row(name: str, results: Sequence[dict[str, Any]]) -> str:
    """Test WER of all seeds of one arm: before, after and its range, relative cut and that of each seed."""
    before, after = ([result["test"]["wer"][when] for result in results] for when in ("before", "after"))
    spread = f"({min(after):.1%} to {max(after):.1%})"
    each = " ".join(f"{cut:.1%}" for cut in cuts(results))
    return (
        f"{name:24}{len(results):>6}{statistics.mean(before):>9.1%}{statistics.mean(after):>8.1%}  {spread:18}"
        f"{statistics.mean(cuts(results)):>7.1%}  ({each})"
    )


def chosen(results: Sequence[dict[str, Any]]) -> str:
    """Alpha of each run, and how many points of WER the canary changed, by mode."""
    alphas = " ".join(f"{result['alpha']:g}" for result in results)
    modes = dict.fromkeys(mode for result in results for mode in result["canary"])
    changes = {
        mode: [result["canary"][mode]["wer"] for result in results if mode in result["canary"]] for mode in modes
    }
    rises = [
        f"{mode} {' '.join(format(100 * (wer['after'] - wer['before']), '+.1f') for wer in found)}"
        for mode, found in changes.items()
    ]
    return f"alpha {alphas}; canary, points: {', '.join(rises) or 'not read'}"


def compare(names: Sequence[str], num_seeds: int, num_peer_seeds: int) -> None:
    """Both arms on each data set."""
    wanted = {"peer": num_peer_seeds, "ours": num_seeds}
    found = {data: {arm: results_of(arm, data, number) for arm, number in wanted.items()} for data in names}
    print(f"\nsynthetic speech; {SOURCE}; corpus WER on test, normalizer basic; before is the 30 s window\n{HEADER}")
    for data, arms in found.items():
        for arm, results in arms.items():
            if results:
                print(table_row(f"{data}, {arm}", results))
        print(f"{data}, ours: {chosen(arms['ours'])}")
        if arms["peer"]:
            points = 100 * (statistics.mean(cuts(arms["ours"])) - statistics.mean(cuts(arms["peer"])))
            print(f"{data}: relative cut of ours less that of the peer: {points:+.1f} points")


def learning_curve(names: Sequence[str], num_seeds: int) -> None:
    """Our arm with fewer training clips; another random choice of them for each seed."""
    found = {(data, size): results_of("ours", data, num_seeds, size) for data in names for size in CURVE}
    print(f"\nsynthetic speech; learning curve of ours, test WER\n{HEADER}")
    for (data, _), results in found.items():
        print(table_row(f"{data}, {results[0]['clips']['train']} clips", results))
        print(f"{'':24}{chosen(results)}")


def main() -> None:
    """Parse the command line; ``--side`` is one run, without it every missing one is made and all are compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=["peer", "ours"])
    parser.add_argument("--data", nargs="+", default=list(FOLDERS), help=f"{' '.join(FOLDERS)}; with --side a folder")
    parser.add_argument("--seed", type=int, default=0, help="with --side")
    parser.add_argument("--output", type=Path, help="with --side: the JSON")
    parser.add_argument("--num_train", type=int, help="with --side: train on a random choice of so many clips")
    parser.add_argument("--epochs", type=int, default=10, help="with --side peer; other numbers are for a try-out")
    parser.add_argument("--seeds", type=int, default=3, help="of our arm")
    parser.add_argument("--peer_seeds", type=int, default=1, help="0 leaves the peer out")
    parser.add_argument("--curve", action="store_true", help="add the learning curve")
    options = parser.parse_args()
    if options.side and (options.output is None or len(options.data) != 1):
        parser.error("--side needs --output and one --data")
    if not options.side and (unknown := set(options.data) - set(FOLDERS)):
        parser.error(f"unknown data set {' '.join(sorted(unknown))}: choose from {' '.join(FOLDERS)}")
    if options.side:
        run_side(options)
    else:
        compare(options.data, options.seeds, options.peer_seeds)
    if options.curve and not options.side:
        learning_curve(options.data, options.seeds)


if __name__ == "__main__":
    main()
