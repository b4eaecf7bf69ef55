"""``bench-device``: error rate, time, memory and size of exported models on this machine, as a table and a picture."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The parser for ``bench-device``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning bench-device", description=__doc__)
    options.add_argument("run", help="folder of a run or of an export; its exports and the model in torch are measured")
    beside = "other exports, or models that torch reads, which are measured first; ratios are to the first of them"
    options.add_argument("--beside", nargs="*", default=[], help=beside)
    options.add_argument("--data", type=Path, help="recordings with transcripts; default: the test clips of the run")
    options.add_argument("--threads", type=int, default=1, help="threads for each model; default: 1")
    options.add_argument("--beam", type=int, default=1, help="hypotheses that the search follows; 1 is greedy")
    options.add_argument("--native", action="store_true", help="feed audio as the makers of the model do")
    options.add_argument("--output", type=Path, help="folder for bench.json and bench.svg; default: the run's")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Measure, and print the table; returns 1 if a model could not be measured."""
    options = parser().parse_args(arguments)
    for name in ("threads", "beam"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, not {getattr(options, name)}")
    from asr_lightning.export import bench
    from asr_lightning.export.source import find
    from asr_lightning.runtime import exported
    from asr_lightning.runtime.contract import Decoding

    decoding = Decoding(beam=options.beam, native=options.native)
    folder = Path(options.run).expanduser()
    if exported.record(folder) is not None:
        source, own = find(options.run, options.data), [options.run]
    else:
        source = find(options.run, options.data)
        own = bench.models_of(source.exports) + ([source.model] if find_spec("torch") else [])
    models = [(model, decoding) for model in [*options.beside, *own]]
    result = bench.bench(models, source, options.threads, lambda name: print(f"measured: {name}", file=sys.stderr))
    print(result.table())
    figures, picture = result.write(options.output or source.exports)
    print(f"\nfigures: {figures}\npicture: {picture}")
    return 1 if result.failed else 0
