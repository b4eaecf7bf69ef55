from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback

from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.early_stopping import StopEarly
from asr_lightning.scoring.edits import score
from asr_lightning.scoring.evaluation import evaluate
from asr_lightning.scoring.text import basic
from tests.toy_run import toy_data, toy_fit, toy_module


def test_baseline_is_the_untouched_model(tones: Path) -> None:
    baseline, data = BaselineWER(), toy_data(tones)
    toy_fit(toy_module(), data, [baseline], max_epochs=1)
    assert baseline.dev == evaluate(ToyAdapter(), data.loader("dev"))


def test_baseline_reads_through_native(tones: Path) -> None:
    """A model in the wrong input convention would flatter every later figure."""

    class Shouting(ToyAdapter):
        def native(self):
            return ToyAdapter()

        def transcribe(self, batch):
            return ["garbage in quite a few words that nobody said"] * len(batch)

    module, data, baseline = toy_module(), toy_data(tones), BaselineWER()
    module.adapter = Shouting()
    module.model = module.adapter.model
    trainer = toy_fit(module, data, [baseline])
    assert baseline.dev is not None
    assert score(baseline.dev.transcripts, basic).wer < trainer.callback_metrics["dev/wer"].item()


def test_baseline_survives_a_checkpoint(tones: Path) -> None:
    baseline, resumed = BaselineWER(), BaselineWER()
    toy_fit(toy_module(), toy_data(tones), [baseline])
    resumed.load_state_dict(baseline.state_dict())
    assert resumed.dev == baseline.dev is not None
    resumed.load_state_dict({})
    assert resumed.dev == baseline.dev


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_counts_validations(tones: Path, patience: int) -> None:
    """With a rate that changes nothing, the first validation is the best and ``patience`` more end the run."""

    class Count(Callback):
        validations = 0

        def on_validation_end(self, trainer, pl_module) -> None:
            self.validations += 1

    module, count = toy_module(), Count()
    module.settings = type(module.settings)(lr=1e-12)
    toy_fit(module, toy_data(tones), [StopEarly(patience=patience), count], max_epochs=20)
    assert count.validations == 1 + patience
