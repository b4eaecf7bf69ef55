from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.early_stopping import StopEarly
from asr_lightning.callbacks.half_epoch import HalfEpochValidation
from asr_lightning.scoring.comparison import Comparison
from asr_lightning.types import LossOutput
from tests.toy_run import toy_data, toy_fit, toy_module


class Gradients(Callback):
    """Keeps the gradients of the first optimizer step, as the optimizer used them."""

    gradients: dict[str, torch.Tensor] | None = None

    def on_train_start(self, trainer, pl_module) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.keep(pl_module.model))

    def keep(self, model: torch.nn.Module) -> None:
        if self.gradients is None:
            self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def gradients_of_run(folder: Path, **options) -> dict[str, torch.Tensor]:
    """Gradients of one optimizer step over all training clips, in eval mode so that BatchNorm is the same."""
    module, keep = toy_module(), Gradients()
    module.model.eval()
    data = toy_data(folder, batch_size=options.pop("batch_size"))
    toy_fit(module, data, [keep], max_epochs=1, gradient_clip_val=None, **options)
    assert keep.gradients
    return keep.gradients


def test_accumulation_is_weighted_by_terms(tones: Path) -> None:
    """Three unequal batches in one step give the gradient of one batch of all clips, not the mean of means."""
    whole = gradients_of_run(tones, batch_size=12)
    parts = gradients_of_run(tones, batch_size=4, accumulate_grad_batches=3)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5)


def test_wer_uses_decoding(tones: Path) -> None:
    """``dev/wer`` is what a separate pass of ``transcribe`` over the same weights gives, to the last digit."""
    module, data = toy_module(), toy_data(tones)
    trainer = toy_fit(module, data, [], max_epochs=3)
    expected = Comparison(data).rates(module.adapter, "dev")
    for name in ("wer", "cer", "mean_wer"):
        logged = trainer.callback_metrics[f"dev/{name}"]
        assert logged == torch.tensor(getattr(expected, name)), name


def test_modes_at_first_step(tones: Path) -> None:
    """Lightning keeps the modes that it finds (since 2.2), and a loaded model is in eval mode."""

    class Modes(Callback):
        modes: list[bool] | None = None

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            self.modes = self.modes or [m.training for m in pl_module.model.modules()]

    modes = Modes()
    toy_fit(toy_module(), toy_data(tones), [modes])
    assert modes.modes and all(modes.modes)


def test_evaluation_of_a_failed_pass_is_left_before_the_next(tones: Path) -> None:
    """No hook of Lightning runs when a pass raises, so the vendor's switches go back when the next one starts."""
    events = []

    class Failing(ToyAdapter):
        broken = True

        @contextmanager
        def evaluating(self):
            events.append("enter")
            yield
            events.append("leave")

        def transcribe(self, batch):
            if self.broken:
                raise RuntimeError("out of paper")
            return [""] * len(batch)

    module = toy_module()
    module.adapter = Failing()
    module.adapter.model = module.model
    with pytest.raises(RuntimeError, match="out of paper"):
        toy_fit(module, toy_data(tones), [])
    module.adapter.broken = False
    toy_fit(module, toy_data(tones), [HalfEpochValidation(half=False)])
    assert events == ["enter", "leave"] * 2


def test_checkpoint_loads_weights_only(tones: Path, tmp_path: Path) -> None:
    """Adapter and tokenizer stay out of the checkpoint, so that loading it runs no code."""
    trainer = toy_fit(toy_module(), toy_data(tones), [])
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in content["state_dict"]} == {"model"}


def test_same_seed_same_weights(tones: Path) -> None:
    first, second = toy_module(), toy_module()
    toy_fit(first, toy_data(tones), [], max_epochs=2)
    second = toy_module()
    toy_fit(second, toy_data(tones), [], max_epochs=2)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_test_split_scored_only_at_end(tones: Path) -> None:
    """Nothing that chooses weights or stops a run may have seen the test clips."""
    data, asked = toy_data(tones), []
    loader = data.loader

    def recording(split: str, *arguments, **options):
        asked.append(split)
        return loader(split, *arguments, **options)

    data.loader = recording  # type: ignore[method-assign]
    toy_fit(toy_module(), data, [BaselineWER(), StopEarly()], max_epochs=2)
    assert set(asked) == {"dev"}


def test_nan_batch_is_reported(tones: Path) -> None:
    """A batch without a finite loss is named and never skipped in silence."""

    class Broken(ToyAdapter):
        def loss(self, batch):
            output = super().loss(batch)
            return LossOutput(output.loss * float("nan"), output.weight)

    module = toy_module()
    module.adapter = Broken()
    module.adapter.model = module.model
    with pytest.raises(ValueError, match=r"the loss of the recordings \d+, \d+ is nan: lower"):
        toy_fit(module, toy_data(tones), [])
