"""Options of adapters by the names of earlier versions: in configurations, on command lines and in saved folders."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from asr_lightning.__main__ import main
from asr_lightning.adapters import old_names, saved
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.cli import lightning_cli
from asr_lightning.run.spec import RunSpec
from tests.tiny_models import tiny_whisper

CLASS_PATH = "asr_lightning.adapters.whisper.WhisperAdapter"
OLD = {"num_time_masks": 4, "time_fraction": 0.08, "num_freq_masks": 2, "freq_bins": 15}
NUM_TIME_MASKS = "num_time_masks is now spec_augment.num_time_masks"


def old_yaml(folder: Path, **init_args: object) -> str:
    """A configuration as it was written for earlier versions, with a rate in YAML 1.2's notation."""
    path = folder / "old.yaml"
    adapter = {"class_path": CLASS_PATH, "init_args": {"source": "openai/whisper-tiny.en", **init_args}}
    path.write_text(yaml.safe_dump({"model": {"adapter": adapter}}) + "  optimizer: {lr: 3e-4}\n")
    return str(path)


def printed(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """The model's options, as the command understands them."""
    with pytest.raises(SystemExit):
        main([*arguments, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)["model"]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_old_configuration_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = printed(["fit", "--config", old_yaml(tmp_path, **OLD)], capsys)
    assert model["adapter"]["init_args"]["spec_augment"] == OLD and model["optimizer"]["lr"] == 3e-4
    (warning,) = warnings_in(caplog)
    assert NUM_TIME_MASKS in warning and "freq_bins is now spec_augment.freq_bins" in warning


@pytest.mark.parametrize(
    "typed", [["--model.adapter.init_args.num_time_masks=2"], ["--model.adapter.num_time_masks", "2"]]
)
@pytest.mark.parametrize("command", [["fit"], ["specialize", "clips"]])
def test_old_option_overrides_one_field_of_the_recipe(
    command: list[str], typed: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = printed([*command, "--model", "whisper-tiny.en", *typed], capsys)
    assert model["adapter"]["init_args"]["spec_augment"] == {**OLD, "num_time_masks": 2}
    assert [NUM_TIME_MASKS in warning for warning in warnings_in(caplog)] == [True]


def test_new_option_overrides_an_old_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--model", "whisper-tiny.en", "--config", old_yaml(tmp_path, num_freq_masks=0)]
    model = printed([*arguments, "--model.adapter.init_args.spec_augment.freq_bins=9"], capsys)
    assert model["adapter"]["init_args"]["spec_augment"] == {**OLD, "num_freq_masks": 0, "freq_bins": 9}
    model = printed([*arguments, "--model.adapter.init_args.spec_augment", "null"], capsys)
    assert model["adapter"]["init_args"]["spec_augment"] is None


def test_old_options_from_python(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lightning_cli.ASRCLI, "fit", lambda self, **kwargs: None, raising=False)
    monkeypatch.setattr(lightning_cli.ASRCLI, "after_fit", lambda self: None)
    source = str(tiny_whisper(tmp_path / "model", multilingual=False))
    options = {"model": {"adapter": {"init_args": {"num_time_masks": 2}}}}
    runner = lightning_cli.run(RunSpec(tones, tmp_path / "run", source, options=options))
    assert runner.options.model.adapter.init_args.spec_augment.as_dict() == {**OLD, "num_time_masks": 2}
    assert [NUM_TIME_MASKS in warning for warning in warnings_in(caplog)].count(True) == 1


def test_old_saved_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = str(tiny_whisper(tmp_path / "source", multilingual=False))
    (tmp_path / "model").mkdir()
    WhisperAdapter(source, spec_augment=SpecAugment(**OLD)).save(tmp_path / "model")
    path = tmp_path / "model" / saved.FILE_NAME
    new = json.loads(path.read_text())
    assert saved.load(tmp_path / "model").spec_augment == SpecAugment(**OLD)
    assert not warnings_in(caplog), "folders that are saved now hold the new names"
    init_args = {name: value for name, value in new["init_args"].items() if name != "spec_augment"}
    path.write_text(json.dumps({**new, "init_args": {**init_args, **OLD}}))
    adapter = saved.load(tmp_path / "model")
    (warning,) = warnings_in(caplog)
    assert NUM_TIME_MASKS in warning and str(tmp_path / "model") in warning
    assert adapter.spec_augment == SpecAugment(**OLD)
    adapter.save(tmp_path / "model")
    assert json.loads(path.read_text()) == new


def test_a_finished_run_of_an_earlier_version_is_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(Path(old_yaml(tmp_path, **OLD)).read_text())
    model = printed(["test", "--run_dir", str(tmp_path)], capsys)
    assert model["adapter"]["init_args"]["spec_augment"] == OLD


def test_options_of_other_packages_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    typed = ["--model.adapter=mine.Adapter", "--model.adapter.init_args.num_time_masks=2"]
    assert old_names.renamed_arguments(["fit", *typed]) == ["fit", *typed]
    options = {"model": {"adapter": {"class_path": "mine.Adapter", "init_args": OLD}}}
    assert old_names.renamed_options(options) == options
    assert not warnings_in(caplog)


def test_what_cannot_be_read_is_left_to_the_parser() -> None:
    arguments = ["fit", "--config", "no such file.yaml", "--config={broken", "--model.adapter.num_time_masks"]
    renamed = [*arguments[:-1], "--model.adapter.init_args.spec_augment.num_time_masks"]
    assert old_names.renamed_arguments(arguments) == renamed


@pytest.mark.parametrize("option", [{"num_time_masks": -1}, {"freq_bins": -1}, {"time_fraction": 1.5}])
def test_masks_that_cannot_be(option: dict) -> None:
    with pytest.raises(ValueError, match="must not be negative, and time_fraction must lie between 0 and 1"):
        SpecAugment(**option)
