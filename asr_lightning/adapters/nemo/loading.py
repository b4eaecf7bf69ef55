"""NeMo models from wherever they lie: a ``.nemo`` file, a folder with one, the Hugging Face hub or NVIDIA's NGC.

The one place that imports NeMo to load a model; must never know audio or training. Used by ``adapter.py``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from asr_lightning.adapters.nemo import archive
from asr_lightning.adapters.shared import hub
from asr_lightning.adapters.shared.hub import SourceError
from asr_lightning.errors import require_extra

FILE_NAME = "model.nemo"


class LoadedNeMo(NamedTuple):
    """A network in float32 and eval mode, and where it came from, in words."""

    model: Any
    origin: str


def load_nemo(source: str, linear_adapter_dim: int = 0) -> LoadedNeMo:
    """The model of ``source``, checked before anything in it is built.

    Args:
        source: A ``.nemo`` file, a folder that holds one, ``owner/name`` on the hub, or a name of NVIDIA's catalogue.
        linear_adapter_dim: Above 0, the encoder is built so that it can take NeMo's adapter modules.

    Raises:
        MissingExtraError: NeMo is not installed.
        SourceError: Nothing can be loaded; the message says what to do.
    """
    require_extra("nemo", "nemo", "a NeMo model")
    path = find(source)
    folder = Path(tempfile.mkdtemp(prefix="asr_lightning-"))
    try:
        config = archive.unpack(path, folder)
        with quiet():
            model = _restore(path, folder, config, linear_adapter_dim)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / archive.WEIGHTS).unlink()
    # Kept as long as the model: ``save`` copies the tokenizer from here, though the source may be gone by then.
    weakref.finalize(model, shutil.rmtree, folder, True)
    # Otherwise each forward pass is an all-reduce over ranks, which hangs where one rank scores alone.
    model.encoder.sync_max_audio_length = False
    origin = source if not hub.looks_local(source) or path == Path(source).expanduser() else str(path)
    return LoadedNeMo(model.eval(), origin)


def find(source: str) -> Path:
    """The ``.nemo`` file of ``source``, downloaded if it has to be.

    Raises:
        SourceError: There is none, or more than one.
    """
    if not hub.looks_local(source) and not source.endswith(".nemo"):
        return _hub_file(source) if "/" in source else _ngc_file(source)
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise SourceError(
            f"there is no file {path}: check the spelling, or give a name such as nvidia/parakeet-ctc-0.6b"
        )
    found = sorted(path.glob("*.nemo"))
    if len(found) != 1:
        named = ", ".join(file.name for file in found) or "none"
        raise SourceError(f"{path} must hold one .nemo file, but holds {named}: name the file itself")
    return found[0]


def _hub_file(repo_id: str) -> Path:
    """``<name>.nemo`` of a repository on the Hugging Face hub, from the cache if it is there."""
    return hub.hub_file(repo_id, f"{repo_id.rpartition('/')[2]}.nemo")


def _ngc_file(name: str) -> Path:
    """A model of NVIDIA's catalogue, in NeMo's own cache; one process downloads, the others wait for it."""
    from filelock import FileLock

    with quiet():
        from nemo.collections.asr.models import ASRModel

        known = {info.pretrained_model_name for info in ASRModel.list_available_models() or []}
        if name not in known:
            near = ", ".join(sorted(known)[:5])
            raise SourceError(f"NVIDIA's catalogue has no model {name!r}, but {near}, … ; for the hub give owner/name")
        try:
            with FileLock(Path(tempfile.gettempdir()) / f"asr_lightning-{name}.lock"):
                return Path(ASRModel.from_pretrained(name, return_model_file=True))
        except Exception as error:  # wget-like code without an exception of its own
            raise hub.HubUnreachableError(
                f"{name} cannot be downloaded from NVIDIA's catalogue ({type(error).__name__}: {error}): check the "
                "network, or download the .nemo file elsewhere and give its path"
            ) from error


def _restore(path: Path, folder: Path, config: dict[str, Any], linear_adapter_dim: int) -> Any:
    """Build the checked ``config`` and load the weights, from ``folder`` and no other place."""
    import torch
    from nemo.collections.asr.models import ASRModel
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
    from omegaconf import OmegaConf

    connector = SaveRestoreConnector()
    connector.model_extracted_dir = str(folder)
    weights = folder / archive.WEIGHTS
    try:
        torch.load(weights, map_location="meta", weights_only=True)  # NeMo's own call obeys an unsafe variable
    except Exception as error:
        raise SourceError(f"the weights in {path} cannot be read ({error}): copy or download it again") from error
    if linear_adapter_dim:
        _prepare_encoder(config)
    try:
        return ASRModel.restore_from(
            str(path), OmegaConf.create(config), map_location="cpu", save_restore_connector=connector
        )
    except Exception as error:  # hydra, omegaconf and torch share no base
        raise SourceError(f"NeMo cannot build the model in {path} ({type(error).__name__}: {error})") from error


def _prepare_encoder(config: dict[str, Any]) -> None:
    """Name the encoder's variant that holds adapter modules; its weights have the same names."""
    from nemo.core.classes.mixins.adapter_mixins import get_registered_adapter

    config["encoder"]["_target_"] = get_registered_adapter(config["encoder"]["_target_"]).adapter_class_path


@contextmanager
def quiet() -> Iterator[None]:
    """Import and run NeMo without telemetry, advertisement and warnings that no user can act on.

    NeMo reports its life cycle to nv_one_logger as soon as it is imported, whose exporters a configuration file on
    the machine may switch on. Its own logger writes to standard output.
    """
    loud: list[Any] = [logging.getLogger(), logging.getLogger("nv_one_logger"), *logging.getLogger().handlers]
    levels = [thing.level for thing in loud]  # of the caller's handlers too: NeMo's setLevel may turn them down
    try:
        for logger in loud[:2]:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nemo.lightning.callback_group import CallbackGroup
            from nemo.utils import logging as nemo_logging

            CallbackGroup.get_instance().callbacks.clear()
            nemo_logging.setLevel(logging.ERROR)  # for good
            yield
    finally:
        for thing, level in zip(loud, levels, strict=True):
            thing.setLevel(level)
