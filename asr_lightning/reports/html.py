"""A report -> one HTML page that opens offline: no script, no request, players inside. Knows no model, no metric.

Transcripts are untrusted: Jinja escapes every text, and the page's Content-Security-Policy allows no script at all.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import soundfile

from asr_lightning.data import audio
from asr_lightning.reports.build import Report, measure, percent, points, said_of_test, sections

SAMPLE_RATE = 16_000

WIDTH, HEIGHT = 360, 220  # of a chart, in its own units: a phone shows it at about its natural size
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 20, 40

Point = tuple[float, float]
"""Horizontal and vertical position in a chart, in its own units."""


class IntervalBar(NamedTuple):
    """The change of a set of clips on the axis that all sets share; positions in percent of its width.

    Attributes:
        name: Name of the set.
        part: Its section of the report.
        left: Start of the 95 % interval.
        width: Width of the interval.
        dot: Position of the change itself.
    """

    name: str
    part: Report
    left: float
    width: float
    dot: float


class Chart(NamedTuple):
    """A line chart, in its own units.

    Attributes:
        title: Title above it.
        size: Width and height.
        frame: Left, top, right and bottom of the area within the axes.
        lines: Points of each line, by name.
        levels: Name and height of each horizontal line.
        chosen: The point of the validation that was chosen; empty if none was.
        x_ticks: Position and label of each tick.
        y_ticks: Position and label of each tick.
    """

    title: str
    size: tuple[int, int]
    frame: tuple[int, int, int, int]
    lines: Mapping[str, list[Point]]
    levels: list[tuple[str, float]]
    chosen: list[Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def page(report: Report, recordings: Mapping[str, Path]) -> str:
    """The whole page.

    Args:
        report: What ``build`` returned.
        recordings: Audio files by uid; a clip without one, or with one that cannot be decoded, has no player.
    """
    return _template().render(
        report=report,
        players=_players([row["uid"] for row in report["utterances"]], recordings),
        intervals=_intervals(report),
        charts=_charts(report),
        parts=sections(report),
        said_of_test=said_of_test(report),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("asr_lightning.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=_percent, points=_points, typeset=_typeset, number=_number, loss=_loss, minutes=_minutes
    )
    environment.globals.update(measure=measure)
    return environment.get_template("report.html.j2")


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else _typeset(percent(fraction))


def _points(fraction: float) -> str:
    return _typeset(points(fraction))


def _typeset(text: str) -> str:
    """``text`` with minus signs, which screen readers speak, and with no line break before a percent sign."""
    return re.sub(r"(?<!\S)-(?=\d)", "\N{MINUS SIGN}", text).replace(" %", "\N{NO-BREAK SPACE}%")


def _number(value: float) -> str:
    return f"{value:,.4g}"


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _minutes(seconds: float) -> str:
    """A length of time as "12 min 42 s"."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.1f} s"


def _players(uids: Sequence[str], recordings: Mapping[str, Path]) -> dict[str, str]:
    """A ``data:`` URI for each uid; empty where there is no recording or none that can be decoded."""
    with ThreadPoolExecutor() as pool:  # libsndfile works outside of Python's lock
        return dict(zip(uids, pool.map(lambda uid: _player(recordings.get(uid)), uids), strict=True))


def _player(recording: Path | None) -> str:
    try:
        return _data_uri(recording) if recording else ""
    except (audio.AudioError, OSError):
        return ""  # the page says so: the figures of a long run must not be lost to one file


def _data_uri(path: Path) -> str:
    if path.suffix.lower() in (".ogg", ".opus"):
        content = path.read_bytes()  # small already, and every browser that plays our own plays it
    else:
        buffer = io.BytesIO()
        soundfile.write(buffer, audio.load(path, SAMPLE_RATE), SAMPLE_RATE, format="OGG", subtype="OPUS")
        content = buffer.getvalue()
    return "data:audio/ogg;base64," + base64.b64encode(content).decode("ascii")


def _intervals(report: Report) -> list[IntervalBar]:
    """The change of each set of clips, with the place of its interval on a common axis in percent of the width."""
    parts = sections(report) | {f"Others ({mode})": part for mode, part in report["canary"]["modes"].items()}
    reach = max(max(abs(part["change"][end]) for end in ("low", "high", "difference")) for part in parts.values())

    def place(change: float) -> float:
        return round(50 + 48 * change / reach, 2) if reach else 50.0

    return [
        IntervalBar(
            name=name,
            part=part,
            left=place(part["change"]["low"]),
            width=round(place(part["change"]["high"]) - place(part["change"]["low"]), 2),
            dot=place(part["change"]["difference"]),
        )
        for name, part in parts.items()
    ]


def _charts(report: Report) -> list[Chart]:
    """The learning curve: word error rate and loss over steps; none without a validation."""
    history = report["history"]
    if not history:
        return []
    chosen = _chosen_validation(report)
    levels = {"untouched": report["dev"]["before"]["wer"]} if report["dev"] else {}
    shipped = next((candidate for candidate in report["candidates"] if candidate["chosen"]), None)
    if shipped and chosen is None and shipped["alpha"] > 0:
        levels["chosen"] = shipped["dev_wer"]
    rates = {"dev": _series(history, "dev_wer")}
    losses = {"dev": _series(history, "dev_loss"), "train": _series(history, "train_loss")}
    return [
        _chart("Word error rate on the dev clips", rates, levels, chosen, percent_axis=True),
        _chart("Loss: dev solid, train dotted", losses, {}, chosen, percent_axis=False),
    ]


def _chosen_validation(report: Report) -> int | None:
    """The step of the validation that is shipped; None where the weights of several are mixed, or the base is kept."""
    chosen = {candidate["name"] for candidate in report["candidates"] if candidate["chosen"]}
    return next((v["step"] for v in report["history"] if f"epoch {v['epoch']:g}" in chosen), None)


def _series(history: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    return [(v["step"], v[name]) for v in history if v[name] is not None]


def _chart(
    title: str, series: Mapping[str, list[Point]], levels: Mapping[str, float], chosen: int | None, percent_axis: bool
) -> Chart:
    """Lines, ticks and marks in the units of the drawing; both axes start at zero."""
    points_of_all = [point for line in series.values() for point in line]
    x_ticks = _ticks(max((x for x, _ in points_of_all), default=0.0))
    y_ticks = _ticks(max([*levels.values(), *(y for _, y in points_of_all)], default=0.0))
    right, top = x_ticks[-1], y_ticks[-1]

    def place(x: float, y: float) -> Point:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / right
        return round(across, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top, 1)

    return Chart(
        title=title,
        size=(WIDTH, HEIGHT),
        frame=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        lines={name: [place(*point) for point in line] for name, line in series.items()},
        levels=[(name, place(0, level)[1]) for name, level in levels.items()],
        chosen=[place(x, y) for x, y in series["dev"] if x == chosen],
        x_ticks=[(place(tick, 0)[0], f"{tick:,g}") for tick in x_ticks],
        y_ticks=[(place(0, tick)[1], f"{100 * tick:g} %" if percent_axis else f"{tick:g}") for tick in y_ticks],
    )


def _ticks(high: float) -> list[float]:
    """Round numbers from zero to ``high`` or just above, at most six."""
    return list(_steps(high)) if math.isfinite(high) and high > 0 else [0.0, 1.0]


def _steps(high: float) -> Iterator[float]:
    power = 10.0 ** math.floor(math.log10(high / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * 5 >= high * (1 - 1e-9))
    for number in range(math.ceil(high / step - 1e-9) + 1):
        yield round(number * step, 10)
