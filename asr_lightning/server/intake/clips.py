"""Make clips of unpacked files: each has a recording, a text and, if the client sent split files, a split."""

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
    """A clip whose recording is not yet decoded.

    Attributes:
        uid: The server's name of the clip, which follows the order of the client's file names.
        audio: The unpacked recording.
        text: The transcript, on one line and with at least one word.
        split: The split of the split file that lists the clip; None if none does.
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
        """The file and the line, for messages."""
        return f"{CSV_NAMES[self.split]} line {self.line.number}"


@dataclass(frozen=True)
class _Paired:
    """A recording, and the two sources of its text.

    Attributes:
        uid: The server's name of the clip.
        audio: The recording.
        transcript: The text file of the same name; None if there is none.
        listed: The record of a split file; None if none lists the recording.
        read: Returns the bytes of a file.
    """

    uid: str
    audio: RawFile
    transcript: RawFile | None
    listed: Listed | None
    read: Read


def make_clips(files: Sequence[RawFile], read: Read, limits: IntakeLimits, verdict: Verdict) -> list[Clip]:
    """Pair recordings with texts. A file without a partner becomes an issue.

    Args:
        files: The files of the archive.
        read: Returns the bytes of a file.
        limits: Limits of the length of a text and the number of records.
        verdict: Gets the issues.

    Raises:
        IntakeError: A split file is malformed, or lists a recording twice.
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
        record = listed.get(same_file_key(file.name.base))
        if len(by_stem[file.name.stem_key]) > 1:
            cause = f"two recordings have this name with different endings; keep one of them; {LEFT_OUT}"
            verdict.add("D30", "E", cause, file.name.base, uid)
        elif record is None and len(splits) == len(CSV_NAMES):
            verdict.add("D30", "I", f"none of the three split files lists it; {LEFT_OUT}", file.name.base, uid)
        else:
            text = _text(_Paired(uid, file, texts.get(file.name.stem_key), record, read), limits, verdict)
            if text is not None:
                clips.append(Clip(uid, file, text, record.split if record else None))
    _report_orphans(texts, by_stem, verdict)
    _report_unmatched(listed, {same_file_key(file.name.base) for file in audio}, verdict)
    return clips


def require_no_leak(clips: Sequence[Clip], verdict: Verdict) -> None:
    """Refuse splits in which a text is in train and in dev or test, since they make a gain look larger than it is.

    Raises:
        IntakeError: There is such a text; each of its clips gets an issue.
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
    """The records of the split files, by the file that they name."""
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
    """The key of the file that a record names, relative to the folder of the split file or with that folder."""
    parts = [part for part in file_name.split("/") if part not in ("", ".")]
    if folder and parts[:1] == [folder] and len(parts) == 2:
        parts = parts[1:]
    return same_file_key("/".join(parts))


def _text(clip: _Paired, limits: IntakeLimits, verdict: Verdict) -> str | None:
    """The text of a clip; None, with an issue, if it has no usable text."""
    beside, record, name, uid = clip.transcript, clip.listed, clip.audio.name.base, clip.uid
    if beside is None and record is None:
        cause = "the recording has no transcript beside it; write what is said into a .txt of the same name"
        verdict.add("D02", "E", f"{cause}; {LEFT_OUT}", name, uid)
        return None
    text_beside = _text_beside(clip, beside, verdict) if beside else None
    text = record.line.text if record else text_beside
    if text is None:
        return None
    if beside and text_beside not in (None, text):
        verdict.add("D30", "W", "the split file has another text, which is used", beside.name.base, uid)
    if len(text) > limits.text_chars:
        verdict.add("D08", "E", f"the text has over {limits.text_chars} characters; {LEFT_OUT}", name, uid)
        return None
    if is_empty(text):
        verdict.add("D05", "E", f"the transcript holds no word; write what is said; {LEFT_OUT}", name, uid)
        return None
    return text


def _text_beside(clip: _Paired, beside: RawFile, verdict: Verdict) -> str | None:
    """The text of the file beside the recording. An unreadable one is an error only if no split file has a text."""
    try:
        text, warning = transcript(clip.read(beside))
    except ValueError as error:
        cause = str(error) if clip.listed else f"{error}; {LEFT_OUT}"
        verdict.add("D04", "W" if clip.listed else "E", cause, beside.name.base, clip.uid)
        return None
    if warning:
        verdict.add("D04", "W", warning, beside.name.base, clip.uid)
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
