"""What a choice gives up is told, with the command that takes the other weights; and the command takes them."""

from __future__ import annotations

import hashlib
import json
import shlex
import string
from pathlib import Path

import pytest
import torch
from make_tones import write_tones

import asr_lightning as asr
from asr_lightning.__main__ import main
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.datamodules.canary import Canary
from asr_lightning.reports.statistics import Bootstrap
from asr_lightning.run.forgetting import Forgetting, Loss
from asr_lightning.run.price import price_of
from asr_lightning.run.selection import Candidate, Selection, SelectionSettings
from asr_lightning.scoring.evaluation import Evaluation
from asr_lightning.scoring.text import basic
from tests.toy_run import toy_data, toy_fit, toy_module

NEXT_LETTER = str.maketrans(string.ascii_lowercase, string.ascii_lowercase[1:] + "a")
LOST = Loss({}, Bootstrap(0.096, 0.074, 0.12, 0.0, 10_000, 200), 0.069)
LITTLE = Loss({}, Bootstrap(0.009, 0.0, 0.018, 0.0, 10_000, 200), 0.0)


def candidates(tones: Path, *changes: dict, **settings: float) -> tuple[Selection, list[Candidate]]:
    dev = Evaluation((), 1.0)
    canary = Forgetting(Canary(tones), "cpu", basic, 0.5, 1.0)
    selection = Selection("cpu", basic, SelectionSettings(**settings), canary, dev)
    given = [
        {"name": "untouched model", "alpha": 0.0, "wer": 0.4},
        {"name": "average of 4 folds", "alpha": 1.0, "wer": 0.155},
        {"name": "average of 4 folds", "alpha": 0.5, "wer": 0.259},
    ]
    selection.candidates = [Candidate(dev=dev, **kept, **more) for kept, more in zip(given, changes, strict=True)]
    return selection, selection.candidates


def test_what_the_canary_costs_is_told(tones_once: Path) -> None:
    selection, (base, best, step) = candidates(tones_once, {}, {"lost": LOST}, {"lost": LITTLE})
    price = price_of(selection, step)
    assert price is not None
    assert price.sentence == (
        "Given up: average of 4 folds at alpha 1 has 15.5 % WER on dev, and what was chosen 25.9 %; it was left out "
        "because it changes the WER of other people on the canary by +9.6 points (+7.4 to +12.0), and the chosen one "
        "by +0.9 points (+0.0 to +1.8)."
    )
    assert price.command(Path("runs/my run")) == (
        "python -m asr_lightning fit --config 'runs/my run/config.yaml' --ckpt_path last --selection.canary_weight 0"
    )
    assert price_of(selection, best) is None
    assert price_of(selection, base) is not None


def test_what_the_guard_costs_is_told(tones_once: Path) -> None:
    selection, (base, *_) = candidates(tones_once, {}, {"p_better": 0.9376}, {"p_better": 0.8})
    price = price_of(selection, base)
    assert price is not None
    assert "it beats the untouched model with a probability of 0.94 only, less than 0.975." in price.sentence
    assert price.options == ("--selection.min_probability 0.937", "--selection.canary_weight 0")
    unreadable, (base, *_) = candidates(tones_once, {}, {"note": "gets more than 90% of the words wrong"}, {})
    assert price_of(unreadable, base) is None, "no option takes these weights"


@pytest.fixture(scope="module")
def reader(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that reads tones."""
    module, folder = toy_module(), tmp_path_factory.mktemp("reader")
    toy_fit(module, toy_data(tones_once), [], max_epochs=25, limit_val_batches=0)
    module.adapter.save(folder)
    return folder


def test_the_command_takes_the_other_choice(
    reader: Path, tones_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every letter gets the name of the next one: it is learned for the speaker, and forgotten for all others."""
    write_tones(folder := tmp_path / "shifted clips")
    for path in folder.glob("*.txt"):
        path.write_text(path.read_text().translate(NEXT_LETTER))
    run_dir = tmp_path / "run"
    options = [f"--model={reader}", f"--run_dir={run_dir}", f"--canary={tones_once}", "--trainer.max_epochs=25"]
    more = ["--config=configs/models/toy.yaml", "--selection.canary_weight=.inf"]
    assert main(["specialize", str(folder), *options, *more]) == 0
    printed = capsys.readouterr().out
    (command,) = (line for line in printed.splitlines() if line.startswith("To take it instead: "))
    assert "Given up: " in printed and "it changes the WER of other people on the canary by +" in printed
    command = command.removeprefix("To take it instead: ")
    for page in ("report.md", "report.html"):
        text = (run_dir / page).read_text()
        place = text.index("--ckpt_path last --selection.canary_weight 0")
        assert place < text.index("How well it understands this voice")
    kept = {path: digest(run_dir / path) for path in ("model/toy.pt", "results.json", "report.html", "report.md")}

    assert main(shlex.split(command)[3:]) == 0
    results = json.loads((run_dir / "results.json").read_text())
    assert results["alpha"] > 0 and not results["given_up"]
    assert "Given up" not in capsys.readouterr().out
    weights = asr.load(run_dir / "model").adapter.model.state_dict()
    assert not all(
        torch.equal(tensor, weights[name]) for name, tensor in ToyAdapter(str(reader)).model.state_dict().items()
    )
    assert {path: digest(run_dir / "earlier" / path) for path in kept} == kept, "nothing is overwritten"

    assert main(shlex.split(command)[3:]) == 0
    assert {path: digest(run_dir / "earlier" / path) for path in kept} == kept
    assert json.loads((run_dir / "earlier-2" / "results.json").read_text())["alpha"] == results["alpha"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
