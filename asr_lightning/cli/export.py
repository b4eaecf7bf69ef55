"""``export``: convert a model to the formats of other runtimes, each proven in its runtime on the test clips."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from asr_lightning.runtime.formats import FORMATS, parse


def parser() -> argparse.ArgumentParser:
    """The parser for ``export``."""
    formats = "\n".join(f"  {known.name:16}{', '.join(known.variants):22}{known.used_by}" for known in FORMATS)
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning export",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Convert a model to the formats of other runtimes. Each is read back in its runtime on the test "
        "clips; what reads\nworse than the model in torch is refused.\n\n"
        f"formats, their variants with the default first, and what reads them:\n{formats}",
    )
    options.add_argument("model", help="folder of a finished run, folder of a model, or a name of models")
    options.add_argument("--to", required=True, help="formats, such as ctranslate2,ggml:q5_1; all for every format")
    options.add_argument("--data", type=Path, help="recordings to compare on; default: the test clips of the run")
    options.add_argument("--output", type=Path, help="folder for the exports; default: exports in the run's folder")
    margin = "for Whisper: silence after a clip in seconds, in place of what the model was saved with; less is faster"
    options.add_argument("--margin", type=float, help=margin)
    options.add_argument("--timeout", type=float, default=1800.0, help="time limit for each step in seconds")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Export a model; returns 1 if a format was refused."""
    options = parser().parse_args(arguments)
    if options.timeout <= 0:
        raise ValueError(f"--timeout must be above 0 seconds, not {options.timeout:g}")
    targets = None if options.to == "all" else parse(options.to)
    from asr_lightning.errors import require_extra
    from asr_lightning.export.run import export, targets_of
    from asr_lightning.export.source import find

    require_extra("export", "torch", "export")
    source = find(options.model, options.data, options.output)
    if options.margin is not None:
        if source.family != "whisper" or options.margin < 0:
            raise ValueError("--margin is a time in seconds, not below 0, for Whisper models: leave it out for others")
        source = replace(source, margin_seconds=options.margin)
    exports = export(source, targets or targets_of(source.family), options.timeout)
    print(exports.table)
    return 0 if exports.is_complete else 1
