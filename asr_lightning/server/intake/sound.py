"""Issues of a decoded recording, from its figures. Thresholds: the data checks D06 to D17 and D19."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from asr_lightning.data.durations import SHORT_SECONDS
from asr_lightning.server.intake.clips import LEFT_OUT
from asr_lightning.server.intake.decoding import RATE, Sound
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.verdict import Issue

MIN_SECONDS = 0.1
SILENT_DB, LOW_DB = -50.0, -45.0  # of full scale
CLIPPED_SHARE = 0.001
OFFSET = 0.05
PACE = 3.0  # times faster or slower than the median; wide, since atypical speech varies
MIN_FOR_PACE = 8
AGAIN = "record it again"


def sound_issues(sound: Sound, limits: IntakeLimits, name: str, uid: str) -> list[Issue]:
    """What is wrong or doubtful with one recording; an E among them means that it cannot be used."""
    figures = sound.measures
    peak, level = _decibel(figures["peak"]), _decibel(figures["rms"])
    found: list[tuple[str, str, bool, str]] = [
        ("D06", "W", sound.seconds > limits.long_seconds,
         f"it has {sound.seconds:.1f} s, most models take {limits.long_seconds:g} s; split it at a pause"),
        ("D07", "E", sound.seconds < MIN_SECONDS, f"it is under {MIN_SECONDS:g} s; {AGAIN}; {LEFT_OUT}"),
        ("D07", "W", MIN_SECONDS <= sound.seconds < SHORT_SECONDS, f"it is under {SHORT_SECONDS:g} s; listen to it"),
        ("D09", "E", peak < SILENT_DB, f"it is silent (peak {peak:.0f} dBFS); {AGAIN}; {LEFT_OUT}"),
        ("D10", "W", figures["clipped"] >= CLIPPED_SHARE or figures["runs"] > 0, f"it is clipped; {AGAIN} less loudly"),
        ("D11", "W", peak >= SILENT_DB and level < LOW_DB, f"it is very quiet ({level:.0f} dBFS); {AGAIN} closer"),
        ("D12", "W", abs(figures["mean"]) > OFFSET, "it has a constant offset; check the microphone"),
        ("D16", "W", figures["rate"] < RATE, f"it was recorded at {figures['rate']:g} Hz; {RATE} Hz or more is better"),
    ]  # fmt: skip
    return [Issue(code, level, message, name, uid) for code, level, applies, message in found if applies]  # type: ignore[arg-type]


def pace_issues(spoken: Mapping[str, tuple[str, str, float]]) -> list[Issue]:
    """D17: texts that are far too long or too short for their recording.

    Args:
        spoken: Client's name, text and seconds by uid.
    """
    if len(spoken) < MIN_FOR_PACE:
        return []
    pace = {uid: len(text) / seconds for uid, (_, text, seconds) in spoken.items()}
    median = statistics.median(pace.values())
    message = "the text is far too long or too short for this recording, compared with the others; check it"
    return [
        Issue("D17", "W", message, spoken[uid][0], uid)
        for uid, value in pace.items()
        if not median / PACE <= value <= median * PACE
    ]


def repeat_issues(digests: Sequence[tuple[str, str, str]]) -> list[Issue]:
    """D19: recordings with exactly the same sound.

    Args:
        digests: uid, client's name and hash of each recording.
    """
    first: dict[str, str] = {}
    issues = []
    for uid, name, digest in digests:
        known = first.setdefault(digest, name)
        if known is not name:
            issues.append(Issue("D19", "W", f"it has the same sound as '{known}'; keep one of them", name, uid))
    return issues


def _decibel(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1e-10))
