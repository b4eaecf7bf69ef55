"""Whisper in transformers.js, as browsers read it, run by Node for the test of an export. Loads no torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_lightning.errors import MissingExtraError, ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, RuntimeModel, Samples
from asr_lightning.runtime.whisper.settings import HOP, SAMPLE_RATE, WINDOW_SECONDS, WhisperSettings

SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGE = Path("@huggingface") / "transformers"
VARIABLE = "ASR_TRANSFORMERS_JS"
INSTALL = f"npm install --global {PACKAGE.as_posix()}, or set {VARIABLE} to the node_modules folder that has it"


def load(folder: Path, settings: Mapping[str, object], threads: int) -> RuntimeModel:
    """Load the folder that ``export/whisper/transformers_js.py`` wrote into a process of Node with so many ``threads``.

    Raises:
        MissingExtraError: Node or the package is not installed.
        ModelError: The folder cannot be loaded.
    """
    dtype = "fp32" if settings.get("variant") == "fp32" else "q8"
    first = {"package": str(_package()), "folder": str(folder.resolve()), "dtype": dtype, "threads": threads}
    return TransformersJs(_Node(first), WhisperSettings.from_json(settings))


def _package() -> Path:
    """Find the package in the folder that the environment names, else among the global ones of npm."""
    if shutil.which("node") is None:
        raise MissingExtraError(f"transformers.js needs Node, which is not installed here: install it, then {INSTALL}")
    named = os.environ.get(VARIABLE)
    if not named and shutil.which("npm"):
        asked = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, timeout=60, check=False)
        named = asked.stdout.strip()
    package = Path(named or "").expanduser().resolve() / PACKAGE
    if not named or not (package / "package.json").is_file():
        raise MissingExtraError(f"transformers.js is not in {named or 'the global folder of npm'}: {INSTALL}")
    return package


class _Node:
    """A process of Node that answers a line of JSON with a line of JSON; it ends when this object is dropped."""

    def __init__(self, first: Mapping[str, object]) -> None:
        self._process = subprocess.Popen(
            ["node", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        weakref.finalize(self, _end, self._process)
        self.ask(first)

    def ask(self, question: Mapping[str, object]) -> dict[str, Any]:
        """Send ``question`` and return the answer.

        Raises:
            ModelError: Node reports an error, or has ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # they are pipes
        try:
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline() or '{"error": "it has ended"}')
        except OSError as error:
            raise ModelError(f"transformers.js in Node has ended ({error})") from error
        if "error" in answer:
            raise ModelError(f"transformers.js in Node reports: {answer['error']}")
        return answer


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class TransformersJs:
    """A Whisper in transformers.js, which reads clips one by one and greedily.

    It tells no confidence. It tells times only where it asks for timestamp tokens, which tuned models do not write.

    Args:
        node: The process.
        settings: How the model reads audio.
    """

    sample_rate = SAMPLE_RATE
    min_seconds = 0.1
    max_seconds: float | None = WINDOW_SECONDS

    def __init__(self, node: _Node, settings: WhisperSettings) -> None:
        self._node, self.settings = node, settings
        self.language = settings.language

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order."""
        return [self._read(clip, decoding.native) for clip in clips]

    def _read(self, clip: Samples, native: bool) -> Hypothesis:
        options: dict[str, object] = {"max_new_tokens": self.settings.max_tokens(len(clip))}
        if self.language is not None:
            options |= {"language": self.language, "task": self.settings.task}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "samples"
            file.write_bytes(clip.astype("<f4").tobytes())
            length = HOP * self.settings.num_frames(len(clip), native)
            answer = self._node.ask({"file": str(file), "length": length, "options": options})
        return Hypothesis(str(answer["text"]).strip())
