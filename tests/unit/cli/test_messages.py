"""Messages name options as the command line takes them, so that they can be copied from the terminal."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_lightning.cli.arguments import with_off, with_off_in_files
from asr_lightning.cli.specialize import joined
from asr_lightning.cli.usage_errors import readable
from asr_lightning.errors import OptionError
from asr_lightning.run.spec import RunSpec

PACKAGE = Path(__file__).parents[3] / "asr_lightning"
GROUPS = "trainer|model|data|selection|train_only|compile|average_steps|half_epoch_validation|early_stopping"
BARE = re.compile(rf"(?<![-\w./])(?:{GROUPS})\.(?!json|new|safetensors|bin|tar)[a-z_]{{3,}}\b(?![(./])")
"""An option of ``fit`` without its dashes."""
PYTHON = re.compile(r"\b[a-z_]+=(?:True|False|None|')")
"""An option as Python takes it."""
FOR_PROGRAMMERS = {"conformance.py", "audio_folder.py"}
"""Files with messages for people who write code, which mention arguments of functions."""


def messages() -> Iterator[tuple[str, str]]:
    """Place and text of every message that is raised or logged."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                texts = node.exc.args
            elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger."):
                texts = node.args[:1]
            else:
                continue
            for text in texts[:1]:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", re.sub(r"\{[^{}]*\}", "", ast.unparse(text))


def test_options_are_written_as_the_command_line_takes_them() -> None:
    found = list(messages())
    assert len(found) > 200
    wrong = [
        (place, text)
        for place, text in found
        if BARE.search(text) or (PYTHON.search(text) and place.split(":")[0].rpartition("/")[2] not in FOR_PROGRAMMERS)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "Parser key \"data.audio_dir\":\n  Expected a <class 'str'>. Got value: 100000.0",
            "takes a text, and not 1000",
        ),
        ("Parser key \"a.b\": File does not exist: 'x'", "--a.b: File does not exist: 'x'"),
        (
            "Unrecognized arguments: --trainer.epochs=3",
            "fit has no option --trainer.epochs: did you mean --trainer.max_",
        ),
        ("Unrecognized arguments: --nonsense 3", "fit has no option --nonsense: python -m asr_lightning fit --help"),
        ("Unrecognized arguments: --lr 3", "fit has no option --lr: did you mean --model.optimizer.lr? python"),
        ("Unrecognized arguments: --language de", "did you mean --model.adapter.init_args.language? python"),
        ("something\n  new", "something new"),
    ],
)
def test_a_usage_error_is_one_sentence(message: str, sentence: str) -> None:
    text = readable(message, "fit", ["trainer.max_epochs", "model.optimizer.lr"])
    assert sentence in text and "\n" not in text


@pytest.mark.parametrize(
    "typed",
    [
        ["clips", "--trainer.max_epochs", "4", "-c", "a.yaml"],
        ["--trainer.max_epochs", "4", "-c", "a.yaml", "clips"],
        ["-ca.yaml", "--trainer.max_epochs=4", "clips"],
    ],
)
def test_options_of_fit_may_stand_before_the_folder(typed: list[str]) -> None:
    assert sorted(joined(typed)) == ["--config=a.yaml", "--trainer.max_epochs=4", "clips"]


def test_own_options_and_those_without_a_value_stay_as_they_are() -> None:
    typed = ["--model", "toy", "--print_config", "clips", "--seeds", "2", "--data.shares", "[0.6,0.2,0.2]"]
    assert joined(typed) == [*typed[:6], "--data.shares=[0.6,0.2,0.2]"]
    with pytest.raises(OptionError, match="--data.replay needs a value, as in --data.replay VALUE"):
        joined(["clips", "--data.replay", "--seed", "1"])


def test_off_without_quotation_marks_means_off(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "folds: off\ndata: {replay: off, batch_size: 4}\nhalf_epoch_validation: {half: off}\n"
    )
    (tmp_path / "b.yaml").write_text("folds: 'off'\n")
    meant = '{"folds": "off", "data": {"replay": "off", "batch_size": 4}, "half_epoch_validation": {"half": false}}'
    typed = ["fit", "--config", f"{tmp_path}/a.yaml", f"--config={tmp_path}/b.yaml", "--run_dir", "off"]
    assert with_off_in_files(typed) == ["fit", "--config", meant, *typed[3:]]
    assert with_off({"folds": False, "selection": {"canary": False}}) == {
        "folds": "off",
        "selection": {"canary": "off"},
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": "x"}, "epochs must be a whole number, and not 'x'"),
        ({"epochs": True}, "epochs must be a whole number, and not True"),
        ({"seed": 0.5}, "seed must be a whole number, and not 0.5"),
        ({"seed": None}, "seed must be a whole number, and not None"),
        ({"language": 3}, "language must be a code such as 'de', and not 3"),
        ({"budget": 60}, "budget must be a time such as '5m', and not 60"),
        ({"canary": 1}, "canary must be the path of a folder, 'bundled' or 'off', and not 1"),
        ({"accelerator": 0}, "accelerator must be 'auto'"),
        ({"data": 5}, "data must be the path of a folder, and not 5"),
        ({"model": None}, "model must be the name of a model, or the path of its folder, and not None"),
        ({"options": ["folds"]}, "options must be a dictionary"),
    ],
)
def test_a_wrong_type_from_python_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        RunSpec(**{"data": Path("clips"), "run_dir": Path("run"), **wrong})  # type: ignore[arg-type]
    assert error.value.param == next(iter(wrong))


def test_a_path_is_as_good_as_its_text() -> None:
    spec = RunSpec("clips", "run", model=Path("runs/a/model"), canary=Path("others"))  # type: ignore[arg-type]
    assert (spec.data, spec.run_dir, spec.model, spec.canary) == (Path("clips"), Path("run"), "runs/a/model", "others")
