"""Loads NeMo models from a ``.nemo`` file, a folder with one, the Hugging Face hub or NVIDIA's NGC.

The one place that imports NeMo to load a model. Knows no audio and no training. Used by ``adapter.py``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
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
    """Load the model of ``source``, which is validated before anything in it is built.

    Args:
        source: A ``.nemo`` file, a folder that holds one, ``owner/name`` on the hub, or a name of NVIDIA's catalogue.
        linear_adapter_dim: Width of NeMo's adapter modules. If it is above 0, the encoder is built so that it can take
            them.

    Raises:
        MissingExtraError: NeMo is not installed.
        SourceError: Nothing can be loaded; the message says what to do.
    """
    require_extra("nemo", "nemo", "a NeMo model")
    path = locate(source)
    folder = Path(tempfile.mkdtemp(prefix="asr_lightning-"))
    try:
        config = archive.unpack(path, folder)
        with quiet():
            model = _restore(path, folder, config, linear_adapter_dim)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / archive.WEIGHTS).unlink()
    # Keep the folder as long as the model: ``save`` copies the tokenizer from it, since the source may be deleted then.
    weakref.finalize(model, shutil.rmtree, folder, True)
    # Otherwise each forward pass is an all-reduce over ranks, which hangs if one rank evaluates alone.
    model.encoder.sync_max_audio_length = False
    origin = source if not hub.looks_local(source) or path == Path(source).expanduser() else str(path)
    return LoadedNeMo(model.eval(), origin)


def locate(source: str) -> Path:
    """Return the ``.nemo`` file of ``source``, after a download if necessary.

    Raises:
        SourceError: There is no such file, or there are several.
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
    files = sorted(path.glob("*.nemo"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise SourceError(f"{path} must hold one .nemo file, but holds {names}: name the file itself")
    return files[0]


def _hub_file(repo_id: str) -> Path:
    """Return ``<name>.nemo`` of a repository on the Hugging Face hub, from the cache if it is there."""
    return hub.hub_file(repo_id, f"{repo_id.rpartition('/')[2]}.nemo")


def _ngc_file(name: str) -> Path:
    """Return a model of NVIDIA's catalogue from NeMo's own cache; one process downloads it, and the others wait."""
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
        except Exception as error:  # NeMo's download code has no exception class of its own
            raise hub.HubUnreachableError(
                f"{name} cannot be downloaded from NVIDIA's catalogue ({type(error).__name__}: {error}): check the "
                "network, or download the .nemo file elsewhere and give its path"
            ) from error


def _restore(path: Path, folder: Path, settings: Mapping[str, object], linear_adapter_dim: int) -> Any:
    """Build the validated ``settings`` and load the weights, from ``folder`` and no other place."""
    import torch
    from nemo.collections.asr.models import ASRModel
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
    from omegaconf import OmegaConf

    connector = SaveRestoreConnector()
    connector.model_extracted_dir = str(folder)
    weights = folder / archive.WEIGHTS
    try:
        torch.load(weights, map_location="meta", weights_only=True)  # an environment variable makes NeMo's call unsafe
    except Exception as error:
        raise SourceError(f"the weights in {path} cannot be read ({error}): copy or download it again") from error
    config: Any = OmegaConf.create(dict(settings))
    if linear_adapter_dim:
        _prepare_encoder(config.encoder)
    try:
        return ASRModel.restore_from(str(path), config, map_location="cpu", save_restore_connector=connector)
    except Exception as error:  # exceptions of hydra, omegaconf and torch share no base class
        raise SourceError(f"NeMo cannot build the model in {path} ({type(error).__name__}: {error})") from error


def _prepare_encoder(config: Any) -> None:
    """Name the variant of the encoder that can hold adapter modules; its weights have the same names."""
    from nemo.core.classes.mixins.adapter_mixins import get_registered_adapter

    config["_target_"] = get_registered_adapter(config["_target_"]).adapter_class_path


@contextmanager
def quiet() -> Iterator[None]:
    """Import and run NeMo without telemetry, advertisements and warnings that no user can act on.

    As soon as NeMo is imported it reports its life cycle to nv_one_logger, whose exporters a configuration file on the
    machine may switch on. NeMo's own logger writes to standard output.
    """
    loggers: list[Any] = [logging.getLogger(), logging.getLogger("nv_one_logger")]
    changed = [*loggers, *logging.getLogger().handlers]  # NeMo's setLevel may change the caller's handlers too
    levels = [item.level for item in changed]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nemo.lightning.callback_group import CallbackGroup
            from nemo.utils import logging as nemo_logging

            CallbackGroup.get_instance().callbacks.clear()
            nemo_logging.setLevel(logging.ERROR)  # for good
            yield
    finally:
        for item, level in zip(changed, levels, strict=True):
            item.setLevel(level)
