from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from safetensors.torch import load_file

from asr_lightning.callbacks.keep_best import KeepBest, Validation, average, trained_state
from asr_lightning.training.step_log import StepLog
from tests.toy_run import toy_data, toy_fit, toy_module


def validate(best: KeepBest, scores: list[tuple[float, float]]) -> KeepBest:
    """Pass ``best`` one validation for each WER and loss; the only weight is the number of the validation."""
    model = torch.nn.Linear(1, 1, bias=False)
    for number, (wer, loss) in enumerate(scores, start=1):
        progress = SimpleNamespace(current=SimpleNamespace(ready=1))
        trainer = SimpleNamespace(
            state=SimpleNamespace(fn=TrainerFn.FITTING),
            sanity_checking=False,
            callback_metrics={"dev/wer": torch.tensor(wer), "dev/loss": torch.tensor(loss)},
            is_global_zero=True,
            global_step=number,
            current_epoch=number,
            num_training_batches=1,
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        )
        torch.nn.init.constant_(model.weight, number)
        best.on_validation_end(trainer, SimpleNamespace(model=model, steps=StepLog()))  # type: ignore[arg-type]
    return best


@pytest.mark.parametrize(
    ("scores", "order"),
    [
        ([(0.3, 1.0), (0.2, 1.5), (0.25, 0.5)], [2, 3]),
        ([(0.2, 1.0), (0.2, 0.8)], [2, 1]),
        ([(0.2, 0.8), (0.2, 1.0)], [1, 2]),
        ([(0.2, 0.8), (0.2, 0.8), (0.2, 0.8)], [1, 2]),
    ],
)
def test_tie_prefers_lower_loss(tmp_path: Path, scores: list[tuple[float, float]], order: list[int]) -> None:
    """Ties of the WER are common on small dev sets; Lightning's ModelCheckpoint would keep the earlier weights."""
    best = validate(KeepBest(tmp_path / "best", count=2), scores)
    assert [validation.step for validation in best.best] == order
    assert [load_file(best.path(validation))["weight"].item() for validation in best.best] == order
    assert len(list((tmp_path / "best").iterdir())) == 2, "what fell behind is removed"


def test_validations_survive_a_checkpoint_and_a_repeated_one_counts_once(tmp_path: Path) -> None:
    """A run that was killed after a validation, and is resumed before it, repeats that validation."""
    best, resumed = KeepBest(tmp_path / "best"), KeepBest(tmp_path / "best")
    validate(best, [(0.4, 1.0), (0.3, 1.0)])
    resumed.load_state_dict(best.state_dict())
    assert resumed.best == best.best
    validate(resumed, [(0.5, 1.0), (0.2, 1.0)])
    assert [validation.wer for validation in resumed.validations] == pytest.approx([0.5, 0.2])


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its key ``checks`` and the names of its fields stay, so that a run that was begun before can be resumed."""
    best = validate(KeepBest(tmp_path / "best"), [(0.4, 1.0)])
    (name,) = (path.name for path in (tmp_path / "best").iterdir())
    values = {"wer": 0.4, "loss": 1.0, "step": 1, "epoch": 2.0, "train_loss": 0.7}
    resumed = KeepBest(tmp_path / "best")
    resumed.load_state_dict({"checks": [values], "names": {1: name}})
    assert resumed.best == [Validation(**values)]
    assert resumed.path(resumed.best[0]) == tmp_path / "best" / name
    assert best.state_dict().keys() == {"checks", "names"}
    assert best.state_dict()["checks"][0].keys() == values.keys()


def test_weights_are_what_training_changes(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    assert set(trained_state(model)) == {
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_average_keeps_buffers() -> None:
    """Parameters are averaged. A number of batches has no meaningful mean, and is that of the best weights."""
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(7)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(9)},
    ]
    assert average(states)["w"].tolist() == [2.0, 4.0]
    assert average(states)["n"].item() == 7


def test_tiny_run_keeps_its_only_validation(tones: Path, tmp_path: Path) -> None:
    """A run of one step keeps its weights, with the scores of the validation."""
    module, best = toy_module(), KeepBest(tmp_path / "best")
    trainer = toy_fit(module, toy_data(tones), [best], max_steps=1)
    (only,) = best.best
    assert (only.wer, only.loss) == tuple(trainer.callback_metrics[f"dev/{name}"].item() for name in ("wer", "loss"))
    weights = load_file(best.path(only))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.model.named_parameters())
    assert sorted([Validation(0.2, 0.5, 9, 1.0), Validation(0.2, 0.4, 12, 1.5)])[0].step == 12


def test_validation_alone_keeps_nothing(tones: Path, tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    best = KeepBest(tmp_path / "best")
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[best], enable_progress_bar=False)
    trainer.validate(toy_module(), toy_data(tones), verbose=False)
    assert not (tmp_path / "best").exists()
