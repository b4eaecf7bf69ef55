"""Find the issues D06 to D17 and D19 of decoded recordings, by their measures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from asr_lightning.data.durations import SHORT_SECONDS
from asr_lightning.data.sound import Finding, Kind, findings
from asr_lightning.server.intake.clips import LEFT_OUT
from asr_lightning.server.intake.decoding import Sound
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.verdict import Issue, Level

MIN_SECONDS = 0.1
PACE = 3.0  # times faster or slower than the median; wide, since atypical speech varies
MIN_FOR_PACE = 8
AGAIN = "record it again"
CODES = {
    Kind.SILENT: "D09",
    Kind.CLIPPED: "D10",
    Kind.QUIET: "D11",
    Kind.OFFSET: "D12",
    Kind.ONE_CHANNEL: "D13",
    Kind.RESCALED: "D14",
    Kind.LOW_RATE: "D16",
}


def sound_issues(sound: Sound, limits: IntakeLimits, name: str, uid: str) -> list[Issue]:
    """The issues of one recording; with an issue of level "E" it cannot be used."""
    rules: list[tuple[str, Level, bool, str]] = [
        ("D06", "W", sound.seconds > limits.long_seconds,
         f"it has {sound.seconds:.1f} s, most models take {limits.long_seconds:g} s; split it at a pause"),
        ("D07", "E", sound.seconds < MIN_SECONDS, f"it is under {MIN_SECONDS:g} s; {AGAIN}; {LEFT_OUT}"),
        ("D07", "W", MIN_SECONDS <= sound.seconds < SHORT_SECONDS, f"it is under {SHORT_SECONDS:g} s; listen to it"),
    ]  # fmt: skip
    issues = [Issue(code, severity, message, name, uid) for code, severity, applies, message in rules if applies]
    return issues + [_issue(finding, name, uid) for finding in findings(sound.measures)]


def _issue(finding: Finding, name: str, uid: str) -> Issue:
    if finding.kind.is_refused:
        return Issue(CODES[finding.kind], "E", f"{finding.message}; {AGAIN}; {LEFT_OUT}", name, uid)
    return Issue(CODES[finding.kind], "W", finding.message, name, uid)


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
