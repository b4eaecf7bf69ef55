"""Downloads the result of a training, and accepts it only if its hashes are those that the trainer recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from asr_lightning.cloud.endings import incomplete_folder
from asr_lightning.cloud.follow import LOG, Show
from asr_lightning.cloud.ledger import Entry
from asr_lightning.cloud.provider import Provider
from asr_lightning.durable import faults
from asr_lightning.durable.files import write_json
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.digests import digest_of
from asr_lightning.job_folder.ending import Ending

TRIES = 3


def fetch(entry: Entry, provider: Provider, show: Show) -> None:
    """Download model, report and log into the record's ``output``. They get their names once all files are verified.

    Raises:
        OSError: A file did not arrive whole.
    """
    volume, folder = entry.record.volume, Path(entry.record.output)
    assert volume is not None, "it was made"
    entry.save(step="downloading")
    faults.point("cloud.downloading")
    document = json.loads(provider.read(volume, layout.EXIT_RECORD) or b"{}")
    kept = incomplete_folder(entry)
    (kept / "artifacts").mkdir(parents=True, exist_ok=True)
    write_json(kept / layout.EXIT_RECORD, document)
    for name, digest in _artifacts(document).items():
        _download(provider, volume, name, kept / "artifacts" / name, digest, show)
    ending = Ending.read(kept, int(document.get("attempt") or 0))
    if ending is None or not ending.succeeded:
        raise OSError("what was downloaded is not what was trained: start again, the hashes of the model do not match")
    faults.point("cloud.downloaded")
    for name in ending.artifacts:
        (kept / "artifacts" / name).replace(folder / name)
    (folder / "trainer.log").write_bytes(provider.read(volume, LOG) or b"")
    shutil.rmtree(kept)
    entry.save(outcome="succeeded", metrics=ending.metrics, error=None)


def _artifacts(document: Mapping[str, object]) -> dict[str, str]:
    """Hashes of the known artifacts by name. Unknown names are left out, because names become files."""
    hashes = document.get("artifacts")
    if not isinstance(hashes, dict):
        return {}
    return {name: str(hashes[name]) for name in layout.ARTIFACT_NAMES if name in hashes}


def _download(provider: Provider, volume: str, name: str, target: Path, digest: str, show: Show) -> None:
    """Download a file, again if its hash is not ``digest``."""
    cause: Exception | None = None
    for _ in range(TRIES):
        try:
            provider.download(volume, f"artifacts/{name}", target, show.moved(f"download {name}"))
            if digest_of(target) == digest:
                return
            cause = OSError("its hash is not that of the trained one")
        except Exception as error:  # any error of the provider's client
            cause = error
    raise OSError(f"{name} did not arrive: {cause}") from cause


def free_folder(folder: Path) -> Path:
    """``folder``, or one with -2, -3, … appended if it holds a result already."""
    number, candidate = 1, folder
    while (candidate / "model.tar.gz").exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
