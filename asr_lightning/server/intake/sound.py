"""Find the issues D06 to D17 and D19 of decoded recordings, by their measures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from asr_lightning.data.durations import SHORT_SECONDS
from asr_lightning.server.intake.clips import LEFT_OUT
from asr_lightning.server.intake.decoding import Sound
from asr_lightning.server.intake.limits import RATE, IntakeLimits
from asr_lightning.server.intake.verdict import Issue, Level

MIN_SECONDS = 0.1
SILENT_DB, LOW_DB = -50.0, -45.0  # of full scale
CLIPPED_SHARE = 0.001
OFFSET = 0.05
PACE = 3.0  # times faster or slower than the median; wide, since atypical speech varies
MIN_FOR_PACE = 8
AGAIN = "record it again"


def sound_issues(sound: Sound, limits: IntakeLimits, name: str, uid: str) -> list[Issue]:
    """The issues of one recording; with an issue of level "E" it cannot be used."""
    measures = sound.measures
    peak, level = _decibel(measures.peak), _decibel(measures.rms)
    rules: list[tuple[str, Level, bool, str]] = [
        ("D06", "W", sound.seconds > limits.long_seconds,
         f"it has {sound.seconds:.1f} s, most models take {limits.long_seconds:g} s; split it at a pause"),
        ("D07", "E", sound.seconds < MIN_SECONDS, f"it is under {MIN_SECONDS:g} s; {AGAIN}; {LEFT_OUT}"),
        ("D07", "W", MIN_SECONDS <= sound.seconds < SHORT_SECONDS, f"it is under {SHORT_SECONDS:g} s; listen to it"),
        ("D09", "E", peak < SILENT_DB, f"it is silent (peak {peak:.0f} dBFS); {AGAIN}; {LEFT_OUT}"),
        ("D10", "W", measures.clipped >= CLIPPED_SHARE or measures.runs > 0, f"it is clipped; {AGAIN} less loudly"),
        ("D11", "W", peak >= SILENT_DB and level < LOW_DB, f"it is very quiet ({level:.0f} dBFS); {AGAIN} closer"),
        ("D12", "W", abs(measures.mean) > OFFSET, "it has a constant offset; check the microphone"),
        ("D16", "W", measures.rate < RATE, f"it was recorded at {measures.rate:g} Hz; {RATE} Hz or more is better"),
    ]  # fmt: skip
    return [Issue(code, severity, message, name, uid) for code, severity, applies, message in rules if applies]


def pace_issues(spoken: Mapping[str, tuple[str, str, float]]) -> list[Issue]:
    """The issues D17: texts that are far too long or too short for their recording.

    Args:
        spoken: The client's file name, the text and the seconds of each clip, by uid.
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
    """The issues D19: recordings with exactly the same sound.

    Args:
        digests: The uid, the client's file name and the hash of each recording.
    """
    first: dict[str, str] = {}
    issues = []
    for uid, name, digest in digests:
        earlier = first.setdefault(digest, name)
        if earlier is not name:
            issues.append(Issue("D19", "W", f"it has the same sound as '{earlier}'; keep one of them", name, uid))
    return issues


def _decibel(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1e-10))
