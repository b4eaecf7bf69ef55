"""The finished run that ``validate`` and ``test`` are about: its folder, and the options that it recorded. No torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from asr_lightning.errors import OptionError

COMMANDS = ("validate", "test")
CONFIG = "config.yaml"


def with_folder(arguments: Sequence[str]) -> list[str]:
    """A command line of ``validate`` or ``test`` in which a run folder that comes first has its option.

    Raises:
        OptionError: No folder is given, or it is not the folder of a finished run.
    """
    command, *options = arguments
    if command not in COMMANDS:
        return [*arguments]
    if options and not options[0].startswith("-"):
        options = ["--run_dir", *options]
    run_dir = _run_dir_of(options)
    if not any(option in ("-h", "--help") or option.startswith("--config") for option in options):
        _require_finished(command, run_dir)
    return [command, *options]


def recorded_options(arguments: Sequence[str]) -> list[str]:
    """The options that the run of a command line has recorded, as an argument of LightningCLI; empty without any.

    They are read here and passed on as JSON: jsonargparse takes a folder that is called 1e5 for a number, and earlier
    versions wrote such names without quotation marks.
    """
    command, *options = arguments
    run_dir = _run_dir_of(options) if command in COMMANDS else None
    if run_dir is None or not (run_dir / CONFIG).is_file():
        return []
    import yaml

    try:
        content = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{run_dir / CONFIG} cannot be read ({error}): copy the run folder again") from error
    return [f"--config={json.dumps(content, default=str)}"]


def _run_dir_of(options: Sequence[str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run_dir", type=Path, nargs="?")
    run_dir: Path | None = parser.parse_known_args(options)[0].run_dir
    return run_dir


def _require_finished(command: str, run_dir: Path | None) -> None:
    again = f"python -m asr_lightning {command} --run_dir"
    if run_dir is None:
        raise OptionError(f"{command} needs the folder of a finished run: {again} runs/demo", "run_dir")
    if not run_dir.is_dir():
        found = "is a file" if run_dir.exists() else "does not exist"
        raise OptionError(f"the run folder {run_dir} {found}: check the path, as in {again} runs/demo", "run_dir")
    if (run_dir / CONFIG).is_file():
        return
    if runs := sorted(path.parent for path in run_dir.glob(f"*/{CONFIG}")):
        what = "several seeds" if (run_dir / "seeds.json").is_file() else "other runs"
        raise OptionError(f"{run_dir} holds {what}: name one of them, as in {again} {runs[0]}", "run_dir")
    if run_dir.name == "model" and (run_dir.parent / CONFIG).is_file():
        raise OptionError(f"{run_dir} is the model of a run: name the run, {again} {run_dir.parent}", "run_dir")
    raise OptionError(
        f"{run_dir} is no finished run, since it holds no {CONFIG}: name one, as in {again} runs/demo", "run_dir"
    )
