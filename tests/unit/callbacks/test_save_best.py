from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.save_best import SaveBest, replace_directory
from tests.toy_run import toy_data, toy_fit, toy_module


def write(text: str):
    return lambda directory: (directory / "weights").write_text(text)


def test_a_failed_save_keeps_the_old_model(tmp_path: Path) -> None:
    target = tmp_path / "model"
    replace_directory(target, write("old"))

    def fail(directory: Path) -> None:
        (directory / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_directory(target, fail)
    assert (target / "weights").read_text() == "old"
    replace_directory(target, write("new"))
    assert (target / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_renames_is_repaired(tmp_path: Path) -> None:
    (tmp_path / "model.previous").mkdir()
    (tmp_path / "model.previous" / "weights").write_text("old")

    def look(directory: Path) -> None:
        assert (tmp_path / "model" / "weights").read_text() == "old"
        write("new")(directory)

    replace_directory(tmp_path / "model", look)
    assert (tmp_path / "model" / "weights").read_text() == "new"


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([(0.3, 1.0), (0.2, 1.5), (0.25, 0.5)], 1),
        ([(0.2, 1.0), (0.2, 0.8)], 1),
        ([(0.2, 0.8), (0.2, 1.0)], 0),
        ([(0.2, 0.8), (0.2, 0.8)], 0),
    ],
)
def test_tie_prefers_lower_loss(tmp_path: Path, scores: list[tuple[float, float]], kept: int) -> None:
    """WER ties are common on small dev sets; Lightning's ModelCheckpoint would keep the earlier, weaker one."""
    best = SaveBest(tmp_path / "model")
    for number, (wer, loss) in enumerate(scores):
        progress = SimpleNamespace(current=SimpleNamespace(ready=1))
        trainer = SimpleNamespace(
            state=SimpleNamespace(fn=TrainerFn.FITTING),
            sanity_checking=False,
            callback_metrics={"dev/wer": torch.tensor(wer), "dev/loss": torch.tensor(loss)},
            is_global_zero=True,
            current_epoch=number,
            num_training_batches=1,
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        )
        adapter = SimpleNamespace(save=write(str(number)))
        best.on_validation_end(trainer, SimpleNamespace(adapter=adapter))  # type: ignore[arg-type]
    assert (tmp_path / "model" / "weights").read_text() == str(kept)


def test_tiny_run_saves_and_scores(tones: Path, tmp_path: Path) -> None:
    """One step is enough for a saved model, which is the best of the checks."""
    module, best = toy_module(), SaveBest(tmp_path / "model")
    trainer = toy_fit(module, toy_data(tones), [best], max_steps=1)
    assert best.best == (trainer.callback_metrics["dev/wer"].item(), trainer.callback_metrics["dev/loss"].item())
    saved = ToyAdapter(str(tmp_path / "model")).model.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in module.model.state_dict().items())


def test_validation_alone_saves_nothing(tones: Path, tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[SaveBest(tmp_path / "model")], enable_progress_bar=False
    )
    trainer.validate(toy_module(), toy_data(tones), verbose=False)
    assert not (tmp_path / "model").exists()
