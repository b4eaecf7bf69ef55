"""Screens recipes, one variant at a time, over models and voices: what each gains on dev and costs on the canary.

    python benchmarks/recipes.py "strong masks" --models whisper-tiny.en --voices ocean sample --seeds 0
    python benchmarks/recipes.py --table

Each run is a fresh process and one JSON line in ``benchmarks/results/recipes.jsonl``; stored runs are not repeated. A
run trains with one validation in each epoch and without early stopping, averages the weights of the best four, and
scores the average at the true length of the audio: dev at two alphas, test once (it chooses nothing), the bundled
canary, and the voice ``kathleen``, a person whom no run has heard. ``quality.py`` confirms in complete runs what helps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import quality

from asr_lightning.adapters import registry, saved
from asr_lightning.adapters.registry import merge

RESULTS = quality.ROOT / "benchmarks/results/recipes.jsonl"
FORGETTING = RESULTS.with_name("forgetting.jsonl")
ALPHAS = (1.0, 0.6)
KATHLEEN = "kathleen"
BFLOAT16: dict[str, Any] = {"bf16_on_cpu": True}


def trained(**options: Any) -> dict[str, Any]:
    """Return options that change the optimizer."""
    return {"model": {"optimizer": options}}


def adapted(**options: Any) -> dict[str, Any]:
    """Return options that change the adapter."""
    return {"model": {"adapter": {"init_args": options}}}


def data(**options: Any) -> dict[str, Any]:
    """Return options that change the data."""
    return {"data": options}


def epochs(number: int) -> dict[str, Any]:
    """Return options that change the number of epochs."""
    return {"trainer": {"max_epochs": number}}


def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return options that make both changes."""
    return merge(one, other)


DECODER = {"train_only": {"groups": ["encoder", "decoder"]}, **trained(group_lrs={"decoder": 3e-5})}
MASKS = adapted(spec_augment={"num_time_masks": 4, "time_fraction": 0.08, "num_freq_masks": 2, "freq_bins": 15})
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "no replay": data(replay="off"),
    "replay 0.5": data(replay_share=0.5),
    "replay 1": data(replay_share=1.0),
    "16 epochs": epochs(16),
    "decoder at 3e-5": DECODER,
    "strong masks": MASKS,
    "strong masks, decoder at 3e-5": both(MASKS, DECODER),
    "joined 0.3": data(augmentation={"join": 0.3}),
    "drops": data(augmentation={"drop_bands": 2, "drop_stretches": 3}),
    "noise and rooms": data(augmentation={"noise": 0.3, "room": 0.3}),
    "pull 150": trained(pull=150.0),
    "layer decay 0.7": trained(layer_decay=0.7),
    "lr 3e-5": trained(lr=3e-5),
    "lr 2e-4": trained(lr=2e-4),
    "label smoothing": adapted(label_smoothing=0.1),
}


def run(voice: quality.Voice, model: str, variant: str, seed: int, human: Path) -> dict[str, Any]:
    """Train and score in this process, and return the row to store."""
    from lightning.pytorch import Trainer, seed_everything
    from safetensors.torch import load_file

    from asr_lightning.callbacks.finite import FiniteGradients
    from asr_lightning.callbacks.half_epoch import HalfEpochValidation
    from asr_lightning.callbacks.keep_best import KeepBest, average
    from asr_lightning.callbacks.train_only import TrainOnly
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
    from asr_lightning.datamodules.augment import Augmentation
    from asr_lightning.module import ASRModule
    from asr_lightning.run.interpolation import Interpolation
    from asr_lightning.scoring.comparison import Comparison
    from asr_lightning.training.optim import OptimizerSettings
    from asr_lightning.training.precision import precision_options

    started = time.monotonic()
    choice = registry.choose(model)
    options = merge(merge(BFLOAT16, choice.recipe), VARIANTS[variant])
    seed_everything(seed, verbose=False)
    init = {**options["model"].get("adapter", {}).get("init_args", {}), **voice.init_args(model)}
    module_name, _, name = choice.adapter.rpartition(".")
    adapter = saved.build(saved.class_named(module_name, name), choice.source, init)
    settings = {**options["data"], "augmentation": Augmentation(**options["data"].get("augmentation", {}))}
    clips = AudioFolderDataModule(
        str(voice.path(human)), eval_batch_size=16, seed=seed, collator=adapter.collator(), limits=adapter.limits,
        **settings,
    )  # fmt: skip
    module = ASRModule(adapter, OptimizerSettings(**options["model"]["optimizer"]))
    with tempfile.TemporaryDirectory() as work:
        best = KeepBest(work)
        groups = options.get("train_only", {}).get("groups", ["encoder"])
        trainer = Trainer(
            accelerator="cpu", max_epochs=options["trainer"]["max_epochs"], gradient_clip_val=1.0, logger=False,
            use_distributed_sampler=False, enable_model_summary=False, enable_checkpointing=False,
            enable_progress_bar=False, num_sanity_val_steps=0,
            callbacks=[HalfEpochValidation(half=False), TrainOnly(groups), best, FiniteGradients()],
            **precision_options("cpu", None, options["bf16_on_cpu"]),
        )  # fmt: skip
        trainer.fit(module, clips)
        train_seconds = time.monotonic() - started
        best_weights = [load_file(best.path(validation)) for validation in best.best]
        adapter.model.load_state_dict(average(best_weights), strict=False)
    untouched = saved.build(type(adapter), choice.source, init) if init else registry.build(model)
    line, compare = Interpolation(untouched, adapter), {}
    comparison = Comparison(clips)
    for alpha in ALPHAS:
        compare[f"dev {alpha:g}"] = comparison.rates(line.at(alpha), "dev").wer
    return {
        **{"model": model, "voice": voice.word, "variant": variant, "seed": seed, "options": VARIANTS[variant]},
        **{"checks": [validation.wer for validation in best.validations], **compare},
        "test 1": comparison.rates(line.at(1.0), "test").wer,
        **canaries(line.at(1.0), voice, human),
        **{"train_seconds": train_seconds, "seconds": time.monotonic() - started},
    }


def canaries(adapter: Any, voice: quality.Voice, human: Path) -> dict[str, float]:
    """Score the bundled canary, and dev of ``kathleen`` if her folder exists; for English only."""
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
    from asr_lightning.datamodules.canary import open_canary
    from asr_lightning.scoring.comparison import Comparison
    from asr_lightning.scoring.edits import score
    from asr_lightning.scoring.text import basic

    if voice.language is not None:
        return {}
    bundled = open_canary("bundled")
    assert bundled is not None
    rates = {"canary bundled": score(bundled.transcripts(adapter), basic).wer}
    if (human / KATHLEEN).is_dir():
        other = AudioFolderDataModule(
            str(human / KATHLEEN), collator=adapter.collator(), limits=adapter.limits, run_dir=tempfile.gettempdir()
        )
        rates["canary kathleen"] = Comparison(other).rates(adapter, "dev").wer
    return rates


def stored() -> list[dict[str, Any]]:
    """Return every stored row."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def table(rows: list[dict[str, Any]]) -> None:
    """Print one line for each run, with the most important columns."""
    columns = ("dev 1", "dev 0.6", "dev 0.5", "test 1", "canary bundled", "canary kathleen")
    print(f"{'model, voice, variant':74}{'seed':>5}{''.join(f'{column:>17}' for column in columns)}")
    for row in sorted(rows, key=lambda row: (row["model"], row["voice"], row["dev 1"])):
        figures = "".join(f"{row[column]:>17.1%}" if column in row else f"{'':17}" for column in columns)
        name = f"{row['model']}, {row['voice']}, {row['variant']}"
        print(f"{name:74}{row['seed']:>5}{figures}")


def forgetting() -> None:
    """Print what was tried against forgetting, in percent WER: one run each, with prototypes of the present code."""
    columns = ("dev", "test", "kathleen", "allison")
    print(f"\n{'model, voice, variant':108}{'alpha':>7}{'margin':>8}{''.join(f'{column:>10}' for column in columns)}")
    for row in map(json.loads, FORGETTING.read_text(encoding="utf-8").splitlines()):
        figures = "".join(f"{row.get(column, ''):>10}" for column in columns)
        name = f"{row['model']}, {row['voice']}, {row['variant']}"
        print(f"{name:108}{row['alpha']:>7g}{row['margin']:>6g} s{figures}")


def main() -> None:
    """Do the runs that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help=f"variants to run, of: {', '.join(VARIANTS)}")
    parser.add_argument("--models", nargs="+", default=["whisper-tiny.en"])
    parser.add_argument("--voices", nargs="+", default=["ocean", "sample"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--human", type=Path, default=quality.HUMAN, help="folder of the human voices")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    voices = {voice.word: voice for voice in quality.VOICES}
    if options.one:
        job = (voices[options.voices[0]], options.models[0], options.variants[0], options.seeds[0], options.human)
        print(json.dumps(run(*job)))
        return
    known = {(row["model"], row["voice"], row["variant"], row["seed"]) for row in stored()}
    wanted = [
        (model, voice, variant, seed)
        for variant in ([] if options.table else options.variants)
        for voice in options.voices
        for model in options.models
        for seed in options.seeds
    ]
    for model, voice, variant, seed in (key for key in wanted if key not in known):
        command = [
            variant,
            "--one",
            "--models",
            model,
            "--voices",
            voice,
            "--seeds",
            str(seed),
            "--human",
            options.human,
        ]
        result = subprocess.run(
            [sys.executable, __file__, *map(str, command)], stdout=subprocess.PIPE, text=True, check=True
        )
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(result.stdout.splitlines()[-1] + "\n")
    table(stored())
    forgetting()


if __name__ == "__main__":
    main()
