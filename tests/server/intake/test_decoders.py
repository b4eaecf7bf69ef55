"""Decoder processes that crash, hang or lie, and the restrictions of a decoder process."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from asr_lightning.server.intake.decoding import Decoders, Refused, Sound
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.verdict import IntakeError
from tests.server.intake.archives import wav_bytes

LIMITS = replace(IntakeLimits(), decode_seconds=0.5, crashes=2)
# Answers like the real one, but the content of a file says what happens; LATE crashes at the file after it.
STUB = """
import json, os, signal, socket, time
link = socket.socket(fileno=0)
link.recv(4096); link.sendall(b"{}\\n")
late = False
while True:
    message, (source, target), _, _ = socket.recv_fds(link, 4096, 2)
    what = os.read(source, 100)
    if what == b"CRASH" or late:
        os.kill(os.getpid(), signal.SIGSEGV)
    late = what == b"LATE"
    if what == b"HANG":
        time.sleep(60)
    if what == b"END":
        raise SystemExit
    figures = dict(peak=1, rms=1, mean=0, clipped=0, runs=0, rate=16000, one_channel=0, scale=1)
    answer = json.dumps({**figures, "frames": 100}).encode()
    if what == b"MANY":
        answer = json.dumps({**figures, "frames": 10**9}).encode()
    if what == b"NAN":
        answer = json.dumps({**figures, "peak": float("nan"), "frames": 100}).encode()
    if what == b"LIST":
        answer = b"[1, 2]"
    if what == b"TEXT":
        answer = json.dumps({**figures, "frames": "100"}).encode()
    if what == b"BYTES":
        answer = bytes(range(255, 200, -1))
    if what == b"FLOOD":
        answer = b"x" * 100000
    if what == b"ESCAPE":
        answer = json.dumps({"bad": "\\x1b[31mred" * 1000}).encode()[:3000]
    if what == b"DEEP":
        answer = b"[" * 4000
    os.write(target, bytes(200)); link.sendall(answer + b"\\n")
"""


@pytest.fixture
def decode(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with Decoders(tmp_path / "empty", LIMITS, [sys.executable, "-c", STUB]) as decoders:

        def one(content: bytes) -> Sound | Refused:
            (tmp_path / "in").write_bytes(content)
            source = os.open(tmp_path / "in", os.O_RDONLY)
            target = os.open(tmp_path / "out.wav", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            try:
                return decoders.decode(source, target)
            finally:
                os.close(source)
                os.close(target)

        yield one


@pytest.mark.parametrize("what", [b"CRASH", b"END", b"MANY", b"NAN", b"LIST", b"TEXT", b"BYTES", b"FLOOD", b"DEEP"])
def test_bad_answer_is_d03_and_the_next_file_is_decoded(decode, what: bytes, tmp_path: Path) -> None:
    assert decode(b"good").frames == 100
    bad = decode(what)
    assert isinstance(bad, Refused) and bad.code == "D03"
    assert decode(b"good").frames == 100
    assert (tmp_path / "out.wav").stat().st_size == 244


def test_hanging_decoder_is_stopped(decode) -> None:
    bad = decode(b"HANG")
    assert isinstance(bad, Refused) and "end" in bad.cause
    assert decode(b"good").frames == 100


def test_crash_left_behind_by_an_earlier_file_blames_no_other(decode) -> None:
    assert isinstance(decode(b"LATE"), Sound)
    assert decode(b"good").frames == 100


def test_many_crashes_refuse_the_upload(decode) -> None:
    for _ in range(LIMITS.crashes):
        decode(b"CRASH")
    with pytest.raises(IntakeError, match="over 2 recordings crash"):
        decode(b"CRASH")


def test_time_for_all_is_bounded(tmp_path: Path) -> None:
    limits = replace(LIMITS, all_decode_seconds=-1.0)
    with Decoders(tmp_path, limits, [sys.executable, "-c", STUB]) as decoders, pytest.raises(IntakeError, match="long"):
        decoders.decode(0, 1)


def test_decoder_that_does_not_start_blames_no_recording(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x")
    with (
        (tmp_path / "in").open("r+b") as file,
        Decoders(tmp_path, LIMITS, [sys.executable, "-c", "0"]) as decoders,
        pytest.raises(RuntimeError, match="does not start"),
    ):
        decoders.decode(file.fileno(), file.fileno())


PROBE = """
import os, socket, sys
from asr_lightning.server.intake import sandbox
sandbox.before_imports()
import numpy
kept = os.open(sys.argv[1], os.O_RDWR)
sandbox.after_imports(2 << 30, 1000)

def tried(act):
    try:
        act()
        return "done"
    except (OSError, MemoryError) as error:
        return type(error).__name__

print(tried(lambda: os.write(kept, b"x")), tried(lambda: os.pwrite(kept, b"x", 5000)),
      tried(lambda: numpy.ones(3 << 30, "u1")))
print(tried(lambda: open(sys.argv[1], "w")), tried(lambda: open(sys.argv[1] + "2", "w")),
      tried(lambda: os.unlink(sys.argv[1])), tried(lambda: os.execv("/bin/true", ["true"])))
print(tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 1)))
print(tried(lambda: [os.dup(0) for _ in range(50)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no address-space limit, namespaces or Landlock")
def test_what_a_decoder_process_may_do(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = [sys.executable, "-c", PROBE, str(victim), str(server.getsockname()[1])]
        done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    limits, files, network, descriptors = done.stdout.splitlines()
    assert limits.split() == ["done", "OSError", "MemoryError"] and descriptors == "OSError"
    if files.split() != ["PermissionError"] * 4:
        pytest.skip("this kernel has no Landlock")
    assert victim.read_text() == "xine"
    if network == "done":
        pytest.skip("this system lets users make no network namespace")
    assert network == "OSError"


def test_environment_and_descriptors_of_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of the server's environment, no other descriptor, an empty folder."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("ASR_SERVER_TOKEN", "secret")
    (tmp_path / "empty").mkdir()
    show = "import json, os, socket; link = socket.socket(fileno=0); link.recv(4096); names = os.listdir('/dev/fd')\n"
    show += "json.dump([sorted(os.environ), len(names), os.listdir()], open('../seen.json', 'w'))"
    (tmp_path / "in").write_bytes(wav_bytes())
    before = resource.getrlimit(resource.RLIMIT_AS)
    with (
        (tmp_path / "in").open("r+b") as file,
        Decoders(tmp_path / "empty", LIMITS, [sys.executable, "-c", show]) as decoders,
        pytest.raises(RuntimeError),
    ):
        decoders.decode(file.fileno(), file.fileno())
    environment, descriptors, listing = json.loads((tmp_path / "seen.json").read_text())
    assert "HF_TOKEN" not in environment and "ASR_SERVER_TOKEN" not in environment and "HOME" not in environment
    assert descriptors == 4  # socket, two closed streams' replacements, and the one of the listing itself
    assert listing == []
    assert resource.getrlimit(resource.RLIMIT_AS) == before
