"""Modal (https://modal.com): serverless GPUs, billed by the second.

A rental is a named volume and a deployed app of the same name, so that the app can be found by the volume's name after
the client was killed. All methods work from any shell, with just the names and the id of the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cloud import modal_prices
from asr_lightning.cloud.provider import PREFIX, Moved, Request, State, save_blocks, wait_for_end
from asr_lightning.errors import require_extra

if TYPE_CHECKING:
    import modal

CANCEL_SECONDS = 60.0
PAUSE_SECONDS = 0.5


class ModalProvider:
    """Uses the Modal account that the environment or ``~/.modal.toml`` names.

    Raises:
        MissingExtraError: The package ``modal`` is not installed.
    """

    name = "modal"

    def __init__(self) -> None:
        require_extra("cloud", "modal", "the provider modal")

    def price(self, gpu: str) -> float:
        """List price of ``gpu`` in USD an hour, including cores and memory."""
        return modal_prices.price(gpu)

    def create(self, volume: str) -> None:
        """Create an empty volume."""
        import modal

        with _translated_errors():
            modal.Volume.objects.create(volume)

    def upload(self, volume: str, source: Path, target: str) -> None:
        """Copy a file to a volume; it is committed when this returns."""
        with _translated_errors(), _volume(volume).batch_upload(force=True) as batch:
            batch.put_file(source, f"/{target}")

    def spawn(self, volume: str, request: Request) -> str:
        """Deploy the rental's app and call its function. The first use of a lock builds its image: some minutes."""
        from asr_lightning.cloud.modal_app import app_of

        app, function = app_of(volume, request)
        with _translated_errors():
            app.deploy()
            return function.spawn(request.as_dict(), volume).object_id

    def poll(self, call: str) -> State:
        """State of a call. A preempted call that waits for its restart is running."""
        import modal

        error = modal.exception
        with _translated_errors():
            try:
                modal.FunctionCall.from_id(call).get(timeout=0)
            except (error.OutputExpiredError, error.FunctionTimeoutError):  # over a week old, or over its time limit
                return "done"
            except (error.TimeoutError, TimeoutError):
                return "running"
            except error.NotFoundError:
                return "gone"
            except (ConnectionError, error.ConnectionError, error.ServiceError, error.InternalError):
                raise
            except (error.AuthError, error.PermissionDeniedError, error.ResourceExhaustedError):
                raise
            except (Exception, error.InputCancellation):  # an error that ended the container, or a cancellation
                return "done"
        return "done"

    def read(self, volume: str, path: str, offset: int = 0) -> bytes | None:
        """Committed bytes from ``offset`` on. Modal sends whole files, so this is meant for small ones."""
        import modal

        with _translated_errors():
            try:
                content = b"".join(_volume(volume).read_file(path))
            except (FileNotFoundError, modal.exception.NotFoundError):
                return None
        return content[offset:]

    def download(self, volume: str, path: str, target: Path, progress: Moved | None = None) -> None:
        """Copy a committed file to ``target``, which is replaced once all of it has arrived."""
        import modal

        with _translated_errors():
            try:
                total = sum(entry.size for entry in _volume(volume).listdir(path))
                save_blocks(_volume(volume).read_file(path), target, total, progress, f"{path} on Modal")
            except modal.exception.NotFoundError as missing:
                raise FileNotFoundError(f"{path} is not on the volume {volume}") from missing

    def cancel(self, call: str) -> None:
        """End a call and its container; returns once Modal says that it has ended.

        Raises:
            TimeoutError: It has not ended after a minute.
        """
        import modal

        with _translated_errors():
            try:
                modal.FunctionCall.from_id(call).cancel(terminate_containers=True)
            except modal.exception.NotFoundError:
                return
        message = f"Modal has not ended {call}: look at https://modal.com/apps, or run this again"
        wait_for_end(self, call, CANCEL_SECONDS, PAUSE_SECONDS, message)

    def delete(self, volume: str) -> None:
        """Stop the rental's app with all its containers, then delete the volume."""
        import modal

        with _translated_errors():
            with suppress(modal.exception.NotFoundError):  # it was never deployed, or has been stopped
                modal.App.lookup(volume).stop()
            modal.Volume.objects.delete(volume, allow_missing=True)

    def volumes(self) -> list[str]:
        """Names of our volumes in the account."""
        import modal

        with _translated_errors():
            names = [volume.name for volume in modal.Volume.objects.list()]
        return sorted(name for name in names if name and name.startswith(PREFIX))


def _volume(name: str) -> modal.Volume:
    import modal

    return modal.Volume.from_name(name)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn Modal's errors into built-in ones that say what to do."""
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
