"""Unpacked files -> clips: a recording, its text and, where split files are given, its split."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asr_lightning.data.manifest import CSV_NAMES
from asr_lightning.data.rows import split_key
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.names import same_file_key
from asr_lightning.server.intake.texts import Line, is_empty, split_file, transcript
from asr_lightning.server.intake.unpack import RawFile
from asr_lightning.server.intake.verdict import IntakeError, Verdict, printable

Read = Callable[[RawFile], bytes]
LEFT_OUT = "the clip was left out"


@dataclass(frozen=True)
class Clip:
    """A recording that may be used, before it is decoded.

    Attributes:
        uid: Made here, by the order of the client's names.
        audio: The unpacked recording.
        text: On one line, with at least one word.
        split: Of the split file that lists it, or None.
    """

    uid: str
    audio: RawFile
    text: str
    split: str | None = None

    @property
    def name(self) -> str:
        """The client's file name."""
        return self.audio.name.base


@dataclass(frozen=True)
class Listed:
    """A record of a split file."""

    split: str
    line: Line

    @property
    def place(self) -> str:
        """For messages."""
        return f"{CSV_NAMES[self.split]} line {self.line.number}"


@dataclass(frozen=True)
class _Paired:
    """A recording and what may give its text: the file beside it, the record of a split file."""

    uid: str
    audio: RawFile
    own: RawFile | None
    listed: Listed | None
    read: Read


def make_clips(files: Sequence[RawFile], read: Read, limits: IntakeLimits, verdict: Verdict) -> list[Clip]:
    """Pair recordings with texts; whatever has no partner becomes an issue.

    Args:
        files: Of the archive.
        read: The bytes of one of them.
        limits: Length of a text, number of records.
        verdict: Gets the issues.

    Raises:
        IntakeError: A split file that cannot be followed.
    """
    splits = {file.name.base: file for file in files if file.name.kind == "csv"}
    listed = _read_lists(splits, read, limits)
    texts = {file.name.stem_key: file for file in files if file.name.kind == "text"}
    audio = [file for file in files if file.name.kind == "audio"]
    audio.sort(key=lambda file: unicodedata.normalize("NFC", file.name.base))
    by_stem = defaultdict(list)
    for file in audio:
        by_stem[file.name.stem_key].append(file)
    clips = []
    for number, file in enumerate(audio, start=1):
        uid = f"clip-{number:04d}"
        found = listed.get(same_file_key(file.name.base))
        if len(by_stem[file.name.stem_key]) > 1:
            cause = f"two recordings have this name with different endings; keep one of them; {LEFT_OUT}"
            verdict.add("D30", "E", cause, file.name.base, uid)
        elif found is None and len(splits) == len(CSV_NAMES):
            verdict.add("D30", "I", f"none of the three split files lists it; {LEFT_OUT}", file.name.base, uid)
        else:
            text = _text(_Paired(uid, file, texts.get(file.name.stem_key), found, read), limits, verdict)
            if text is not None:
                clips.append(Clip(uid, file, text, found.split if found else None))
    _report_orphans(texts, by_stem, verdict)
    _report_unmatched(listed, {same_file_key(file.name.base) for file in audio}, verdict)
    return clips


def check_leak(clips: Sequence[Clip], verdict: Verdict) -> None:
    """Refuse one text in train and in dev or test: it makes a gain look larger than it is.

    Raises:
        IntakeError: There is one; each clip gets an issue.
    """
    trained = {split_key(clip.text) for clip in clips if clip.split == "train"}
    leaks = [clip for clip in clips if clip.split in ("dev", "test") and split_key(clip.text) in trained]
    for clip in leaks:
        cause = f"{CSV_NAMES['train']} has the same text as this clip of {CSV_NAMES[str(clip.split)]}"
        verdict.add("D21", "E", f"{cause}; move equal texts into one of them", clip.name, clip.uid)
    if leaks:
        cause = f"{len(leaks)} texts of dev or test are also in train, so scores would flatter the model"
        raise IntakeError("dataset_invalid", f"{cause}; move equal texts into one split file, or send none")


def _read_lists(splits: dict[str, RawFile], read: Read, limits: IntakeLimits) -> dict[str, Listed]:
    """Records by the file they name."""
    listed: dict[str, Listed] = {}
    uids: dict[str, Listed] = {}
    for split, csv_name in CSV_NAMES.items():
        if csv_name not in splits:
            continue
        before = len(listed)
        folder = splits[csv_name].name.folder
        for line in split_file(read(splits[csv_name]), csv_name):
            entry = Listed(split, line)
            first = listed.setdefault(_file_key(line.file_name, folder), entry)
            second = uids.setdefault(line.uid, entry)
            if first is not entry or second is not entry:
                other = (first if first is not entry else second).place
                raise IntakeError(
                    "dataset_invalid", f"{entry.place} lists the recording or the uid of {other} again; delete one"
                )
            if len(listed) > limits.clips:
                raise IntakeError("too_large", f"{csv_name} lists over {limits.clips} recordings")
        if len(listed) == before:
            raise IntakeError("dataset_invalid", f"{csv_name} lists no recording; add rows, or leave the file out")
    return listed


def _file_key(file_name: str, folder: str) -> str:
    """The key of the file that a record names: relative to the folder of the split file, or with that folder."""
    parts = [part for part in file_name.split("/") if part not in ("", ".")]
    if folder and parts[:1] == [folder] and len(parts) == 2:
        parts = parts[1:]
    return same_file_key("/".join(parts))


def _text(clip: _Paired, limits: IntakeLimits, verdict: Verdict) -> str | None:
    """The clip's text, or None with an issue."""
    own, found, name, uid = clip.own, clip.listed, clip.audio.name.base, clip.uid
    if own is None and found is None:
        cause = "the recording has no transcript beside it; write what is said into a .txt of the same name"
        verdict.add("D02", "E", f"{cause}; {LEFT_OUT}", name, uid)
        return None
    own_text = _own_text(clip, verdict) if own else None
    text = found.line.text if found else own_text
    if text is None:
        return None
    if own and own_text not in (None, text):
        verdict.add("D30", "W", "the split file has another text, which is used", own.name.base, uid)
    if len(text) > limits.text_chars:
        verdict.add("D08", "E", f"the text has over {limits.text_chars} characters; {LEFT_OUT}", name, uid)
        return None
    if is_empty(text):
        verdict.add("D05", "E", f"the transcript holds no word; write what is said; {LEFT_OUT}", name, uid)
        return None
    return text


def _own_text(clip: _Paired, verdict: Verdict) -> str | None:
    """The text of the file beside the recording; an unreadable one is an error only where nothing replaces it."""
    assert clip.own is not None
    try:
        text, warning = transcript(clip.read(clip.own))
    except ValueError as error:
        cause = str(error) if clip.listed else f"{error}; {LEFT_OUT}"
        verdict.add("D04", "W" if clip.listed else "E", cause, clip.own.name.base, clip.uid)
        return None
    if warning:
        verdict.add("D04", "W", warning, clip.own.name.base, clip.uid)
    return text


def _report_orphans(texts: dict[str, RawFile], by_stem: dict[str, list[RawFile]], verdict: Verdict) -> None:
    for key, file in texts.items():
        if key not in by_stem:
            verdict.add("D01", "E", "the transcript has no recording of the same name; add it", file.name.base)


def _report_unmatched(listed: dict[str, Listed], present: set[str], verdict: Verdict) -> None:
    for key, entry in listed.items():
        if key not in present:
            shown = printable(entry.line.file_name, 100)
            verdict.add("D30", "E", f"{entry.place} names '{shown}', which is not in the archive", shown)
