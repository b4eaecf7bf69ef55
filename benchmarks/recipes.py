"""What each part of the recipe is worth: one variant at a time on the sample data set, scored on dev. Synthetic speech.

Test is left alone: it must not choose a recipe. Run: ``python benchmarks/recipes.py [VARIANT ...] [--seeds 3]``; a
variant takes about six minutes on one core. ``docs/recipes.md`` has the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from asr_lightning.cards import RECIPES
from asr_lightning.registry import merge

ROOT = Path(__file__).parents[1]
SOURCE = "openai/whisper-tiny.en"
ALPHAS = (1.0, 0.75, 0.5)
OUTPUT = ROOT / "runs" / "recipes"
FOLDERS = {"sample": ROOT / "examples/german_accent/clips", "second": ROOT / "runs/second_speaker/clips"}
RECIPE: dict[str, Any] = RECIPES["whisper.en"]


def augmented(**options: Any) -> dict[str, Any]:
    """A change of the augmentation."""
    return {"data": {"augmentation": options}}


def trained(**options: Any) -> dict[str, Any]:
    """A change of the optimizer."""
    return {"model": {"optimizer": options}}


def adapted(**options: Any) -> dict[str, Any]:
    """A change of the adapter."""
    return {"model": {"adapter": {"init_args": options}}}


NO_MASKS = adapted(num_time_masks=0, num_freq_masks=0)
NO_REPLAY: dict[str, Any] = {"data": {"replay": "off"}}
FIRST = merge(merge(NO_MASKS, NO_REPLAY), augmented(trail_silence_seconds=2.0))  # the recipe of the first release


def epochs(number: int) -> dict[str, Any]:
    """A change of the length."""
    return {"trainer": {"max_epochs": number}}


VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "6 epochs": epochs(6),
    "6 epochs, smoothing, no masks": merge(merge(epochs(6), NO_MASKS), adapted(label_smoothing=0.1)),
    "2 s silence, no masks": merge(NO_MASKS, augmented(trail_silence_seconds=2.0)),
    "first release": FIRST,
    "first release, 3e-5, 10 epochs": merge(merge(FIRST, trained(lr=3e-5)), epochs(10)),
    "no replay": NO_REPLAY,
    "no masks": NO_MASKS,
    "half replay": {"data": {"replay_share": 0.5}},
    "lr 5e-5": trained(lr=5e-5),
    "lr 2e-4": trained(lr=2e-4),
    "batch 8": {"data": {"batch_size": 8}},
    "no speeds": augmented(speeds=[1.0]),
    "silence before": augmented(lead_silence_seconds=0.5),
    "joined 0.2": augmented(join=0.2),
    "decoder too": {"train_only": {"groups": ["encoder", "decoder"]}},
}


def run(data: str, name: str, seed: int) -> dict[str, Any]:
    """Train one variant in this process; dev WER of its checks, dev and canary WER of their average at two alphas."""
    from lightning.pytorch import Trainer, seed_everything
    from safetensors.torch import load_file

    from asr_lightning.adapters.whisper import WhisperAdapter
    from asr_lightning.augment import Augmentation
    from asr_lightning.callbacks.half_epoch import HalfEpochValidation
    from asr_lightning.callbacks.keep_best import KeepBest, average
    from asr_lightning.callbacks.train_only import TrainOnly
    from asr_lightning.canary import Canary
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
    from asr_lightning.module import ASRModule
    from asr_lightning.optim import OptimizerSettings
    from asr_lightning.results import Comparison
    from asr_lightning.scoring import score
    from asr_lightning.selection import Line
    from asr_lightning.text import basic

    options = merge(RECIPE, VARIANTS[name])
    seed_everything(seed, verbose=False)
    adapter = WhisperAdapter(SOURCE, **options["model"]["adapter"]["init_args"])
    module = ASRModule(adapter, OptimizerSettings(**options["model"]["optimizer"]))
    augmentation = Augmentation(**options["data"]["augmentation"])
    folder, batch_size = str(FOLDERS[data]), options["data"].get("batch_size", 16)
    clips = AudioFolderDataModule(
        folder, batch_size, 16, seed=seed, augmentation=augmentation, collator=adapter.collator(),
        limits=adapter.limits, replay=options["data"]["replay"],
        replay_share=options["data"].get("replay_share", 0.25),
    )  # fmt: skip
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    with tempfile.TemporaryDirectory() as work:
        best = KeepBest(work)
        groups = options.get("train_only", {"groups": ["encoder"]})["groups"]
        trainer = Trainer(
            accelerator="cpu", max_epochs=options["trainer"]["max_epochs"], gradient_clip_val=1.0,
            use_distributed_sampler=False, enable_model_summary=False,
            callbacks=[HalfEpochValidation(), TrainOnly(groups), best], **quiet,
        )  # fmt: skip
        trainer.fit(module, clips)
        states = [load_file(best.path(check)) for check in best.best]
    adapter.model.load_state_dict(average(states), strict=False)
    line, canary = Line(WhisperAdapter(SOURCE).model, adapter.model), Canary()
    found: dict[str, Any] = {"checks": [round(check.wer, 4) for check in best.checks]}
    for alpha in ALPHAS:
        line.set(alpha)
        found[f"dev {alpha:g}"] = Comparison(clips).rates(adapter, "dev").wer
        found[f"canary {alpha:g}"] = score(canary.transcripts(adapter.native()), basic).wer
    return {"data": data, "variant": name, "seed": seed, **found}


def measured(data: str, name: str, seed: int) -> dict[str, Any]:
    """The result of ``run`` in a fresh process, or as an earlier call has kept it."""
    path = OUTPUT / f"{data} {name} {seed}.json"
    if not path.exists():
        command = [sys.executable, __file__, name, "--data", data, "--one", str(seed)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{name} failed:\n{result.stderr}")
        OUTPUT.mkdir(parents=True, exist_ok=True)
        path.write_text(result.stdout.splitlines()[-1])
    return json.loads(path.read_text())


def main() -> None:
    """Print one line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", help=f"among {', '.join(VARIANTS)}; without any, all")
    parser.add_argument("--data", choices=FOLDERS, default="sample")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(run(options.data, options.variants[0], options.one)))
        return
    columns = [f"{what} {alpha:g}" for alpha in ALPHAS for what in ("dev", "canary")]
    print(f"{options.data}, synthetic speech: WER of the average of the best 4 checks, by alpha")
    print(f"{'variant':32}{''.join(f'{column:>12}' for column in columns)}   last checks")
    for name in options.variants or VARIANTS:
        found = [measured(options.data, name, seed) for seed in range(options.seeds)]
        figures = "".join(f"{statistics.mean(result[column] for result in found):>12.1%}" for column in columns)
        last = " ".join(f"{wer:.1%}" for wer in found[0]["checks"][-4:])
        print(f"{name:32}{figures}   {last}", flush=True)


if __name__ == "__main__":
    main()
