"""The peer of ``quality.py``: the unchanged recipe of this project's predecessor on Hugging Face's Seq2SeqTrainer.

It trains the encoder only, with AdamW at 1e-5, 50 steps of warm-up and polynomial decay of power 4, for 10 epochs with
batch size 16, float32 and 30 s windows, and takes the best checkpoint by the mean over dev clips of the WER, capped
at 1. One thing differs: it validates once an epoch, where the predecessor did so twice. The figures of both arms come
from the same greedy decoder, text normalizer and scoring; only the peer's validations use ``generate``. One run takes
most of an hour on one core.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

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


def run(folder: Path, seed: int, epochs: int) -> tuple[dict[str, Any], list[Any]]:
    """Train with Hugging Face's trainer and the predecessor's recipe.

    Returns:
        Settings and seconds, and both texts of every test clip.
    """
    from asr_lightning.adapters.whisper import WhisperAdapter
    from asr_lightning.scoring.comparison import Comparison, pairs

    adapter = WhisperAdapter(SOURCE, context="window")  # for the weights, the features and the decoder of both arms
    data = data_module(adapter, folder, batch_size=16)
    comparison = Comparison(data)
    before = comparison.transcripts(adapter, "test")
    training = train_peer(adapter, folder, seed, epochs)
    return training, list(pairs(before, comparison.transcripts(adapter, "test")))


def train_peer(adapter: Any, folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Train ``adapter.model`` in place, up to the best checkpoint, and return validations, durations and settings."""
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
            callbacks=[report_validations()],
        )
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    validations = [entry for entry in trainer.state.log_history if "eval_wer" in entry]
    validation_seconds = sum(entry["eval_runtime"] for entry in validations)
    return {
        "validations": validations,
        "best_step": trainer.state.best_global_step,
        "steps": trainer.state.global_step,
        "train_seconds": seconds - validation_seconds,
        "validation_seconds": validation_seconds,
        "settings": {**settings, "trains": "encoder", "precision": "float32", "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": __version__},
    }


def peer_rows(adapter: Any, folder: Path, split: str) -> list[dict[str, torch.Tensor]]:
    """Return features and labels of every clip, made once, in a fixed order."""
    from train_speed import peer_row

    return [peer_row(batch) for batch in data_module(adapter, folder, batch_size=1).loader(split)]


def data_module(adapter: Any, folder: Path, batch_size: int) -> Any:
    """Return a data module of the clips of ``folder``, without augmentation."""
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule

    return AudioFolderDataModule(str(folder), batch_size, collator=adapter.collator(), limits=adapter.limits)


def dev_rates(tokenizer: Any, prediction: Any) -> dict[str, float]:
    """Compute the predecessor's figure, which picks the checkpoint, and the corpus WER, for ``compute_metrics``."""
    from asr_lightning.scoring.edits import Transcript, score
    from asr_lightning.scoring.text import basic

    texts = [
        tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
        for ids in (prediction.label_ids, prediction.predictions)
    ]
    rates = score([Transcript("", *pair) for pair in zip(*texts, strict=True)], basic)
    return {"mean_wer": rates.mean_wer, "wer": rates.wer}


def report_validations() -> Any:
    """Return a callback of the trainer that prints one line for each validation."""
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_evaluate(self, _: Any, state: Any, __: Any, metrics: dict[str, float], **___: Any) -> None:
            rates = f"mean_wer {metrics['eval_mean_wer']:.1%}  WER {metrics['eval_wer']:.1%}"
            print(f"epoch {state.epoch:.0f}  step {state.global_step}  dev {rates}", flush=True)

    return Report()
