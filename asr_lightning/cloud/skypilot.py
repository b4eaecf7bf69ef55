"""SkyPilot (https://skypilot.co): rents the cheapest machine that RunPod or one of the large clouds has.

A volume is the disk of one machine, which has the volume's name. Deleting the volume ends the machine, and the data are
lost with its disk. Until the machine runs, the volume is a folder of this computer.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cloud import ledger, skypilot_ssh
from asr_lightning.cloud import skypilot_task as tasks
from asr_lightning.cloud.provider import PREFIX, Moved, Request, State, save_blocks, wait_for_end
from asr_lightning.durable.files import read_json, write_json
from asr_lightning.errors import MissingExtraError

if TYPE_CHECKING:
    import sky

CANCEL_SECONDS = 60.0
PAUSE_SECONDS = 2.0
BLOCK = 1 << 20
LAUNCH = "launch.json"
"""File beside the staged ones, with the id of the launch that may be under way."""


class SkyPilotProvider:
    """Uses the clouds that ``sky check`` finds enabled.

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
        """Most that a machine can cost, in USD an hour: the highest of the enabled clouds' lowest prices.

        ``spawn`` tells SkyPilot to take no machine that costs more.
        """
        import sky
        from sky.client import sdk  # ``sky`` has no ``enabled_clouds``, and another ``list_accelerators``

        with _translated_errors():
            clouds = sky.get(sdk.enabled_clouds())
            if not clouds:
                raise ValueError("SkyPilot may use no cloud yet: run sky check, which says what each of them needs")
            offers = sky.get(sdk.list_accelerators(clouds=clouds))
        cheapest: dict[str, float] = {}
        for offer in offers.get(gpu, []):
            if offer.accelerator_count == 1 and offer.price > 0:
                cheapest[offer.cloud] = min(offer.price, cheapest.get(offer.cloud, offer.price))
        if not cheapest:
            raise ValueError(f"no {gpu!r} in {', '.join(clouds)}: choose one of {', '.join(sorted(offers))}")
        return max(cheapest.values())

    def create(self, volume: str) -> None:
        """Create an empty folder here, which becomes the volume on the machine's disk."""
        if volume in self.volumes():
            raise ValueError(f"there is a volume {volume} already: python -m asr_lightning cloud gc deletes old ones")
        _files(volume).mkdir(parents=True, mode=0o700)

    def upload(self, volume: str, source: Path, target: str) -> None:
        """Stage a file; all staged files are copied to the machine when it starts.

        Raises:
            OSError: There is no such volume, or its machine has started already.
        """
        if not _files(volume).is_dir():
            raise FileNotFoundError(f"no volume {volume} takes files: give them before its machine starts")
        path = _files(volume) / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)

    def spawn(self, volume: str, request: Request) -> str:
        """Rent a machine, move the staged files there and start the training; this takes some minutes."""
        import sky

        write_json(_files(volume) / tasks.REQUEST, request.as_dict())
        config = tasks.task_config(volume, request, _files(volume), self.price(request.gpu))
        with _translated_errors():
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
        """State of the job that a call started."""
        import sky

        volume, _, job = call.partition(":")
        with _translated_errors():
            try:
                status = sky.get(sky.job_status(volume, job_ids=[int(job)])).get(int(job))
            except (sky.exceptions.ClusterDoesNotExist, sky.exceptions.ClusterNotUpError):
                return "gone"
        if status is None:
            return "gone"
        return "done" if status.is_terminal() else "running"

    def read(self, volume: str, path: str, offset: int = 0) -> bytes | None:
        """Bytes of a file on the machine from ``offset`` on; None if there is no such file or machine."""
        if not self._reachable(volume):
            return None
        return skypilot_ssh.output(volume, tasks.read_command(path, offset), tasks.MISSING)

    def download(self, volume: str, path: str, target: Path, progress: Moved | None = None) -> None:
        """Copy a file from the machine to ``target``, which is replaced once all of it has arrived."""
        size = None
        if self._reachable(volume):
            size = skypilot_ssh.output(volume, tasks.size_command(path), tasks.MISSING)
        if size is None:
            raise FileNotFoundError(f"{path} is not on the volume {volume}")
        with closing(_read_blocks(volume, path)) as blocks:
            save_blocks(blocks, target, int(size), progress, f"{path} on {volume}")

    def cancel(self, call: str) -> None:
        """End the job of a call; its machine runs until ``delete``.

        Raises:
            TimeoutError: The job has not ended after a minute.
        """
        import sky

        volume, _, job = call.partition(":")
        with _translated_errors():
            try:
                sky.get(sky.cancel(volume, job_ids=[int(job)]))
            except (sky.exceptions.ClusterDoesNotExist, sky.exceptions.ClusterNotUpError):
                return
        message = f"the job {job} of {volume} has not ended: run sky down {volume}"
        wait_for_end(self, call, CANCEL_SECONDS, PAUSE_SECONDS, message)

    def delete(self, volume: str) -> None:
        """End a launch that is under way, delete the machine with its disk, and delete the staged files."""
        import sky

        launch = read_json(_staging(volume) / LAUNCH)
        with _translated_errors():
            if launch is not None:
                sky.get(sky.api_cancel(launch["request"], silent=True))
            with suppress(sky.exceptions.ClusterDoesNotExist):
                sky.get(sky.down(volume))
        self._ready.discard(volume)
        if _staging(volume).exists():
            shutil.rmtree(_staging(volume))

    def volumes(self) -> list[str]:
        """Names of our machines, and of the volumes that are staged here."""
        staged = {path.name for path in _home().glob(f"{PREFIX}*")}
        return sorted(staged | {name for name in self._machines() if name.startswith(PREFIX)})

    def _machines(self) -> dict[str, sky.ClusterStatus]:
        """The status of each machine by its name."""
        import sky

        with _translated_errors():
            return {machine.name: machine.status for machine in sky.get(sky.status())}

    def _reachable(self, volume: str) -> bool:
        """Whether the machine of ``volume`` runs; the first time that it does, ssh is configured for it."""
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


def _read_blocks(volume: str, path: str) -> Generator[bytes]:
    """The content of a file on the machine."""
    with skypilot_ssh.stream(volume, tasks.read_command(path, 0)) as source:
        while block := source.read(BLOCK):
            yield block


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn SkyPilot's errors into built-in ones that say what to do."""
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
