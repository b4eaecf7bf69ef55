"""The model folder that converters read: that of the user, which is never changed, or a temporary one made of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asr_lightning.adapters import model_files, saved
from asr_lightning.export import child
from asr_lightning.export.source import Source


@contextmanager
def saved_folder(source: Source, seconds: float) -> Iterator[Path]:
    """The folder that converters read: that of the model, if this package has saved it, or else a temporary copy."""
    if saved.record(source.model) is not None and model_files.base_of(source.model) is None:
        yield Path(source.model).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="asr-lightning-") as temporary:
        folder = Path(temporary) / "model"
        child.call("asr_lightning.export.tasks:save", {"model": source.model, "target": str(folder)}, seconds)
        yield folder


@contextmanager
def with_margin(model: Path, source: Source) -> Iterator[Path]:
    """The folder ``model``, or one of links to its files whose record has the margin that ``source`` asks for."""
    if source.margin_seconds is None:
        yield model
        return
    record = saved.record(model)
    assert record is not None, "every folder here was saved by an adapter"
    with tempfile.TemporaryDirectory(prefix="asr-lightning-") as temporary:
        folder = Path(temporary)
        for path in model.absolute().iterdir():
            if path.name != saved.FILE_NAME:
                (folder / path.name).symlink_to(path)
        init_args = {**record.init_args, "margin_seconds": source.margin_seconds}
        content = json.dumps(record._replace(init_args=init_args)._asdict())
        (folder / saved.FILE_NAME).write_text(content, encoding="utf-8")
        yield folder
