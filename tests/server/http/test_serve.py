"""``python -m asr_lightning serve`` as a process: its token, TensorBoard, signals, and modules it must not load."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from asr_lightning.__main__ import main
from asr_lightning.server.http import auth, hardware
from asr_lightning.server.http.settings import find_token
from asr_lightning.server.http.tensorboard import CHILD
from asr_lightning.server.http.tokens import Role, TokenFile
from tests.server import driver
from tests.server.http.conftest import GZIP, TOKEN
from tests.server.http.served import Process, ask, serving
from tests.server.served import Served

VISIT = """
import pathlib, re, sys
from starlette.testclient import TestClient
from tests.server import driver
from tests.server.http.conftest import GZIP, client_of, form
from asr_lightning.cli import serve
from asr_lightning.server.http import hardware, models, run
with driver.running(pathlib.Path(sys.argv[1])) as engine:
    models.catalogue()
    job = driver.reach(engine, driver.submit(engine), "succeeded").id
    http = client_of(engine)
    for path, operations in http.app.openapi()["paths"].items():
        for method in sorted(operations, key=lambda method: method == "delete"):
            name = re.sub("{[^}]+}", job, path)
            fields = {"model" if "v1" in path else "base_model_name": "quick"}
            more = {"data": fields, "files": form()} if method == "post" and "{" not in path else {}
            http.request(method, name, params={"training_id": job, "offset": 0}, **more)
print([name for name in ("torch", "lightning", "transformers", "nemo", "tensorboard") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server on all addresses, started at a terminal without a token; a run of the past has a curve."""
    home = tmp_path_factory.mktemp("public") / "home"
    with serving(home, "--host", "0.0.0.0", "--device", "cpu", terminal=True) as process:
        run = home / "jobs" / "past" / "run" / "tensorboard"
        run.mkdir(parents=True)
        write_curve(run)
        yield process


@pytest.fixture(scope="module")
def token(public: Process) -> str:
    match = re.search(r"token: (\S+)", public.said)
    assert match is not None
    return match[1]


def home_of(process: Process) -> Path:
    arguments = process.process.args
    assert isinstance(arguments, list)
    return Path(arguments[arguments.index("--home") + 1])


def write_curve(folder: Path) -> None:
    """A curve of one point, as a training would write it."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    writer.add_event(Event(step=1, summary=Summary(value=[Summary.Value(tag="dev/wer", simple_value=0.25)])))
    writer.close()


def test_t01_a_bind_for_others_makes_a_token_and_wants_it(public: Process, token: str) -> None:
    path = home_of(public) / "token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() == token and len(token) >= 40
    assert ask(public, "/healthz").status_code == 200
    assert ask(public, "/status").json()["code"] == "unauthorized"
    assert ask(public, "/status", token).json()["status"] == "idle"
    assert ask(public, "/status", token + "x").status_code == 401


def test_t03_tensorboard_works_behind_the_token(public: Process, token: str) -> None:
    assert ask(public, "/tensorboard/").status_code == 401
    address = ask(public, "/status", token).json()["tensorboard_url"]
    assert address.startswith(f"{public.url}/tensorboard/s/")
    signed = address.removeprefix(public.url)
    page = ask(public, signed)
    assert "TensorBoard" in page.text and "frame-ancestors 'self'" in page.headers["content-security-policy"]
    script = ask(public, f"{signed}index.js")
    assert script.status_code == 200 and len(script.content) > 1_000_000
    assert ask(public, "/tensorboard/", token).status_code == 200
    tags = driver.wait(lambda: ask(public, f"{signed}data/plugin/scalars/tags").json(), "the curve")
    assert tags == {"past/run/tensorboard": {"dev/wer": {"displayName": "dev/wer", "description": ""}}}
    curve = ask(
        public, f"{signed}data/plugin/scalars/scalars", params={"tag": "dev/wer", "run": "past/run/tensorboard"}
    )
    assert [point[1:] for point in curve.json()] == [[1, 0.25]]
    body = {"requests": json.dumps([{"plugin": "scalars", "tag": "dev/wer"}])}
    series = ask(public, f"{signed}data/plugin/timeseries/timeSeries", method="POST", data=body)
    assert series.json()[0]["runToSeries"]["past/run/tensorboard"][0]["value"] == 0.25


def test_t03_tensorboard_offers_no_voice_and_hides_the_host(public: Process, token: str) -> None:
    plugins = ask(public, "/tensorboard/data/plugins_listing", token).json()
    assert {name for name, plugin in plugins.items() if plugin["enabled"]} <= {"scalars", "timeseries", "hparams"}
    assert not {"projector", "audio", "text", "images", "graphs"} & {*plugins}
    environment = ask(public, "/tensorboard/data/environment", token)
    assert environment.json()["data_location"] == "jobs"
    assert ask(public, "/tensorboard/data/logdir", token).json() == {"logdir": "jobs"}
    for hostile in ("data/../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "data/plugin/projector/runs"):
        answer = ask(public, f"/tensorboard/{hostile}", token)
        assert answer.status_code in (404, 410) and str(home_of(public)) not in answer.text, hostile


def test_t03_tensorboard_itself_answers_nobody_else(public: Process, token: str) -> None:
    ask(public, "/tensorboard/", token)
    (board,) = boards(public)
    (place,) = {connection.laddr for connection in board.net_connections() if connection.status == psutil.CONN_LISTEN}
    assert place.ip == "127.0.0.1"
    direct = httpx.get(f"http://127.0.0.1:{place.port}/data/environment", trust_env=False)
    assert direct.status_code == 403
    assert token not in str(board.environ()) and token not in str(board.cmdline())


def test_t03_signed_paths_are_checked(public: Process, token: str) -> None:
    expired = auth.signature(token, "tensorboard", now=time.time() - auth.LINK_S - 5)
    for signed in (expired, auth.signature("x" * 40, "tensorboard"), "", "1.2"):
        assert ask(public, f"/tensorboard/s/{signed}/data/environment").status_code == 401
    signed = auth.signature(token, "tensorboard")
    assert ask(public, f"/tensorboard/s/{signed}/../../../status").status_code == 401
    assert ask(public, f"/tensorboard/s/{signed}/%2e%2e/%2e%2e/%2e%2e/status").status_code == 404


def test_t28_the_token_is_in_no_log_and_in_no_address(public: Process, token: str) -> None:
    ask(public, f"/status?token={token}")
    ask(public, f"/{token}", token)
    written = [path for path in home_of(public).rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert written == [home_of(public) / "token"]
    assert public.said.count(token) == 1  # at the start, on the terminal
    assert token not in ask(public, "/status", token).text


def test_tensorboard_is_started_again_when_it_died(public: Process, token: str) -> None:
    ask(public, "/tensorboard/", token)
    (before,) = boards(public)
    before.kill()
    driver.wait(lambda: ask(public, "/tensorboard/data/environment", token).status_code == 200, "TensorBoard", 15)
    (after,) = boards(public)
    assert after.pid != before.pid


def test_p17_a_user_sees_its_own_curves_only(public: Process, token: str) -> None:
    own = TokenFile(home_of(public)).add("anna", Role.USER)
    files = {"data": ("data.tar.gz", GZIP)}  # which the intake refuses, and that does not matter here
    made = ask(public, "/v1/jobs", own, "POST", data={"model": "whisper-tiny.en"}, files=files)
    assert made.status_code == 202, made.text
    run = home_of(public) / "jobs" / made.json()["id"] / "run" / "tensorboard"
    run.mkdir(parents=True)
    write_curve(run)
    signed = made.json()["links"]["tensorboard"].removeprefix(public.url)
    assert signed.startswith("/tensorboard/s/") and signed.endswith("~anna/")
    for path, bearer in ((f"{signed}data/plugin/scalars/tags", None), ("/tensorboard/data/plugin/scalars/tags", own)):
        tags = driver.wait(lambda path=path, bearer=bearer: ask(public, path, bearer).json(), "the curve", 15)
        assert [*tags] == [f"{made.json()['id']}/run/tensorboard"], path  # and not that of the past
    TokenFile(home_of(public)).revoke("anna")
    assert ask(public, f"{signed}data/plugin/scalars/tags").status_code == 401


def test_kill_9_takes_tensorboard_along(public: Process, token: str) -> None:
    ask(public, "/tensorboard/", token)
    running = boards(public)
    assert len(running) == 2  # everybody's, and that of one name
    public.process.kill()
    for board in running:
        driver.wait(lambda: not board.is_running() or board.status() == psutil.STATUS_ZOMBIE, "TensorBoard to end", 10)  # noqa: B023


def boards(process: Process) -> list[psutil.Process]:
    """Its TensorBoard."""
    children = psutil.Process(process.process.pid).children()
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE and CHILD in child.cmdline()]


def test_a_signal_ends_it_although_a_stream_is_open(tmp_path: Path) -> None:
    with Served(tmp_path / "home") as served, httpx.Client(base_url=served.url, trust_env=False) as http:
        files = {"data": ("data.tar.gz", GZIP)}
        path = http.post("/v1/jobs", data={"model": "slow"}, files=files).headers["location"]
        driver.wait(lambda: http.get(path).json()["state"] == "running", "the training")
        with http.stream("GET", f"{path}/events", headers={"Accept": "text/event-stream"}) as stream:
            lines = stream.iter_lines()
            assert next(line for line in lines if '"running"' in line)
            started = time.monotonic()
            served._process.send_signal(signal.SIGTERM)
            assert served._process.wait(15) == 0
            assert "event: end" not in list(lines)  # broken off by the server, not by the job
        assert time.monotonic() - started < 4
        served.kill()  # it has ended: this closes its output
        served.start()
        assert http.get(path).json()["state"] == "running"  # by the same process as before
        http.post(f"{path}/cancel")
        driver.wait(lambda: http.get(path).json()["state"] == "cancelled", "the end")


def test_a_log_is_told_no_token(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home, "--host", "0.0.0.0", "--device", "cpu", "--no_tensorboard") as process:
        assert (home / "token").read_text().strip() not in process.said
        assert f"the token is in {home / 'token'}" in process.said
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(15) == 0


def test_nothing_heavy_is_loaded_by_visiting_every_route(tmp_path: Path) -> None:
    call = [sys.executable, "-c", VISIT, str(tmp_path / "home")]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_what_serve_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ["--home", str(tmp_path)]
    monkeypatch.setenv("ASR_SERVER_TOKEN", "short")
    assert main(["serve", *home, "--port", "0"]) == 2
    assert "ASR_SERVER_TOKEN must have at least 16 ASCII characters" in capsys.readouterr().err
    monkeypatch.delenv("ASR_SERVER_TOKEN")
    for options, words in (
        (["--port", "99999"], "--port must be from 0 to 65535"),
        (["--allow_host", "ok.example", "https://my.example"], "bare names such as asr.example.org"),
        (["--queue", "0"], "--queue must be at least 1"),
        (["--retention", "inf"], "--retention takes days, at most 36500: not inf"),
        (["--retention", "-1"], "--retention takes days, at most 36500: not -1"),
        (["--grace", "nan"], "--grace takes seconds, at most a day: not nan"),
        (["--models_dir", str(tmp_path / "none")], "is no folder"),
        (["--host", "203.0.113.7", "--port", "0"], "cannot listen on 203.0.113.7"),
    ):
        assert main(["serve", *home, *options]) == 2
        assert words in capsys.readouterr().err


def test_tokens(tmp_path: Path) -> None:
    assert find_token(tmp_path, "127.0.0.1", False, {}) == (None, False)
    assert find_token(tmp_path, "127.0.0.1", False, {"ASR_SERVER_TOKEN": TOKEN}) == (TOKEN, False)
    assert find_token(tmp_path, "0.0.0.0", False, {"ASR_SERVER_TOKEN": TOKEN}) == (TOKEN, False)
    assert find_token(tmp_path, "0.0.0.0", True, {}) == (None, False)
    made, is_new = find_token(tmp_path, "::", False, {})
    assert is_new and made and find_token(tmp_path, "192.168.1.5", False, {}) == (made, True)  # kept over a restart
    (tmp_path / "token").unlink()
    (tmp_path / "token").symlink_to(tmp_path / "elsewhere")
    assert find_token(tmp_path, "::", False, {})[0] != made
    assert not (tmp_path / "elsewhere").exists()


def test_devices_are_found_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho '  MIG 1g'\necho 'GPU 1: B (UUID: y)'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert hardware.devices() == ("cuda:0", "cuda:1")
    fake.write_text("#!/bin/sh\nexit 9\n")
    assert hardware.devices() in (("cpu",), ("mps",))
