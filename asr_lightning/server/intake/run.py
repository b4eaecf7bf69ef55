"""The intake of one upload, from its archive to the verdict, inside one job folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from asr_lightning.data.manifest import CSV_NAMES, write_manifests
from asr_lightning.data.rows import Row, split_key
from asr_lightning.durable.files import FULL, sync_folder, write_json
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.worker import is_cancelled
from asr_lightning.server.intake.clips import LEFT_OUT, Clip, make_clips, require_no_leak
from asr_lightning.server.intake.decoding import Decoders, Refused, Sound
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.sound import pace_issues, repeat_issues, sound_issues
from asr_lightning.server.intake.unpack import RawFile, open_folder, open_regular, unpack
from asr_lightning.server.intake.verdict import IntakeError, Verdict

MIN_TEXTS = 3  # so that train, dev and test can be split without a common text
ARCHIVE = Path(layout.ARCHIVE)
WORK = "tmp/intake"
REMEDIES = {"D03": "convert it to wav with another program, or record it again", "D06": "split it at a pause"}
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class CancelledError(Exception):
    """The user cancelled the job."""


def run(job: Path, limits: IntakeLimits, check_only: bool = False) -> Verdict:
    """Inspect ``job/input/archive.tar.gz``. Write ``job/dataset`` if it can be used, and ``job/intake.json`` last.

    An intake that was stopped starts over. Nothing outside ``job`` is written.

    Args:
        job: The job's folder.
        limits: The limits of an upload.
        check_only: Whether to leave no data set behind.

    Raises:
        CancelledError: The user cancelled the job; there is no verdict.
        OSError: The disk fails for another reason than being full.
    """
    for leftover in (layout.INTAKE_REPORT, layout.DATASET, WORK):
        _remove(job, leftover)
    verdict = Verdict()
    work = job / WORK
    try:
        if (job / "tmp").is_symlink():
            (job / "tmp").unlink()
        for name in ("raw", "dataset", "empty"):
            (work / name).mkdir(parents=True, mode=0o700)
        _fill(job, work, limits, verdict)
        if not check_only:
            (work / "dataset").rename(job / layout.DATASET)
            sync_folder(job)
    except IntakeError as error:
        verdict.error = error
    except OSError as error:
        if error.errno not in FULL:
            raise
        verdict.error = IntakeError("disk_full", "the server's disk is full; ask its operator, or try again later")
    finally:
        _remove(job, WORK)
    verdict.report().write(job)
    return verdict


def _fill(job: Path, work: Path, limits: IntakeLimits, verdict: Verdict) -> None:
    """Unpack, pair, decode and judge the clips, and write the data set."""
    poll = partial(_stop_if_cancelled, job)
    with (
        open_folder(job) as job_folder,
        open_folder(ARCHIVE.parent, job_folder) as input_folder,
        open_regular(ARCHIVE.name, input_folder) as archive,
        open_folder(work / "raw") as raw,
        open_folder(work / "dataset") as dataset,
    ):
        files = unpack(archive, raw, limits, verdict, poll)
        clips = make_clips(files, partial(_read, raw), limits, verdict)
        with Decoders(work / "empty", limits) as decoders:
            usable = _decode_all(clips, decoders, raw, dataset, limits, verdict, poll)
        _judge(usable, {file.name.base for file in files}, verdict)
        _finish(work / "dataset", dataset, usable, verdict)


def _decode_all(
    clips: list[Clip], decoders: Decoders, raw: int, dataset: int, limits: IntakeLimits, verdict: Verdict,
    poll: Callable[[], None],
) -> dict[str, tuple[Clip, Sound, str]]:  # fmt: skip
    """The usable clips by uid, with their sounds and the hashes of the sounds."""
    usable = {}
    for clip in clips:
        poll()
        outcome = _decode_one(clip, decoders, raw, dataset)
        if isinstance(outcome, Refused):
            cause = f"{outcome.cause}; {REMEDIES[outcome.code]}; {LEFT_OUT}"
            verdict.add(outcome.code, "E", cause, clip.name, clip.uid)
            continue
        sound, digest = outcome
        issues = sound_issues(sound, limits, clip.name, clip.uid)
        verdict.issues += issues
        if any(issue.level == "E" for issue in issues):
            os.unlink(f"{clip.uid}.wav", dir_fd=dataset)  # relative to a folder
            continue
        verdict.seconds += sound.seconds
        if verdict.seconds > limits.total_seconds:
            hours = limits.total_seconds / 3600
            raise IntakeError("too_large", f"data holds over {hours:g} hours of sound; send fewer recordings")
        usable[clip.uid] = (clip, sound, digest)
    return usable


def _decode_one(clip: Clip, decoders: Decoders, raw: int, dataset: int) -> tuple[Sound, str] | Refused:
    """Write the clip as ``<uid>.wav`` of the data set; returns its sound and hash, or why it cannot be used."""
    name = f"{clip.uid}.wav"
    target = os.open(name, CREATE, 0o600, dir_fd=dataset)
    try:
        with open_regular(clip.audio.stored, raw) as source:
            sound = decoders.decode(source, target)
        os.unlink(clip.audio.stored, dir_fd=raw)
        if isinstance(sound, Refused):
            os.unlink(name, dir_fd=dataset)
            return sound
        os.fsync(target)
        os.lseek(target, 0, os.SEEK_SET)
        with os.fdopen(os.dup(target), "rb") as file:
            return sound, hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(target)


def _judge(usable: Mapping[str, tuple[Clip, Sound, str]], sent: Collection[str], verdict: Verdict) -> None:
    """Add the issues that concern all usable clips together. ``sent`` holds the client's file names.

    Raises:
        IntakeError: There are too few usable clips, or a split file lists none.
    """
    clips = [clip for clip, _, _ in usable.values()]
    if not clips:
        raise IntakeError("dataset_invalid", "data holds no usable recording with a transcript; see the issues")
    texts = {split_key(clip.text) for clip in clips}
    if len(texts) < MIN_TEXTS:
        verdict.add("D26", "E", f"{len(texts)} different texts in {len(clips)} usable recordings")
        raise IntakeError("dataset_invalid", f"data needs {MIN_TEXTS} different texts at least, but has {len(texts)}")
    for split, csv_name in CSV_NAMES.items():
        if csv_name in sent and all(clip.split != split for clip in clips):
            raise IntakeError("dataset_invalid", f"{csv_name} lists no usable recording; see the issues")
    require_no_leak(clips, verdict)
    verdict.issues += pace_issues(
        {clip.uid: (clip.name, clip.text, sound.seconds) for clip, sound, _ in usable.values()}
    )
    verdict.issues += repeat_issues([(clip.uid, clip.name, digest) for clip, _, digest in usable.values()])


def _finish(folder: Path, dataset: int, usable: Mapping[str, tuple[Clip, Sound, str]], verdict: Verdict) -> None:
    """Write transcripts, split files and file names beside the recordings, and hash the whole data set."""
    splits: dict[str, list[Row]] = {}
    lines = []
    for clip, _, digest in usable.values():
        _write(f"{clip.uid}.txt", clip.text + "\n", dataset)
        lines.append(f"{clip.split or ''}\t{digest}\t{clip.text}")
        if clip.split:
            splits.setdefault(clip.split, []).append(Row(clip.uid, f"{clip.uid}.wav", clip.text))
    write_manifests(folder, {split: splits[split] for split in CSV_NAMES if split in splits})
    write_json(folder / "names.json", {uid: clip.name for uid, (clip, _, _) in usable.items()})
    verdict.utterances = len(usable)
    verdict.sha256 = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _write(name: str, text: str, folder: int) -> None:
    with os.fdopen(os.open(name, CREATE, 0o600, dir_fd=folder), "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _read(folder: int, file: RawFile) -> bytes:
    with open_regular(file.stored, folder) as descriptor, os.fdopen(os.dup(descriptor), "rb") as opened:
        return opened.read()


def _stop_if_cancelled(job: Path) -> None:
    if is_cancelled(job):
        raise CancelledError


def _remove(job: Path, name: str) -> None:
    """Delete a file, a link or a folder of the job, but never the target of a link."""
    path = job / name
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir() and not path.parent.is_symlink():
        shutil.rmtree(path)
