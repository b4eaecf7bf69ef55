"""What a server does at its start: open the store, merge the jobs' folders into it, and clean up after a crash.

Nothing is deleted but what the server knows to be its own and unwanted: uploads that no job took, and jobs whose
deletion was recorded. What cannot be used is moved to the quarantine, and what is not the server's is left where it is.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from asr_lightning.durable.ids import is_made_here
from asr_lightning.job_folder import layout, processes
from asr_lightning.job_folder.history import History
from asr_lightning.server.engine import merging, rebuild, receipts, states
from asr_lightning.server.engine.errors import HomeError
from asr_lightning.server.engine.histories import Histories
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.merging import Entry
from asr_lightning.server.engine.names import STORE_FILES
from asr_lightning.server.engine.rebuild import Found
from asr_lightning.server.engine.store import Store

logger = logging.getLogger(__name__)

FEW = 5


class Recovery:
    """The start of a server on a home.

    Args:
        home: The home, whose lock this process holds.

    Attributes:
        notes: What the operator should know, a sentence each. They are logged too.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.notes: list[str] = []
        self._at_work: set[str] = set()

    def run(self) -> Store:
        """Open the store, and repair what a crash or a damaged disk left; returns the store.

        Raises:
            HomeError: The store cannot be opened, and is not damaged.
        """
        store = self._open()
        try:
            histories = Histories(self.home, store)
            store.on_change = histories.update
            self._merge(store, histories)
            self._clean()
        except BaseException:
            store.close()
            raise
        if aside := sorted(path.name for path in self.home.quarantine.iterdir() if path.name != "reasons.jsonl"):
            what = f"{len(aside)} files or folders" if len(aside) > 1 else "a file or folder"
            self._note(
                f"{self.home.quarantine} holds {what} that could not be used, and reasons.jsonl says why: look there, "
                "then put it right or delete it"
            )
        return store

    def _note(self, text: str) -> None:
        self.notes.append(text)
        logger.warning("%s", text)

    def _open(self) -> Store:
        """The store. A damaged one is set aside, and replaced by an empty one, which the jobs' folders then fill."""
        for name in STORE_FILES:
            if (self.home.path / name).is_dir():
                self._note(self.home.set_aside(self.home.path / name, "a folder is in the place of the job store"))
        try:
            return Store(self.home.store)
        except sqlite3.OperationalError as error:  # locked, full or unreadable, but not damaged
            raise HomeError(
                f"{self.home.store} cannot be opened ({error}): end other programs that use it, and see that this user "
                f"may write to it; or move state.db* out of {self.home.path}, and the jobs are read from their folders"
            ) from error
        except sqlite3.DatabaseError as error:
            why = " ".join(str(error).split())
            self._note(f"the job store is damaged ({why}): it was moved to {self.home.set_store_aside()}")
            return Store(self.home.store)

    # jobs

    def _merge(self, store: Store, histories: Histories) -> None:
        """Make store, histories and folders agree; where they do not, the newest wins."""
        known, deleted = merging.entries(store), receipts.read(self.home)
        found = list[Found]()
        for folder in self.home.jobs():
            try:
                past = History.read(folder)
                if self._is_gone(folder, past, known.get(folder.name), deleted):
                    continue
                job = self._newer(folder, past, known.get(folder.name))
                if job is None:
                    self._keep(store, histories, folder, past)
                else:
                    found.append(job)
            except (OSError, ValueError, OverflowError, sqlite3.Error) as error:
                self._note(f"jobs/{folder.name} cannot be read ({error}): it is left as it is")
        self._at_work = processes.jobs_at_work() if found else set()
        if found:
            merging.free_devices(store, [each.job.id for each in found])
        for each in sorted(found, key=_by_age):
            try:
                self._take_up(store, histories, each)
            except (OSError, ValueError, OverflowError, sqlite3.Error) as error:
                self._note(f"jobs/{each.job.id} cannot be taken up ({error}): the next start tries again")
        if found:
            few = ", ".join(each.job.id for each in found[:FEW]) + (" …" if len(found) > FEW else "")
            which = (
                f"{len(found)} jobs were read from their folders, which are"
                if len(found) > 1
                else ("one job was read from its folder, which is")
            )
            self._note(f"{which} newer than the job store: {few}")
        self._forget(store, known, deleted)

    def _is_gone(self, folder: Path, past: History, entry: Entry | None, deleted: receipts.Receipts) -> bool:
        """Whether there is nothing to take up: the folder is no job's, the job was deleted, or nothing tells of it."""
        name = folder.name
        is_purged = entry is not None and entry.job is not None and entry.job.state == states.PURGED
        says_purged = past.record.get("state") == states.PURGED
        is_begun = name in deleted.begun and name not in deleted.done
        # One witness alone may be a damaged file or an old copy, and then nothing is deleted.
        if sum((is_purged, says_purged, is_begun)) >= 2:
            logger.info("job %s was deleted: so is what is left of it", name)
            self.home.discard(folder)
            receipts.end(self.home, name)
        elif is_purged or says_purged or name in deleted.done:
            self._note(self.home.set_aside(folder, "the job was deleted, and its folder was put back"))
        elif entry is None and not is_made_here(name) and not any((folder / sign).exists() for sign in rebuild.SIGNS):
            self._note(f"jobs/{name} is no job of this server: it is left alone")
        elif (entry is None or entry.job is None) and rebuild.requested(folder, past) is None:
            reason = f"none of {layout.REQUEST}, {layout.HISTORY} and {layout.ASSIGNMENT} tells what job it was"
            self._note(self.home.set_aside(folder, reason))
        else:
            return False
        return True

    def _newer(self, folder: Path, past: History, entry: Entry | None) -> Found | None:
        """The job as its folder shows it, if that is newer than what the store has."""
        if entry is None or entry.job is None or past.last > entry.last:
            return rebuild.find(folder, past)
        return rebuild.find(folder, past, entry.job) if rebuild.is_behind(entry.job, folder) else None

    def _keep(self, store: Store, histories: Histories, folder: Path, past: History) -> None:
        """Complete what store and folder lack of a job that the store has as it is."""
        job, submission = store.job(folder.name), rebuild.requested(folder, past)
        readable = {event.seq for event in store.events(job.id, limit=-1)}
        with store.writing() as connection:
            merging.put_events(connection, job.id, [step for step in past.steps if step.seq not in readable])
            if submission is not None:
                merging.put_key(connection, submission)
            if job.ended_at is None and job.state in states.TERMINAL | {states.INTERRUPTED}:
                ended_at = [rebuild.ended_at(folder), job.id]
                connection.execute("UPDATE job SET ended_at = ? WHERE id = ?", ended_at)
        histories.repair(job.id, past, folder)

    def _take_up(self, store: Store, histories: Histories, found: Found) -> None:
        folder = self.home.job(found.job.id)
        if found.job.state not in states.ACTIVE and found.job.id in self._at_work:
            processes.end_all(found.job.id)  # what outlived the trainer
        job = merging.put(store, found)
        histories.repair(job.id, found.past, folder)
        logger.info("job %s was read from its folder: its state is %s", job.id, job.state)

    def _forget(self, store: Store, known: Mapping[str, Entry], deleted: receipts.Receipts) -> None:
        """Delete what an older store has of jobs that were deleted since; name rows that tell nothing."""
        for job_id, entry in known.items():
            if self.home.job(job_id).exists():
                continue
            if entry.job is None:
                self._note(f"job {job_id} has a damaged row in {self.home.store} and no folder: it is not shown")
            elif job_id in deleted.begun and entry.job.state != states.PURGED:
                store.purge(entry.job)

    # what a crash left

    def _clean(self) -> None:
        """Delete uploads that no job took, and unfinished deletions."""
        self.home.empty_trash()
        for path in self.home.uploads.iterdir():
            if is_made_here(path.name) and not path.is_symlink():
                processes.end_all(path.name)  # an inspection of data that outlived the server
                self.home.discard(path)
        for folder in (self.home.uploads, self.home.trash):
            for path in folder.iterdir():
                self._note(f"{path} is none of this server's files: it is left alone")


def _by_age(found: Found) -> tuple[float, str, str]:
    return (float("inf") if found.number is None else found.number, found.job.created_at, found.job.id)
