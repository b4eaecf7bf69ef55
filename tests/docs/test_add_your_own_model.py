"""The page works: its files are written, its package is built, and its commands print what the page shows.

A block is a file if the line above it is a file name in backticks; a block of ``console`` is a command and its output.
Figures may differ from those of the page, and a line of ``…`` stands for any lines.
"""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from asr_lightning.__main__ import main
from asr_lightning.protocols import ASRAdapter

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/add_your_own_model.md").read_text(encoding="utf-8")
TOY = "asr_lightning/adapters/toy.py"
PROGRAM = "python -m asr_lightning "
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
CONSOLE = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FIGURE = r"-?\d[\d,.:]*(?:e[-+]\d+)?"


class Ran(NamedTuple):
    """The exit status and output of a command of the page."""

    status: int
    printed: str


@pytest.fixture(scope="module")
def folder(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a reader, with every file of the page, the tones, and the package of the page installed."""
    folder = tmp_path_factory.mktemp("reader")
    for name, text in FILES.items():
        if name != TOY:
            (folder / name).write_text(text, encoding="utf-8")
    shutil.copytree(tones_once, folder / "tones", ignore=shutil.ignore_patterns("*.csv"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)  # as ``python -m`` does
        patch.syspath_prepend(install(folder, tmp_path_factory.mktemp("built")))
        yield folder
    for name in ("my_model", "my_model_card", "noisy", "fixed"):
        sys.modules.pop(name, None)


def install(package: Path, built: Path) -> Path:
    """Build the wheel of ``package`` and unpack it, as an installation does."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(build, cwd=package, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(built / "site")
    return built / "site"


@pytest.fixture(scope="module")
def ran(folder: Path) -> dict[str, Ran]:
    """The results of every command of the page, run in its order in this process."""
    done = {}
    for command, _ in CONSOLE:
        assert command.startswith(PROGRAM)
        printed = io.StringIO()
        with redirect_stdout(printed):
            status = main(shlex.split(command.removeprefix(PROGRAM)))
        done[command] = Ran(status, printed.getvalue())
    return done


def pattern(shown: str) -> str:
    """Turn ``shown`` into a regular expression that permits any figures, any spacing, and any lines for ``…``."""
    parts = []
    for line in shown.split("\n"):
        words = (re.escape(re.sub(FIGURE, "FIGURE", word)).replace("FIGURE", FIGURE) for word in line.split())
        parts.append(r"[\s\S]*" if line == "…" else " ".join(words))
    return "\n".join(parts).strip("\n")


def spaced(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip("\n").split("\n"))


def command_with(*words: str) -> str:
    (command,) = (command for command, _ in CONSOLE if all(word in command for word in words))
    return command


def test_toy_is_shown_as_it_is() -> None:
    assert FILES[TOY] == (ROOT / TOY).read_text(encoding="utf-8"), (
        f"docs/add_your_own_model.md shows another {TOY}: copy the file into section 2 again"
    )


def test_table_names_every_member() -> None:
    section = PAGE.split("\n## ")[1]
    members = re.findall(r"^\| `(\w+)(?:\(\w*\))?` \|", section, re.MULTILINE)
    assert members == [name for name in vars(ASRAdapter) if not name.startswith("_")]
    assert len(members) == 11


def test_example_has_sixty_lines() -> None:
    text = FILES["my_model.py"]
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len([line for line in text.splitlines() if line.strip()]) - len(imports) <= 60


@pytest.mark.parametrize(("command", "shown"), CONSOLE, ids=[command.removeprefix(PROGRAM) for command, _ in CONSOLE])
def test_command_prints_what_the_page_shows(ran: dict[str, Ran], command: str, shown: str) -> None:
    assert re.fullmatch(pattern(shown), spaced(ran[command].printed)), ran[command].printed


@pytest.mark.parametrize(
    ("adapter", "status", "last"),
    [
        ("my_model.MyAdapter", 0, "the adapter keeps the contract"),
        ("noisy.Noisy", 1, "1 of the checks failed"),
        ("fixed.Noisy", 0, "the adapter keeps the contract"),
    ],
)
def test_check_adapter_tells_the_mistake_from_its_fix(
    ran: dict[str, Ran], adapter: str, status: int, last: str
) -> None:
    result = ran[command_with("check-adapter", adapter)]
    assert result.status == status
    assert result.printed.splitlines()[-1] == last


def test_mistake_is_the_one_that_the_page_names(ran: dict[str, Ran]) -> None:
    (failure,) = (line for line in ran[command_with("noisy")].printed.splitlines() if line.startswith("FAIL"))
    assert "loss changed the batch" in failure
    assert failure in PAGE


def test_models_lists_the_package(ran: dict[str, Ran]) -> None:
    names = [line.split()[0] for line in ran[command_with("models")].printed.splitlines() if line]
    assert {"toy", "my-model"} <= set(names)


@pytest.mark.parametrize("run", ["mine", "by_name"])
def test_training_lowers_the_word_error_rate(ran: dict[str, Ran], folder: Path, run: str) -> None:
    results = json.loads((folder / "runs" / run / "results.json").read_text())
    for split in ("dev", "test"):
        assert results[split]["wer"]["after"] < results[split]["wer"]["before"]
    assert (folder / "runs" / run / "model" / "my_model.pt").is_file()


def test_card_trains_as_the_configuration_does(ran: dict[str, Ran], folder: Path) -> None:
    """The page has one recipe twice; equal error rates show that both are used completely."""
    from my_model_card import CARD

    config = yaml.safe_load(FILES["my_model.yaml"])
    assert len(FILES["my_model.yaml"].splitlines()) == 6
    assert config["model"].pop("adapter") == {"class_path": CARD.adapter}
    assert config["data"].pop("audio_dir") == "tones"
    assert config.pop("run_dir") == "runs/mine"
    assert config == CARD.recipe
    mine, named = (json.loads((folder / "runs" / run / "results.json").read_text()) for run in ("mine", "by_name"))
    assert mine["dev"] == named["dev"]


def test_card_costs_no_torch(folder: Path) -> None:
    code = "import my_model_card, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == 0


def test_card_counts_its_parameters(ran: dict[str, Ran]) -> None:
    from my_model import MyModel
    from my_model_card import CARD

    assert CARD.parameters == pytest.approx(sum(p.numel() for p in MyModel().parameters()) / 1e6, abs=0.005)


def test_named_places_exist() -> None:
    table = PAGE.split("**Inside this repository**")[1].split("\n## ")[0]
    places = re.findall(r"^\| `([\w./]+)` \|", table, re.MULTILINE)
    assert len(places) == 12
    assert all((ROOT / place).exists() for place in places)
