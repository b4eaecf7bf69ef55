"""The decoder process. Over a socket, each request brings the descriptors of a recording and of a target file.

``decoding`` starts it as ``python -m asr_lightning.server.intake.decoder``. It opens no name that comes from a client,
and its parent trusts no answer. It decodes one recording at a time, so that the cause of a crash is known.
"""

from __future__ import annotations

from asr_lightning.server.intake import sandbox

if __name__ == "__main__":
    sandbox.before_imports()

import fcntl
import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

import av  # noqa: F401  # imported now, since the sandbox later limits the process

from asr_lightning.data.audio import AudioError, TooLongError, read, resample, to_pcm16
from asr_lightning.data.sound import measure
from asr_lightning.durable.files import FULL
from asr_lightning.server.intake.limits import RATE

RATES = range(2000, 768_001)  # sample rates that a recorder may have
MAX_MESSAGE = 4096


def main() -> int:
    """Answer requests until the parent closes the socket."""
    with socket.socket(fileno=0) as parent:
        settings = json.loads(parent.recv(MAX_MESSAGE))
        sandbox.after_imports(settings["memory_bytes"], settings["file_bytes"])
        parent.sendall(b"{}\n")
        while True:
            message, descriptors, _, _ = socket.recv_fds(parent, MAX_MESSAGE, 2)
            if not message:
                return 0
            sandbox.limit_cpu(settings["decode_seconds"])
            answer = _answer(descriptors[0], descriptors[1], settings["clip_samples"], settings["clip_seconds"])
            for descriptor in descriptors:
                os.close(descriptor)
            parent.sendall(json.dumps(answer).encode() + b"\n")


def _answer(source: int, target: int, max_samples: int, max_seconds: float) -> dict[str, object]:
    """The measures of one recording, or what is wrong with it."""
    path = _path_of(source)
    try:
        sound = read(path, max_samples)
        own_rate = sound.sample_rate
        if own_rate not in RATES:
            return {"bad": f"it claims {own_rate} samples per second, as no recorder makes"}
        if len(sound.samples) > max_seconds * own_rate:
            return {"long": len(sound.samples) / own_rate}
        wave = resample(sound.samples, own_rate, RATE)
        _write_all(target, to_pcm16(wave).astype("<i2").tobytes())
        return {**asdict(measure(sound)), "frames": len(wave)}
    except TooLongError:
        return {"long": None}
    except AudioError as error:
        return {"bad": error.cause}
    except OSError as error:
        return {"full": True} if error.errno in FULL else {"bad": "it cannot be read"}
    except MemoryError:
        return {"bad": "it asks for more memory than the decoder may have"}
    except Exception as error:  # any error of a decoder is an answer about the file that caused it
        return {"bad": f"the decoder fails ({type(error).__name__})"}


def _path_of(descriptor: int) -> Path:
    """A path that opens the file of ``descriptor`` at its start; that in macOS's /dev/fd would share the offset."""
    if sys.platform == "darwin":
        return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
    return Path(f"/dev/fd/{descriptor}")


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


if __name__ == "__main__":
    sys.exit(main())
