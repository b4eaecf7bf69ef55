"""An intake that copies the archive into the data set. One that starts with "bad" is refused; "stuck" never ends."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from asr_lightning.durable.files import write_json
from asr_lightning.job_folder import worker


def main(folder: Path) -> int:
    worker.hold_locks()
    data = (folder / "input" / "archive.tar.gz").read_bytes()
    while data.startswith(b"stuck") and not worker.is_cancelled(folder):
        time.sleep(0.01)
    (folder / "dataset").mkdir(exist_ok=True)
    (folder / "dataset" / "clip-0001.txt").write_bytes(data)
    refused = {"code": "dataset_invalid", "message": "no clips", "param": "data"} if data.startswith(b"bad") else None
    dataset = {"utterances": 1, "seconds": 1.0, "sha256": hashlib.sha256(data).hexdigest(), "issues": [], "counts": {}}
    write_json(folder / "intake.json", {"ok": refused is None, "error": refused, **dataset})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[-1])))
