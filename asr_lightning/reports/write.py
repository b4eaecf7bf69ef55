"""Writes the three files of a report into a folder. Computes nothing, and touches no other file there."""

from __future__ import annotations

import json
from pathlib import Path

from asr_lightning.reports.build import Report, build
from asr_lightning.reports.html import page
from asr_lightning.reports.markdown import document
from asr_lightning.reports.study import Study


def write(study: Study, directory: Path) -> Report:
    """Write ``report.html``, ``report.json`` and ``report.md`` into ``directory``, and return what the JSON holds.

    Raises:
        ValueError: As for ``build``; nothing is written then.
    """
    report = build(study)
    contents = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": document(report),
        "report.html": page(report, study.audio),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_text(content, encoding="utf-8")
    return report
