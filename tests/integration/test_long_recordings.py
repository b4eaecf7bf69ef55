"""Long recordings of clips, silence, noise and music: their texts and times, through Python and the commands."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr_lightning as asr
from asr_lightning import microphone
from asr_lightning.__main__ import main
from asr_lightning.data import streams
from asr_lightning.listening import PAUSE, Heard, Listener, cutter_for
from asr_lightning.microphone import Microphone, Recording
from asr_lightning.runtime.contract import GREEDY, Hypothesis
from asr_lightning.runtime.segments import Segment
from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.text import basic
from tests import long_recording
from tests.long_recording import RATE, LongRecording, Spoken

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
MODELS = {
    "demo": (Path(os.environ.get("ASR_TEST_MODEL", ROOT / "runs" / "demo")), {}),
    "multilingual": ("whisper-base", {"language": "en"}),
}
"""The demo's own model, or another one that ``ASR_TEST_MODEL`` names, such as an export; and a multilingual one."""


@pytest.fixture(scope="module")
def short() -> LongRecording:
    """Three clips, and 12 s of silence, noise and music."""
    return long_recording.make(list(long_recording.test_clips(3)), fillers=12, seed=5)


@pytest.fixture(scope="module")
def recognizer() -> asr.Recognizer:
    return asr.load("whisper-tiny.en", device="cpu")


@pytest.fixture(scope="module")
def path(short: LongRecording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.flac"
    soundfile.write(path, short.samples, RATE)
    return path


@pytest.fixture(scope="module")
def expected(recognizer: asr.Recognizer, path: Path) -> asr.Transcription:
    """What is read in it, decoded whole."""
    return recognizer.transcribe(path)


def wer(spoken: list[Spoken], texts: list[str]) -> float:
    reference = " ".join(part.text for part in spoken)
    return score([Transcript("all", reference, " ".join(texts))], basic).wer


def require_right_times(found: list[Segment], spoken: list[Spoken]) -> None:
    """Each clip begins with a segment, and no segment is where nobody speaks."""
    for part in spoken:
        assert min(abs(segment.start - part.start) for segment in found) <= 0.5, part
    for segment in found:
        assert any(part.start - 0.5 < segment.end and segment.start < part.end + 0.5 for part in spoken), segment
    for before, after in pairwise(found):
        assert before.end <= after.start


def test_a_recording_is_read_as_its_clips_are(
    recognizer: asr.Recognizer, short: LongRecording, expected: asr.Transcription
) -> None:
    """As a file and as a stream; nothing is made up in between."""
    found = expected
    clips = recognizer.transcribe([samples for samples, _ in long_recording.test_clips(3)], sample_rate=RATE)
    assert found.text == " ".join(segment.text for segment in found.segments)
    # Three words of 21: this model, which nobody specialized, guesses at the accent.
    assert wer(short.spoken, [found.text]) <= wer(short.spoken, [clip.text for clip in clips]) + 0.15
    require_right_times(list(found.segments), short.spoken)
    blocks = [short.samples[start : start + 4001] for start in range(0, len(short.samples), 4001)]
    assert [segment.text for segment in recognizer.stream(iter(blocks), RATE)] == [s.text for s in found.segments]


def test_the_command_reads_files_in_blocks_and_stdin(
    recognizer: asr.Recognizer,
    expected: asr.Transcription,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from asr_lightning.cli import transcribe

    monkeypatch.setattr(transcribe, "load", lambda options: recognizer)
    monkeypatch.setattr(streams, "WHOLE", RATE)
    output = tmp_path / "a.jsonl"
    assert main(["transcribe", str(path), "--model", "whisper-tiny.en", "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    assert content["seconds"] == round(expected.seconds, 3) and content["text"] == expected.text
    assert [(s["start"], s["text"]) for s in content["segments"]] == [(s.start, s.text) for s in expected.segments]
    stdin = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["transcribe", "-", "--model", "whisper-tiny.en", "--format", "srt"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("-->") == len(expected.segments)
    assert " ".join(line for line in printed.splitlines() if line[:1].isalpha()) == expected.text


def test_what_follows_a_damaged_place_is_refused_and_the_rest_is_kept(
    recognizer: asr.Recognizer,
    expected: asr.Transcription,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from asr_lightning.cli import transcribe

    monkeypatch.setattr(transcribe, "load", lambda options: recognizer)
    monkeypatch.setattr(streams, "WHOLE", RATE)
    monkeypatch.setattr(streams, "SCALE_SECONDS", 1.0)
    content = path.read_bytes()
    damaged = tmp_path / "damaged.flac"
    damaged.write_bytes(content[: len(content) * 2 // 3] + bytes(len(content) // 3))
    assert main(["transcribe", str(damaged), "--model", "whisper-tiny.en"]) == 1
    printed = capsys.readouterr()
    assert printed.out.strip() and expected.text.startswith(printed.out.split("\n")[0])
    assert "damaged or cut off" in printed.err and " s is kept" in printed.err


@pytest.fixture(scope="module")
def dictation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with pauses, 7 s in all."""
    path = tmp_path_factory.mktemp("listen") / "dictation.wav"
    soundfile.write(path, long_recording.make(list(long_recording.test_clips(2)), fillers=0, seed=1).samples, RATE)
    return path


def test_listen_prints_appends_and_types_each_phrase(
    recognizer: asr.Recognizer, dictation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setattr("asr_lightning.recognizer.load", lambda *_, **__: recognizer)
    (tmp_path / "notes.txt").write_text("before\n")
    program = f"import sys; open({str(tmp_path / 'typed.txt')!r}, 'a').write(sys.stdin.read())"
    command = f'{sys.executable} -c "{program}"'
    listen = ["listen", "--model", "whisper-tiny.en", "--source", str(dictation), "--fast"]
    assert main([*listen, "--output", str(tmp_path / "notes.txt"), "--command", command]) == 0
    said = capfd.readouterr().out.splitlines()
    assert len(said) >= 2
    assert (tmp_path / "notes.txt").read_text().splitlines() == ["before", *said]
    assert (tmp_path / "typed.txt").read_text() == "".join(f"{text} " for text in said)
    assert main([*listen, "--command", f"touch '{tmp_path}/{{}}'"]) == 0
    assert all((tmp_path / text).is_file() for text in said), "no shell has divided the text"


def test_listen_in_real_time_tells_each_phrase_soon_after_its_end(dictation: Path) -> None:
    """With a model that takes no time: what is measured is ours, the pause of 0.25 s and what is around it."""

    class Instant:
        sample_rate, min_seconds, max_seconds, language = RATE, 0.1, 30.0, "en"

        def transcribe(self, clips, decoding):
            return [Hypothesis(f"{len(clip) / RATE:.2f}") for clip in clips]

    heard: list[Heard] = []
    model = Instant()
    listener = Listener(model, GREEDY, cutter_for(model, PAUSE), heard.append)
    source = Recording(dictation, RATE, is_fast=False)
    started = time.monotonic()
    listener.listen(source)
    assert time.monotonic() - started >= soundfile.info(dictation).duration - 0.1, "in real time"
    assert len(heard) >= 2
    assert min(found.latency for found in heard) <= 0.32, "more only where this machine was busy"
    assert all(before.segment.end <= after.segment.start for before, after in pairwise(heard))


def test_ctrl_c_ends_listening_with_what_was_said_until_then(tmp_path: Path) -> None:
    """A child process, which gets the signal while a phrase is being spoken."""
    voiced = np.concatenate([samples[8000:-8000] for samples, _ in long_recording.test_clips(12)])
    soundfile.write(tmp_path / "a.wav", voiced, RATE)
    program = (
        "import sys, numpy as np\n"
        "from asr_lightning import recognizer\n"
        "from asr_lightning.__main__ import main\n"
        "from asr_lightning.runtime.contract import Hypothesis\n"
        "class Model:\n"
        "    sample_rate, min_seconds, max_seconds, language = 16000, 0.1, 30.0, 'en'\n"
        "    def transcribe(self, clips, decoding):\n"
        "        return [Hypothesis('said' if clip.any() else '') for clip in clips]\n"
        "recognizer.load = lambda *_, **__: recognizer.Recognizer(Model())\n"
        "sys.exit(main(['listen', '--model', 'x', '--source', 'a.wav', '--pause', '3']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment, **pipes) as child:
        line = next(line for line in child.stderr if "Ctrl-C ends" in line)
        assert line
        time.sleep(2.0)  # of speech, in the source's real time
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "said\n"), err


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (None, r"pip install 'asr-lightning\[listen\]'"),
        (OSError("PortAudio library not found"), "apt install libportaudio2"),
        ("no devices", "there is no microphone here .*--source FILE"),
    ],
)
def test_without_a_microphone_the_remedy_is_named(library, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from asr_lightning import errors

    if library is None:
        monkeypatch.setattr(errors, "find_spec", lambda name: None)
    elif isinstance(library, OSError):
        monkeypatch.setattr(errors, "find_spec", lambda name: name)

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "sounddevice":
                    raise library

        monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    else:
        monkeypatch.setattr(microphone, "library", lambda: NoDevices)
    with pytest.raises(ValueError, match=message):
        Microphone(RATE)


class NoDevices:
    """PortAudio on a machine without a microphone."""

    class PortAudioError(Exception):
        """PortAudio's."""

    @classmethod
    def query_devices(cls, device, kind):
        raise cls.PortAudioError("Error querying device -1")


@pytest.mark.skipif(not os.environ.get("ASR_TEST_SLOW"), reason="several minutes: ASR_TEST_SLOW=1 runs it")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MODELS)
def test_ten_minutes_are_read_as_well_as_the_clips(name: str, tmp_path: Path) -> None:
    """The test clips, 1 to 3 s long, between 8 minutes of silence, noise and music."""
    model, options = MODELS[name]
    if isinstance(model, Path) and not model.exists():
        pytest.skip(f"{model} is missing: make demo, or name another model in ASR_TEST_MODEL")
    recognizer = asr.load(model, device="cpu", **options)
    clips = list(long_recording.test_clips())
    recording = long_recording.make(clips, fillers=480, seed=1)
    soundfile.write(tmp_path / "ten.flac", recording.samples, RATE)
    found = recognizer.transcribe(tmp_path / "ten.flac")
    alone = recognizer.transcribe([samples for samples, _ in clips], sample_rate=RATE)
    assert found.seconds > 600
    limit = wer(recording.spoken, [clip.text for clip in alone]) + 0.01
    assert wer(recording.spoken, [found.text]) <= limit
    require_right_times(list(found.segments), recording.spoken)
    if options:
        assert found.language == options["language"]
