"""Modal (https://modal.com): serverless GPUs, billed by the second.

A rental is a named volume and a deployed app of the same name, so that each is found by the other's name when the
client is gone. Everything works by names and by the call's id, from any shell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cloud import modal_prices
from asr_lightning.cloud.provider import PREFIX, Moved, Request, State
from asr_lightning.errors import require_extra

if TYPE_CHECKING:
    import modal

CANCEL_SECONDS = 60.0
PAUSE_SECONDS = 0.5


class ModalProvider:
    """Volumes, apps and calls of the Modal account that the environment or ``~/.modal.toml`` names.

    Raises:
        MissingExtraError: The package ``modal`` is not installed.
    """

    name = "modal"

    def __init__(self) -> None:
        require_extra("cloud", "modal", "the provider modal")

    def price(self, gpu: str) -> float:
        """List price in USD an hour, the cores and the memory included."""
        return modal_prices.price(gpu)

    def create(self, volume: str) -> None:
        """Make a fresh, empty volume."""
        import modal

        with _told():
            modal.Volume.objects.create(volume)

    def upload(self, volume: str, source: Path, target: str) -> None:
        """Put a file into a volume; it is committed when this returns."""
        with _told(), _volume(volume).batch_upload(force=True) as batch:
            batch.put_file(source, f"/{target}")

    def spawn(self, volume: str, request: Request) -> str:
        """Deploy the rental's app and call its function. The first use of a lock builds the image: some minutes."""
        from asr_lightning.cloud.modal_app import app_of

        app, function = app_of(volume, request)
        with _told():
            app.deploy()
            return function.spawn(request.as_dict(), volume).object_id

    def poll(self, call: str) -> State:
        """Whether a call is under way, by its id alone. A preempted one that waits for its restart is under way."""
        import modal

        error = modal.exception
        with _told():
            try:
                modal.FunctionCall.from_id(call).get(timeout=0)
            except (error.OutputExpiredError, error.FunctionTimeoutError):  # ended: a week ago, or by Modal's clock
                return "done"
            except (error.TimeoutError, TimeoutError):
                return "running"
            except error.NotFoundError:
                return "gone"
            except (ConnectionError, error.ConnectionError, error.ServiceError, error.InternalError):
                raise
            except (error.AuthError, error.PermissionDeniedError, error.ResourceExhaustedError):
                raise
            except (Exception, error.InputCancellation):  # what the container died of, or a cancel
                return "done"
        return "done"

    def read(self, volume: str, path: str, offset: int = 0) -> bytes | None:
        """Committed bytes from ``offset`` on. Modal serves whole files: meant for small ones."""
        import modal

        with _told():
            try:
                content = b"".join(_volume(volume).read_file(path))
            except (FileNotFoundError, modal.exception.NotFoundError):
                return None
        return content[offset:]

    def download(self, volume: str, path: str, target: Path, progress: Moved | None = None) -> None:
        """Copy a committed file to ``target``, which is replaced when all of it is here."""
        import modal

        part = target.with_name(f"{target.name}.part")
        with _told():
            try:
                total = sum(entry.size for entry in _volume(volume).listdir(path))
                with part.open("wb") as file:
                    for block in _volume(volume).read_file(path):
                        file.write(block)
                        if progress is not None:
                            progress(file.tell(), total)
                if part.stat().st_size != total:
                    raise OSError(f"{path} has {total} bytes on Modal, {part.stat().st_size} arrived: try again")
                part.replace(target)
            except modal.exception.NotFoundError as missing:
                raise FileNotFoundError(f"{path} is not on the volume {volume}") from missing
            finally:
                part.unlink(missing_ok=True)

    def cancel(self, call: str) -> None:
        """End a call and its container; returns when Modal says that it has ended.

        Raises:
            TimeoutError: It has not, after a minute.
        """
        import modal

        with _told():
            try:
                modal.FunctionCall.from_id(call).cancel(terminate_containers=True)
            except modal.exception.NotFoundError:
                return
        until = time.monotonic() + CANCEL_SECONDS
        while self.poll(call) == "running":
            if time.monotonic() > until:
                raise TimeoutError(f"Modal has not ended {call}: look at https://modal.com/apps, or run this again")
            time.sleep(PAUSE_SECONDS)

    def delete(self, volume: str) -> None:
        """Stop the rental's app with all its containers, then delete the volume."""
        import modal

        with _told():
            with suppress(modal.exception.NotFoundError):  # never deployed, or stopped before
                modal.App.lookup(volume).stop()
            modal.Volume.objects.delete(volume, allow_missing=True)

    def volumes(self) -> list[str]:
        """Names of the account's volumes that are ours."""
        import modal

        with _told():
            names = [volume.name for volume in modal.Volume.objects.list()]
        return sorted(name for name in names if name and name.startswith(PREFIX))


def _volume(name: str) -> modal.Volume:
    import modal

    return modal.Volume.from_name(name)


@contextmanager
def _told() -> Iterator[None]:
    """Modal's errors as ours, with what to do."""
    import modal

    error = modal.exception
    try:
        yield
    except (error.AuthError, error.PermissionDeniedError) as refused:
        raise ValueError(
            "Modal does not know you: run python -m modal setup, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET "
            f"({refused})"
        ) from refused
    except error.AlreadyExistsError as taken:
        raise ValueError(f"{taken}: python -m asr_lightning cloud gc removes what was left behind") from taken
    except error.InvalidError as wrong:
        raise ValueError(str(wrong)) from wrong
    except error.ConnectionError as away:
        raise ConnectionError(f"Modal cannot be reached: {away}") from away
    except error.Error as other:
        raise OSError(f"Modal: {type(other).__name__}: {other}") from other
