"""Uploads a model or an export with its card to a model hub, private by default. Loads no torch.

Nothing is uploaded before the hub has said that the repository is as private as it must be, and all files arrive in one
commit, so that nobody finds half a model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from asr_lightning.adapters import registry
from asr_lightning.errors import ModelError, OptionError
from asr_lightning.export import card
from asr_lightning.export.place import Place
from asr_lightning.runtime import exported
from asr_lightning.runtime.exported import ExportRecord

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

LOGIN = "run hf auth login, or set HF_TOKEN to a token with write access"


@dataclass(frozen=True)
class Pushed:
    """What was uploaded.

    Attributes:
        url: Address of the repository.
        is_private: Whether only its owner can read it.
        files: Names of the files.
    """

    url: str
    is_private: bool
    files: tuple[str, ...]


def push(place: Place, name: str, public: bool = False) -> Pushed:
    """Upload ``place`` to the repository ``name``, which is made if it does not exist.

    Args:
        place: The model or the export.
        name: The repository, as ``owner/name``.
        public: Whether everybody may read it. A repository that exists keeps its visibility.

    Raises:
        OptionError: The name is none, or the repository is public although that was not asked for.
        ModelError: The hub refused, or there is no valid token.
        OSError: The hub cannot be reached, or the connection broke.
    """
    if not card.HUB_ID.fullmatch(name):
        raise OptionError(f"{name!r} is no name of a repository: give OWNER/NAME, such as ada/my-voice", "name")
    text = card.card_text(place, name)
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

    if get_token() is None:
        raise ModelError(f"there is no token for the hub: {LOGIN}")
    if not are_progress_bars_disabled():
        disable_progress_bars()  # they are not ours to style, and would be drawn in logs
    api = HfApi(library_name="asr_lightning")
    contents = {exported.FILE_NAME: _without_paths(place.record).text().encode()} if place.record is not None else {}
    operations = [
        CommitOperationAdd(name_there := path.relative_to(place.folder).as_posix(), contents.get(name_there, str(path)))
        for path in place.files()
    ]
    operations.append(CommitOperationAdd(card.FILE_NAME, text.encode()))
    with _explained(name):
        is_private = _prepared(api, name, public)
        api.create_commit(name, operations, commit_message="A specialized model, with its card")
    names = tuple(operation.path_in_repo for operation in operations)
    return Pushed(f"{api.endpoint}/{name}", is_private, names)


def _without_paths(record: ExportRecord) -> ExportRecord:
    """The record without the names of folders on this machine, which may name a person."""
    known = registry.card_of(record.model) is not None or card.HUB_ID.fullmatch(record.model)
    return replace(record, model=record.model if known else "", run="")


def _prepared(api: HfApi, name: str, public: bool) -> bool:
    """Make the repository if there is none; returns whether it is private.

    Raises:
        OptionError: It is public although that was not asked for.
    """
    api.create_repo(name, private=not public, exist_ok=True)
    is_private = bool(api.model_info(name).private)
    if not is_private and not public:
        raise OptionError(
            f"{name} is public, so everybody could learn from this model what the person said: push to another name, "
            f"or make it private in its settings; if the person agrees, add --public --confirm {name}",
            "public",
        )
    if is_private and public:
        logger.warning("%s is private, and stays so: its settings on the hub can change that", name)
    return is_private


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors of the hub's client as ours, which say what to do."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except (HfHubHTTPError, httpx2.TransportError, RuntimeError) as error:
        cause = error.__cause__ if type(error) is RuntimeError else error  # of the upload of one large file
        if isinstance(cause, httpx2.TransportError):
            raise OSError(f"the hub cannot be reached ({type(cause).__name__}: {cause}): try again") from error
        if not isinstance(cause, HfHubHTTPError):
            raise
        status, said = cause.response.status_code, (cause.server_message or str(cause)).strip().splitlines()[0]
        if status == 401 and not isinstance(cause, RepositoryNotFoundError):
            raise ModelError(f"the hub does not accept the token ({said}): {LOGIN}") from error
        if status in (401, 403, 404):
            raise ModelError(
                f"the hub does not let you write to {name} ({said}): check the owner, or {LOGIN}"
            ) from error
        raise OSError(f"the hub could not take {name} ({status}: {said}): try again later") from error
