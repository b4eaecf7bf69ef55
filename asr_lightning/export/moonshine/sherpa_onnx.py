"""Moonshine for sherpa-onnx: the graphs of ``onnx``, and the tokens in base64."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from asr_lightning.export.moonshine import graphs as moonshine_graphs
from asr_lightning.export.moonshine import loading as moonshine
from asr_lightning.runtime.formats import FLOAT

TOKENS = "tokens.txt"


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write the files of ``variant`` into ``target``."""
    adapter = moonshine.load(source)
    settings = moonshine.settings_of(adapter)
    moonshine.require_ids(adapter, "sherpa-onnx")
    moonshine_graphs.write(adapter.model, target, variant != FLOAT)
    lines = (
        f"{base64.b64encode(piece).decode()} {number}\n" for number, piece in enumerate(moonshine.pieces_of(adapter))
    )
    (target / TOKENS).write_text("".join(lines), encoding="ascii")
    return {**settings.as_json(), "variant": variant, "kind": "moonshine"}


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the files in ``target``."""
    adapter = moonshine.load(source)
    read: list[bytes] | None
    try:
        rows = [line.split(" ") for line in (target / TOKENS).read_text(encoding="ascii").splitlines()]
        read = [base64.b64decode(row[0]) for row in rows]
        is_numbered = [int(row[1]) for row in rows] == list(range(len(rows)))
    except (OSError, ValueError, IndexError):
        read, is_numbered = None, True
    return [
        *moonshine.token_problems(target / TOKENS, read, adapter),
        *([] if is_numbered else [f"{TOKENS} does not list the tokens in their order"]),
        *moonshine.graph_problems(adapter, target, is_rounded=settings.get("variant") != FLOAT),
    ]
