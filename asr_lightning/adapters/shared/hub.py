"""Hugging Face models as local folders, from the cache or downloaded, in bounded time and without noise.

Knows no model family. Every adapter that loads from the hub uses it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers.utils import logging as transformers_logging

from asr_lightning.adapters import model_files
from asr_lightning.errors import ModelError

PROBE_SECONDS = 6.0
"""Time that the hub has to answer. Its own client tries six times over 23 s, as measured without a network."""
_silent: set[str] = set()
"""Hubs that have not answered in that time, and are not asked again by this process: a run loads its model often."""

WEIGHTS = "|".join(model_files.WEIGHTS)
SMALL_FILES = r"[^/]*\.(json|txt|model)"


SourceError = ModelError
"""Nothing can be loaded from the given source; the message says what to do."""


class HubUnreachableError(SourceError):
    """The hub did not answer, or must not be asked, and the model is not in the cache."""


def looks_local(source: str) -> bool:
    """Return whether ``source`` is meant as a path rather than as a hub id."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source or Path(source).exists()


def local_folder(source: str) -> Path:
    """Return ``source`` as the path of an existing folder.

    Raises:
        SourceError: It does not exist or is a file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        raise SourceError(f"{path} is a file: give the folder that holds the model, such as {path.parent}")
    if not path.is_dir():
        raise SourceError(f"there is no folder {path}: check the spelling, or give a hub id such as owner/name")
    return path


def hub_folder(repo_id: str, hint: str = "") -> Path:
    """Return the folder of ``repo_id`` in the local cache, after a download if it is not there yet.

    A cached model is used without asking the hub, so that a second run needs no network.

    Args:
        repo_id: Hub id, such as ``openai/whisper-tiny``.
        hint: One more step to try if the hub cannot be reached.

    Raises:
        HubUnreachableError: The hub has not answered within about ``PROBE_SECONDS``.
        SourceError: There is no such model, or it is private.
    """
    cached = cached_folder(repo_id)
    return _download(repo_id, _model_files, hint) if cached is None else cached


def hub_file(repo_id: str, name: str) -> Path:
    """Return the file ``name`` of ``repo_id``, from the local cache or downloaded alone.

    Raises:
        HubUnreachableError: The hub has not answered within about ``PROBE_SECONDS``.
        SourceError: There is no such model or no such file, or it is private.
    """
    cached = try_to_load_from_cache(repo_id, name)
    if isinstance(cached, str):
        return Path(cached)

    def only(names: list[str]) -> list[str]:
        if name not in names:
            raise SourceError(f"{repo_id} holds no {name}: look for the right model, or give the path of a file")
        return [name]

    return _download(repo_id, only) / name


def _download(repo_id: str, select: Callable[[list[str]], list[str]], hint: str = "") -> Path:
    """Download the files of ``repo_id`` that ``select`` chooses from all names; returns their folder."""
    if constants.HF_HUB_OFFLINE:
        raise HubUnreachableError(_unreachable(repo_id, "HF_HUB_OFFLINE is set and the cache lacks it", hint))
    if constants.ENDPOINT in _silent:
        raise HubUnreachableError(_unreachable(repo_id, "it has not answered before", hint))
    try:
        names = _within(PROBE_SECONDS, lambda: _names_on_hub(repo_id))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise SourceError(
            f"there is no model {repo_id!r} on {constants.ENDPOINT} and no folder of that name: check the spelling "
            "(owner/name); for a private or gated model run `hf auth login` and accept its terms first"
        ) from error
    except Exception as error:  # httpx, ssl, socket and proxy errors share no other base
        if "Timeout" in type(error).__name__:  # ours, or that of the HTTP client, which may come first
            _silent.add(constants.ENDPOINT)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise HubUnreachableError(_unreachable(repo_id, reason, hint)) from error
    try:
        return Path(snapshot_download(repo_id, allow_patterns=select(names)))
    except OSError as error:
        raise HubUnreachableError(_unreachable(repo_id, f"the download broke off: {error}", hint)) from error


def cached_folder(repo_id: str) -> Path | None:
    """Return the complete copy of ``repo_id`` in the local cache, if there is one. Uses no network."""
    try:
        folder = Path(snapshot_download(repo_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    names = {path.name for path in folder.iterdir()}
    complete = "config.json" in names and names & {"tokenizer.json", "vocab.json"} and has_weights(folder)
    return folder if complete else None


def has_weights(folder: Path) -> bool:
    """Return whether ``folder`` holds a file of weights, or all shards of one."""
    return bool(model_files.weights(folder)) and not model_files.missing_shards(folder)


def _names_on_hub(repo_id: str) -> list[str]:
    siblings = HfApi().model_info(repo_id, timeout=PROBE_SECONDS).siblings or []
    return [sibling.rfilename for sibling in siblings]


def _model_files(names: list[str]) -> list[str]:
    """The small files and one set of weights: safetensors if there are any."""
    weights = [name for name in names if re.fullmatch(WEIGHTS, name)]
    safe = [name for name in weights if name.endswith(".safetensors")]
    return [name for name in names if re.fullmatch(SMALL_FILES, name)] + (safe or weights)


def _within(seconds: float, function: Callable[[], list[str]]) -> list[str]:
    """Return the result of ``function``, or raise ``TimeoutError``: no timeout of the HTTP client bounds the DNS."""
    outcome: Future[list[str]] = Future()

    def work() -> None:
        try:
            outcome.set_result(function())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # an executor would wait for it at exit
    if not wait([outcome], timeout=seconds).done:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return outcome.result()


def _unreachable(repo_id: str, reason: str, hint: str) -> str:
    steps = [
        f"check the network, its proxy (HTTPS_PROXY) or name a mirror in HF_ENDPOINT (now {constants.ENDPOINT})",
        f"on another machine run `hf download {repo_id} --local-dir FOLDER`, copy it here and take --model FOLDER",
        *([hint] if hint else []),
    ]
    listed = "".join(f"\n  {number}. {step}" for number, step in enumerate(steps, 1))
    return f"cannot get {repo_id} from the model hub ({reason}). Try one of these:{listed}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' warnings and progress bars off the terminal; whatever matters is raised as an error by us."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
