"""SkyPilot (https://skypilot.co): RunPod and the large clouds, the cheapest machine that is to be had.

A volume is the disk of one machine, and the machine has the volume's name: deleting the volume ends the machine, and
the data go with its disk. Until the machine is there, the volume is a folder of this computer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asr_lightning.cloud import ledger, skypilot_ssh
from asr_lightning.cloud import skypilot_task as tasks
from asr_lightning.cloud.provider import PREFIX, Moved, Request, State
from asr_lightning.durable.files import read_json, write_json
from asr_lightning.errors import MissingExtraError

CANCEL_SECONDS = 60.0
PAUSE_SECONDS = 2.0
BLOCK = 1 << 20
LAUNCH = "launch.json"
"""Beside the staged files: the launch that may be under way."""


class SkyPilotProvider:
    """Machines of the clouds that ``sky check`` finds enabled.

    Raises:
        MissingExtraError: The package ``skypilot`` is not installed.
    """

    name = "skypilot"

    def __init__(self) -> None:
        if find_spec("sky") is None:
            raise MissingExtraError(
                "the provider skypilot needs an environment of its own, because SkyPilot's pins exclude those of "
                "transformers: make install-skypilot, then .venv-skypilot/bin/python -m asr_lightning cloud ..."
            )
        self._ready: set[str] = set()

    def price(self, gpu: str) -> float:
        """USD an hour that a machine costs at most: the dearest of the enabled clouds' cheapest offers.

        ``spawn`` has SkyPilot take none that costs more.
        """
        import sky
        from sky.client import sdk  # ``sky`` itself has none of the first, and another of the second

        with _told():
            clouds = sky.get(sdk.enabled_clouds())
            if not clouds:
                raise ValueError("SkyPilot may use no cloud yet: run sky check, it says what each needs")
            offers = sky.get(sdk.list_accelerators(clouds=clouds))
        cheapest: dict[str, float] = {}
        for offer in offers.get(gpu, []):
            if offer.accelerator_count == 1 and offer.price > 0:
                cheapest[offer.cloud] = min(offer.price, cheapest.get(offer.cloud, offer.price))
        if not cheapest:
            raise ValueError(f"no {gpu!r} in {', '.join(clouds)}: choose one of {', '.join(sorted(offers))}")
        return max(cheapest.values())

    def create(self, volume: str) -> None:
        """Make an empty folder here, which becomes the machine's disk."""
        if volume in self.volumes():
            raise ValueError(
                f"there is a volume {volume}: python -m asr_lightning cloud gc removes what was left behind"
            )
        _files(volume).mkdir(parents=True, mode=0o700)

    def upload(self, volume: str, source: Path, target: str) -> None:
        """Stage a file for the machine's start, when all that is staged goes there.

        Raises:
            OSError: There is no such volume, or its machine has started.
        """
        if not _files(volume).is_dir():
            raise FileNotFoundError(f"no volume {volume} takes files: give them before its machine starts")
        path = _files(volume) / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)

    def spawn(self, volume: str, request: Request) -> str:
        """Get a machine, send it what is staged and start the training: some minutes; then nothing is left here."""
        import sky

        write_json(_files(volume) / tasks.REQUEST, request.as_dict())
        config = tasks.task_config(volume, request, _files(volume), self.price(request.gpu))
        with _told():
            task = sky.Task.from_yaml_config(config)
            launch = sky.launch(
                task, cluster_name=volume, down=True, idle_minutes_to_autostop=tasks.IDLE_MINUTES, retry_until_up=False
            )
            write_json(_staging(volume) / LAUNCH, {"request": str(launch)})
            job, _ = sky.stream_and_get(launch)
        if job is None:
            raise OSError(f"SkyPilot started {volume} without a job: run this again")
        shutil.rmtree(_files(volume), ignore_errors=True)
        return f"{volume}:{job}"

    def poll(self, call: str) -> State:
        """Whether the job of a call is under way, by its id alone."""
        import sky

        volume, _, job = call.partition(":")
        with _told():
            try:
                status = sky.get(sky.job_status(volume, job_ids=[int(job)])).get(int(job))
            except (sky.exceptions.ClusterDoesNotExist, sky.exceptions.ClusterNotUpError):
                return "gone"
        if status is None:
            return "gone"
        return "done" if status.is_terminal() else "running"

    def read(self, volume: str, path: str, offset: int = 0) -> bytes | None:
        """Bytes of a file on the machine's disk from ``offset`` on."""
        if not self._reachable(volume):
            return None
        return skypilot_ssh.output(volume, tasks.read_command(path, offset), tasks.MISSING)

    def download(self, volume: str, path: str, target: Path, progress: Moved | None = None) -> None:
        """Copy a file from the machine's disk to ``target``, which is replaced when all of it is here."""
        size = None
        if self._reachable(volume):
            size = skypilot_ssh.output(volume, tasks.size_command(path), tasks.MISSING)
        if size is None:
            raise FileNotFoundError(f"{path} is not on the volume {volume}")
        total, part = int(size), target.with_name(f"{target.name}.part")
        try:
            with part.open("wb") as file, skypilot_ssh.stream(volume, tasks.read_command(path, 0)) as source:
                while block := source.read(BLOCK):
                    file.write(block)
                    if progress is not None:
                        progress(file.tell(), total)
            if part.stat().st_size != total:
                raise OSError(f"{path} has {total} bytes on {volume}, {part.stat().st_size} arrived: try again")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def cancel(self, call: str) -> None:
        """End the job of a call; its machine goes on until ``delete``.

        Raises:
            TimeoutError: It has not ended, after a minute.
        """
        import sky

        volume, _, job = call.partition(":")
        with _told():
            try:
                sky.get(sky.cancel(volume, job_ids=[int(job)]))
            except (sky.exceptions.ClusterDoesNotExist, sky.exceptions.ClusterNotUpError):
                return
        until = time.monotonic() + CANCEL_SECONDS
        while self.poll(call) == "running":
            if time.monotonic() > until:
                raise TimeoutError(f"the job {job} of {volume} has not ended: run sky down {volume}")
            time.sleep(PAUSE_SECONDS)

    def delete(self, volume: str) -> None:
        """End the launch that may be under way, the machine with its disk, and what is staged here."""
        import sky

        launch = read_json(_staging(volume) / LAUNCH)
        with _told():
            if launch is not None:
                sky.get(sky.api_cancel(launch["request"], silent=True))
            with suppress(sky.exceptions.ClusterDoesNotExist):
                sky.get(sky.down(volume))
        self._ready.discard(volume)
        if _staging(volume).exists():
            shutil.rmtree(_staging(volume))

    def volumes(self) -> list[str]:
        """Names of the machines that are ours, and of what is staged here."""
        staged = {path.name for path in _home().glob(f"{PREFIX}*")}
        return sorted(staged | {name for name in self._machines() if name.startswith(PREFIX)})

    def _machines(self) -> dict[str, Any]:
        import sky

        with _told():
            return {found.name: found.status for found in sky.get(sky.status())}

    def _reachable(self, volume: str) -> bool:
        """Whether ssh knows the machine; asks SkyPilot once for each."""
        import sky

        if volume not in self._ready:
            if self._machines().get(volume) != sky.ClusterStatus.UP:
                return False
            skypilot_ssh.configure(volume)
            self._ready.add(volume)
        return True


def _home() -> Path:
    return ledger.home() / "skypilot"


def _staging(volume: str) -> Path:
    return _home() / volume


def _files(volume: str) -> Path:
    return _staging(volume) / "volume"


@contextmanager
def _told() -> Iterator[None]:
    """SkyPilot's errors as ours, with what to do."""
    import sky

    error = sky.exceptions
    try:
        yield
    except (OSError, ValueError):
        raise
    except error.NoCloudAccessError as refused:
        raise ValueError(f"SkyPilot may use no cloud yet: run sky check ({refused})") from refused
    except error.ResourcesUnavailableError as taken:
        raise OSError(f"no cloud has such a machine at that price now: try later, or another GPU ({taken})") from taken
    except error.ApiServerConnectionError as away:
        raise ConnectionError(f"SkyPilot's own server does not run: run sky api start ({away})") from away
    except Exception as other:
        raise OSError(f"SkyPilot: {type(other).__name__}: {other}") from other
