"""What answers need of a job's folder, and what is damaged there. Damage to one job harms no other job."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from asr_lightning.job_folder import layout
from asr_lightning.job_folder.digests import stream_digest
from asr_lightning.job_folder.progress import Progress
from asr_lightning.server.engine import states
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import CHANGED, LOST, UNREADABLE, Damage, FileState, Job

REMEDY = "put the file with this hash back from a backup, or delete the job and train again"
REMEMBERED = 4096
_Version = tuple[int, int, int, int, int]


class DamagedError(Exception):
    """A file of a job is damaged, and therefore not handed out.

    Attributes:
        damage: What is wrong with it.
    """

    def __init__(self, damage: Damage) -> None:
        super().__init__(damage.message)
        self.damage = damage


@dataclass(frozen=True)
class OpenArtifact:
    """An artifact whose bytes have the hash that the store knows.

    Attributes:
        descriptor: Descriptor of the open file, which the caller closes.
        size: Size in bytes.
    """

    descriptor: int
    size: int


class JobFiles:
    """The files of all jobs under one home. Several threads may use it.

    The hash of a file is computed once, and again when its size, its times or its inode has changed, so that the parts
    of a large download do not read the whole file each.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._digests: OrderedDict[_Version, str] = OrderedDict()
        self._lock = threading.Lock()

    def complete(self, job: Job) -> Job:
        """``job`` with its current progress, and with the damage that is seen without reading whole files."""
        if not job.attempt or job.state == states.PURGED:
            return job
        damage = []
        try:
            progress = Progress.read(self._home.job(job.id))
        except OSError:
            progress = None
        if progress is None and os.path.lexists(self._home.job(job.id) / layout.PROGRESS):
            message = f"{layout.PROGRESS} cannot be read: how far this job was is not known"
            damage.append(Damage(layout.PROGRESS, UNREADABLE, message))
        if job.state == states.SUCCEEDED:
            damage += [bad for name in sorted(job.artifacts) if (bad := self._known_damage(job, name))]
        current = progress if progress is not None and progress.attempt == job.attempt else None
        return replace(job, progress=current, damage=tuple(damage))

    def verify(self, job: Job) -> Job:
        """``job`` with the damage that is seen when every artifact is compared with its hash."""
        if job.state != states.SUCCEEDED:
            return job
        damage = [bad for bad in job.damage if bad.name == layout.PROGRESS]
        for name in sorted(job.artifacts):
            try:
                os.close(self.open(job, name).descriptor)
            except DamagedError as error:
                damage.append(error.damage)
        return replace(job, damage=tuple(damage))

    def open(self, job: Job, name: str) -> OpenArtifact:
        """Open an artifact, whose bytes are the ones that the training wrote.

        Raises:
            DamagedError: It is lost, or has other bytes.
        """
        path = self._path(job, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamagedError(_damage(job, name, LOST)) from error
        except OSError as error:  # a link that somebody planted, or a file that cannot be read
            raise DamagedError(_damage(job, name, CHANGED)) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or self._digest(descriptor, status) != job.artifacts[name]:
                raise DamagedError(_damage(job, name, CHANGED))
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):  # the disk cannot read a part of it
                raise DamagedError(_damage(job, name, CHANGED)) from error
            raise
        return OpenArtifact(descriptor, status.st_size)

    def _known_damage(self, job: Job, name: str) -> Damage | None:
        """The damage of an artifact as far as its metadata and the hashes of earlier looks tell."""
        try:
            status = os.lstat(self._path(job, name))
        except OSError:
            return _damage(job, name, LOST)
        with self._lock:
            digest = self._digests.get(_version(status), job.artifacts[name])
        is_whole = stat.S_ISREG(status.st_mode) and digest == job.artifacts[name]
        return None if is_whole else _damage(job, name, CHANGED)

    def _digest(self, descriptor: int, status: os.stat_result) -> str:
        version = _version(status)
        with self._lock:
            if version in self._digests:
                self._digests.move_to_end(version)
                return self._digests[version]
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = stream_digest(file)
        os.lseek(descriptor, 0, os.SEEK_SET)
        with self._lock:
            self._digests[version] = digest
            while len(self._digests) > REMEMBERED:
                self._digests.popitem(last=False)
        return digest

    def _path(self, job: Job, name: str) -> Path:
        return self._home.job(job.id) / layout.ARTIFACTS / name


def _version(status: os.stat_result) -> _Version:
    """Numbers that differ when a file was replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _damage(job: Job, name: str, state: FileState) -> Damage:
    happened = "is no longer on the server's disk" if state == LOST else "is no longer the file that the training wrote"
    return Damage(f"{layout.ARTIFACTS}/{name}", state, f"{name} {happened} (sha256 {job.artifacts[name]}): {REMEDY}")
