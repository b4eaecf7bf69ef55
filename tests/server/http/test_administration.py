"""``serve token``, ``serve audit`` and ``serve backup``: what they print and refuse; and the chain of the audit log."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asr_lightning.__main__ import main
from asr_lightning.cli import serve_token
from asr_lightning.durable import faults
from asr_lightning.server.engine.claim import claim
from asr_lightning.server.engine.quota import Quota
from asr_lightning.server.http.audit import LINE_BYTES, START, AuditLog, Entry
from asr_lightning.server.http.tokens import Role, TokenFile
from tests.server import driver
from tests.server.http.served import ask, serving

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def serve(home: Path, *arguments: str) -> int:
    return main(["serve", *arguments, "--home", str(home)])


def test_add_list_and_revoke(home: Path, capsys: Capture) -> None:
    assert serve(home, "token", "add", "anna", "--expires", "90d", "--max_jobs", "3", "--max_bytes", "2G") == 0
    said = capsys.readouterr()
    text = said.out.strip()
    assert re.fullmatch(r"asr_[A-Za-z0-9_-]{43}", text) and text not in said.err
    assert "from now on each request to this server needs a token" in said.err
    found = TokenFile(home).find(text)
    assert found is not None and (found.name, found.role, found.refusal()) == ("anna", Role.USER, None)
    assert found.quota == Quota(max_jobs=3, max_bytes=2 << 30)
    assert found.digest == hashlib.sha256(text.encode()).hexdigest()
    assert serve(home, "token", "add", "screen", "--role", "viewer") == 0
    assert "from now on" not in capsys.readouterr().err
    assert serve(home, "token", "revoke", "screen") == serve(home, "token", "list") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^anna +user +valid until \d{4}-\d\d-\d\d \d\d:\d\d UTC +3 +- +2147483648$", shown, re.MULTILINE)
    assert re.search(r"^screen +viewer +was revoked", shown, re.MULTILINE)
    assert serve(home, "token", "list", "--json") == 0
    listed = capsys.readouterr().out
    assert [entry["name"] for entry in json.loads(listed)] == ["anna", "screen"] and found.digest not in listed
    assert [path for path in home.rglob("*") if path.is_file() and text.encode() in path.read_bytes()] == []
    assert [json.loads(line)["subject"] for line in AuditLog(home).lines()] == ["anna", "screen", "screen"]


def test_a_name_is_changed_and_keeps_its_token(home: Path, capsys: Capture) -> None:
    serve(home, "token", "add", "anna", "--max_jobs", "3", "--max_queued", "2", "--expires", "1d")
    text, tokens = capsys.readouterr().out.strip(), TokenFile(home)
    assert serve(home, "token", "set", "anna", "--max_jobs", "none", "--max_bytes", "5M", "--expires", "none") == 0
    token = tokens.find(text)
    assert token is not None and token.quota == Quota(max_queued=2, max_bytes=5 << 20)
    assert (token.role, token.expires_at, token.refusal()) == (Role.USER, None, None)
    assert serve(home, "token", "set", "anna", "--role", "admin") == 0
    changed = tokens.find(text)
    assert changed is not None and (changed.role, changed.quota) == (Role.ADMIN, token.quota)
    assert "anna  admin  valid  -  2  5242880" in capsys.readouterr().err
    assert [json.loads(line)["what"] for line in AuditLog(home).lines()] == [
        "serve token add (user)", "serve token set (user)", "serve token set (admin)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["token", "add", "a/b"], "'a/b' cannot be one"),
        (["token", "add", "x", "--expires", "soon"], "--expires takes 12h, 90d, 4w or a date"),
        (["token", "add", "x", "--expires", "2020-01-01"], "is past"),
        (["token", "add", "x", "--expires", "999999w"], "--expires takes"),
        (["token", "add", "x", "--max_jobs", "0"], "--max_jobs must be at least 1"),
        (["token", "add", "x", "--max_jobs", "few"], "--max_jobs takes a whole number"),
        (["token", "set", "x", "--max_jobs", "1"], "x has no token: serve token list shows those that exist"),
        (["token", "set", "taken", "--role", "viewer", "--max_jobs", "1"], "a viewer has no jobs"),
        (["token", "add", "x", "--max_bytes", "many"], "--max_bytes takes a size such as 500M or 20G"),
        (["token", "add", "x", "--role", "viewer", "--max_queued", "1"], "a viewer has no jobs"),
        (["token", "add", "taken"], "serve token revoke taken, then add a new one"),
        (["token", "revoke", "nobody-here"], "serve token list shows those that exist"),
        (["audit", "verify", "--expect", "3"], "--expect takes LINE:HASH"),
        (["audit", "show", "--last", "0"], "--last must be at least 1"),
    ],
)
def test_what_is_refused(home: Path, capsys: Capture, arguments: list[str], words: str) -> None:
    assert serve(home, "token", "add", "taken") == 0
    before = (home / "tokens.json").read_bytes()
    assert serve(home, *arguments) == 2
    assert words in capsys.readouterr().err
    assert (home / "tokens.json").read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [["token", "list"], ["token", "revoke", "x"], ["audit", "verify"], ["backup", "x"]]
)
def test_a_folder_that_is_no_home_is_named(tmp_path: Path, capsys: Capture, arguments: list[str]) -> None:
    assert serve(tmp_path / "none", *arguments) == 2
    assert "is no home of a server: name it with --home" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    (tmp_path / "others" / "jobs").mkdir(parents=True)  # a folder of somebody else that has a part of the same name
    assert serve(tmp_path / "others", *arguments) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["others", "jobs"]


def test_times_and_sizes() -> None:
    now = datetime(2027, 1, 1, 12, tzinfo=UTC)
    assert serve_token.expiry("36h", now) == "2027-01-03T00:00:00+00:00"
    assert serve_token.expiry("2w", now) == "2027-01-15T12:00:00+00:00"
    assert serve_token.expiry("2027-03-31", now) == "2027-03-31T00:00:00+00:00"
    assert serve_token.expiry("2027-03-31T12:00+02:00", now) == "2027-03-31T10:00:00+00:00"
    assert [serve_token.size_of(text) for text in ("7", "5k", "500M", "20GiB", "1tb")] == [
        7, 5 << 10, 500 << 20, 20 << 30, 1 << 40,
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_the_home(home: Path, tmp_path: Path) -> None:
    with driver.running(home) as engine:
        driver.reach(engine, driver.submit(engine), "succeeded")
    for path in (home, *home.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    assert serve(home, "token", "add", "anna") == serve(home, "backup", str(tmp_path / "copy")) == 0
    for folder in (home, tmp_path / "copy"):
        assert {path.lstat().st_uid for path in (folder, *folder.rglob("*"))} == {12345}


def filled(home: Path, count: int = 5) -> AuditLog:
    claim(home)
    log = AuditLog(home)
    for number in range(count):
        log.append(Entry("anna", "DELETE /v1/jobs/{job_id}", 200, "user", "203.0.113.9", subject=f"j{number}"))
    return log


def test_the_chain(home: Path) -> None:
    log = filled(home)
    verdict = log.verify()
    entries = [json.loads(line) for line in log.lines()]
    assert (verdict.lines, verdict.wrong, verdict.last) == (5, None, entries[-1]["hash"])
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry["previous"] for entry in entries] == [START, *(entry["hash"] for entry in entries[:-1])]
    body = re.sub(rb',"hash":"[0-9a-f]+"\}', b"}", next(log.lines()))
    assert hashlib.sha256(body).hexdigest() == entries[0]["hash"]


def rehashed(line: bytes, old: str, new: str) -> bytes:
    """A line that was changed by somebody who knows how the log is made."""
    members = json.loads(line.replace(old.encode(), new.encode()))
    del members["hash"]
    text = json.dumps(members, separators=(",", ":"))
    return f'{text[:-1]},"hash":"{hashlib.sha256(text.encode()).hexdigest()}"}}'.encode()


@pytest.mark.parametrize(
    ("change", "first_wrong"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"anna", b"ben"), *lines[2:]], 2),
        (lambda lines: [lines[0], rehashed(lines[1], "anna", "ben"), *lines[2:]], 3),
        (lambda lines: [*lines[:4], lines[4].replace(b"200", b"404")], 5),
        (lambda lines: [*lines[:4], lines[4][:-1]], 5),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4),
        (lambda lines: [*lines[:3], b"", *lines[3:]], 4),
        (lambda lines: [*lines[:3], b"[]", *lines[3:]], 4),
        (lambda lines: [lines[0], lines[1].replace(b'"anna"', b'"anna" '), *lines[2:]], 2),
        (lambda lines: [b"\xff\xfe", *lines[1:]], 1),
    ],
)
def test_a_change_of_the_log_is_found_and_named(home: Path, capsys: Capture, change, first_wrong: int) -> None:
    TokenFile(home.parent)
    log = filled(home)
    log.path.write_bytes(b"\n".join(change([*log.lines()])) + b"\n")
    assert serve(home, "audit", "verify") == 1
    assert f"{log.path} line {first_wrong}: " in capsys.readouterr().err
    log.append(Entry("server", "serve", "done"))  # and is not healed by what comes later
    assert log.verify().lines == first_wrong - 1 and log.verify().wrong is not None


def test_a_log_that_was_cut_is_found_by_what_was_kept_elsewhere(home: Path, capsys: Capture) -> None:
    log = filled(home)
    assert serve(home, "audit", "verify") == 0
    said = capsys.readouterr().out
    assert "5 lines, all in order" in said
    expected = re.search(r"--expect (\S+)", said)
    assert expected is not None
    log.append(Entry("server", "serve", "done"))
    assert serve(home, "audit", "verify", "--expect", expected[1]) == 0
    kept = [*log.lines()]
    log.path.write_bytes(b"\n".join(kept[:4]) + b"\n")
    assert serve(home, "audit", "verify") == 0  # a shorter log is in order too
    assert serve(home, "audit", "verify", "--expect", expected[1]) == 1
    assert f"{log.path} line 5: it is missing" in capsys.readouterr().err
    filled(home, 2)
    assert serve(home, "audit", "verify", "--expect", expected[1]) == 1


def test_show(home: Path, capsys: Capture) -> None:
    log = filled(home)
    log.append(Entry("anna", "GET /v1/jobs/{job_id}/logs", 200, "user", "127.0.0.1", "198.51.100.7", "j9"))
    log.append(Entry("local:root", "serve token revoke", "done", source="command line", subject="ben"))
    assert serve(home, "audit", "show", "--last", "2") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1:] for line in shown] == [
        ["anna", "198.51.100.7", "GET /v1/jobs/{job_id}/logs", "j9", "200"],
        ["local:root", "command line", "serve token revoke", "ben", "done"],
    ]
    assert serve(home, "audit", "show", "--who", "local:root", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seq"] == 7


def test_a_line_that_a_crash_cut_off_is_dropped_and_nothing_else(home: Path) -> None:
    log = filled(home, 3)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"seq":4,"time":"2027')
    log.append(Entry("server", "serve", "done"))
    assert log.path.read_bytes().startswith(whole) and log.verify().lines == 4 and log.verify().wrong is None
    foreign = whole + b"x" * (LINE_BYTES + 1)  # no line of ours: it stays
    log.path.write_bytes(foreign)
    log.append(Entry("server", "serve", "done"))
    assert log.path.read_bytes().startswith(foreign) and log.verify().lines == 3


def test_a_full_disk_leaves_the_log_as_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(home, 2)
    before = log.path.read_bytes()
    faults.forget()
    monkeypatch.setenv("ASR_FAULT", "audit.written:enospc")
    with pytest.raises(OSError, match="No space left"):
        log.append(Entry("server", "serve", "done"))
    assert log.path.read_bytes() == before


def test_threads_and_processes_append_to_one_chain(home: Path) -> None:
    home.mkdir()
    code = (
        "import sys, pathlib; from asr_lightning.server.http.audit import *\n"
        "for _ in range(40): AuditLog(pathlib.Path(sys.argv[1])).append(Entry('ben', 'x', 'done'))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(home)], cwd=ROOT)
    threads = [threading.Thread(target=filled, args=(home, 20)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert child.wait(30) == 0
    assert (AuditLog(home).verify().lines, AuditLog(home).verify().wrong) == (100, None)


def test_a_running_server_takes_and_refuses_tokens_at_once(home: Path, capsys: Capture) -> None:
    with serving(home, "--device", "cpu", "--no_tensorboard") as process:
        assert ask(process, "/status").status_code == 200
        assert serve(home, "token", "add", "anna") == 0
        token = capsys.readouterr().out.strip()
        assert ask(process, "/status").status_code == 401
        assert ask(process, "/v1/jobs", token).json() == {"data": [], "next": None}
        assert ask(process, "/metrics", token).json()["code"] == "forbidden"
        assert serve(home, "token", "revoke", "anna") == 0
        assert ask(process, "/v1/jobs", token).status_code == 401
        assert serve(home, "audit", "verify") == 0
        started = re.search(r"audit log: (\d+:[0-9a-f]{64})", process.said)
        assert started is not None and serve(home, "audit", "verify", "--expect", started[1]) == 0


def test_the_jobs_of_names_are_not_served_to_everybody(home: Path, capsys: Capture) -> None:
    with driver.running(home) as engine:
        driver.reach(engine, driver.submit(engine, owner="anna"), "succeeded")
    assert serve(home, "--port", "0", "--device", "cpu") == 2
    said = capsys.readouterr().err
    assert "there are jobs of anna, but" in said and "tokens.json is missing" in said
    assert serve(home, "token", "add", "anna") == 0  # as it says
    with serving(home, "--device", "cpu", "--no_tensorboard") as process:
        assert ask(process, "/v1/jobs", capsys.readouterr().out.strip()).json()["data"][0]["owner"] == "anna"


def test_the_documented_backup_and_restore(tmp_path: Path) -> None:
    """The commands of docs/server.md, with other paths, on a home with a finished, a running and a deleted job."""
    (block,) = re.findall(r"```\n([^`]*serve backup [^`]*)```", (ROOT / "docs" / "server.md").read_text())
    *commands, start = block.strip().splitlines()
    assert start == "python -m asr_lightning serve"
    home, elsewhere = tmp_path / ".asr_lightning", tmp_path / "backup"
    elsewhere.mkdir()
    with driver.running(home) as engine:
        done = driver.reach(engine, driver.submit(engine, owner="anna"), "succeeded")
        gone = driver.reach(engine, driver.submit(engine, key="k"), "succeeded")
        engine.purge(gone.id)
        slow = driver.reach(engine, driver.submit(engine, "slow"), "running")
        token = TokenFile(home).add("anna", Role.USER)
        AuditLog(home).append(Entry("server", "serve", "done"))
        script = "\n".join(commands).replace("~/.asr_lightning", str(home)).replace("/backup/", f"{elsewhere}/")
        script = script.replace("python -m", f"{sys.executable} -m")
        at_once, later = re.split(r"(?<=\n)(?=mv )", script)
        environment = {**os.environ, "ASR_HOME": str(home), "PYTHONPATH": str(ROOT)}
        run = subprocess.run(["bash", "-e", "-c", at_once], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        model = engine.folder(done.id) / "artifacts" / "model.tar.gz"
        content = model.read_bytes()
    subprocess.run(["bash", "-e", "-c", later], env=environment, check=True)
    names = {path.name for path in home.iterdir()}
    assert names >= {"audit.log", "jobs", "state.db", "tokens.json"} and "state.db-wal" not in names
    with serving(home, "--device", "cpu", "--no_tensorboard") as process:
        (shown,) = ask(process, "/v1/jobs", token).json()["data"]
        assert (shown["id"], shown["state"], shown["owner"]) == (done.id, "succeeded", "anna")
        got = ask(process, f"/v1/jobs/{done.id}/artifacts/model.tar.gz", token)
        assert got.content == content and hashlib.sha256(content).hexdigest() == done.artifacts["model.tar.gz"]
    assert AuditLog(home).verify().wrong is None
    assert (home / "jobs" / slow.id / "request.json").is_file() and not (home / "jobs" / gone.id).exists()
    assert oct(home.stat().st_mode & 0o777) == "0o700"


def test_a_backup_is_whole_or_absent_and_overwrites_nothing(home: Path, tmp_path: Path, capsys: Capture) -> None:
    with driver.running(home) as engine:
        done = driver.reach(engine, driver.submit(engine), "succeeded")
        (tmp_path / "mine").mkdir()
        for target, words in ((tmp_path / "mine", "exists"), (home / "inside", "is inside the home")):
            assert serve(home, "backup", str(target)) == 2
            assert words in capsys.readouterr().err
        (engine.folder(done.id) / "artifacts" / "model.tar.gz").write_bytes(b"damaged")
        assert serve(home, "backup", str(tmp_path / "copy")) == 1
        assert f"jobs/{done.id}/artifacts/model.tar.gz is not as its job left it" in capsys.readouterr().err
        assert (tmp_path / "copy" / "state.db").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "home", "mine"]


@pytest.mark.parametrize(
    "damage", [lambda store: os.truncate(store, 9000), lambda store: store.write_bytes(b"garbled")]
)
def test_a_backup_of_a_damaged_store_says_what_to_do(home: Path, tmp_path: Path, capsys: Capture, damage) -> None:
    with driver.running(home) as engine:
        done = driver.reach(engine, driver.submit(engine), "succeeded")
    damage(home / "state.db")
    assert serve(home, "backup", str(tmp_path / "copy")) == 2
    assert "state.db cannot be copied" in capsys.readouterr().err and not (tmp_path / "copy").exists()
    with driver.running(home):  # as it says
        assert serve(home, "backup", str(tmp_path / "copy")) == 0
    with driver.running(tmp_path / "copy") as engine:
        assert engine.job(done.id).state == "succeeded"
