"""The client against a real server process, with the connection cut between them."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from asr_lightning.__main__ import main
from asr_lightning.client import Client, ServerError
from tests.server.client.cutting_proxy import CuttingProxy
from tests.server.client.folders import make_folder

if find_spec("asr_lightning.cli.serve") is None:
    pytest.skip("there is no server yet", allow_module_level=True)

from tests.server.served import Served

MB = 1 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client


@pytest.fixture
def proxy(served: Served) -> Iterator[CuttingProxy]:
    with CuttingProxy(served.port) as proxy:
        yield proxy


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of 5 MB that cannot be compressed."""
    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(random.Random(0).randbytes(5 * MB), 0))
    return path


def test_a_job_from_folder_to_model(client: Client, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    folder = make_folder(tmp_path / "clips")
    job = client.submit(folder, "quick", epochs=3, seed=7, language="de", packing=lambda *step: steps.append(step))
    assert steps[-1] == (4, 4)
    assert (job["base_model"], job["params"], job["language"]) == ("quick", {"epochs": 3, "seed": 7}, "de")
    done = client.wait(job["id"], poll_s=0.05)
    assert done["state"] == "succeeded"
    assert done["dataset"]["utterances"] == 1
    model = client.download(job["id"], tmp_path)
    assert model == tmp_path / "model.tar.gz"
    assert [path.name for path in tmp_path.glob("*.part")] == []
    assert client.download(job["id"], tmp_path / "r.html", "report.html").read_text() == "<p>report"
    with pytest.raises(ValueError, match=r"model\.tar\.gz exists; name another file"):
        client.download(job["id"], tmp_path)
    with pytest.raises(ServerError, match=r"no artifact weights; it has: model\.tar\.gz, report\.html"):
        client.download(job["id"], tmp_path / "w", "weights")
    assert job["id"] in [each["id"] for each in client.jobs()]
    assert client.delete(job["id"])["deleted"]
    with pytest.raises(ServerError) as gone:
        client.download(job["id"], tmp_path / "again.tar.gz")
    assert gone.value.code == "purged"


def test_p3_twenty_lost_answers_make_one_job(served: Served, proxy: CuttingProxy, archive: Path) -> None:
    with Client(served.url) as direct, Client(proxy.url, retries=25, pause_s=0.001) as client:
        before = {job["id"] for job in direct.jobs()}
        proxy.lose_answers(b"POST /v1/jobs ", times=20)
        job = client.submit(archive, "quick", seed=3)
        assert proxy.cuts == 20
        assert {each["id"] for each in direct.jobs()} - before == {job["id"]}
        assert direct.wait(job["id"], poll_s=0.05)["state"] == "succeeded"


def test_a_cut_upload_goes_on(proxy: CuttingProxy, archive: Path) -> None:
    sent: list[int] = []
    with Client(proxy.url, pause_s=0.01) as client:
        proxy.cut("up", after=1_500_000, times=3)
        job = client.submit(archive, "quick", sending=lambda done, total: sent.append(done))
        done = client.wait(job["id"], poll_s=0.05)
    assert proxy.cuts == 3
    assert done["dataset"]["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert sent == sorted(sent) and sent[-1] == archive.stat().st_size
    assert proxy.up < 1.7 * archive.stat().st_size  # three restarts would need more


def test_a_cut_download_goes_on(proxy: CuttingProxy, client: Client, archive: Path, tmp_path: Path) -> None:
    job = client.submit(archive, "quick", seed=11)
    client.wait(job["id"], poll_s=0.05)
    client.download(job["id"], whole := tmp_path / "whole.tar.gz")
    with Client(proxy.url, pause_s=0.01) as cut_client:
        proxy.cut("down", after=1700, times=3)  # about 800 bytes of headers
        cut_client.download(job["id"], tmp_path / "cut.tar.gz")
    assert proxy.cuts >= 2
    assert (tmp_path / "cut.tar.gz").read_bytes() == whole.read_bytes()


def test_part_of_an_earlier_download_is_continued_or_replaced(client: Client, archive: Path, tmp_path: Path) -> None:
    job = client.submit(archive, "quick", seed=12)
    client.wait(job["id"], poll_s=0.05)
    data = client.download(job["id"], tmp_path / "a.tar.gz").read_bytes()
    part = tmp_path / f"b.tar.gz.{hashlib.sha256(data).hexdigest()[:12]}.part"
    part.write_bytes(data[:100])
    assert client.download(job["id"], tmp_path / "b.tar.gz").read_bytes() == data
    part.write_bytes(b"x" * 100)
    (tmp_path / "b.tar.gz").unlink()
    with pytest.raises(OSError, match="differs from what the server announced; download it again"):
        client.download(job["id"], tmp_path / "b.tar.gz")
    assert not part.exists()
    assert client.download(job["id"], tmp_path / "b.tar.gz").read_bytes() == data


def test_events_survive_cuts(proxy: CuttingProxy, client: Client, archive: Path) -> None:
    job = client.submit(archive, "dies-once")
    proxy.cut("down", after=1200, times=4)
    with Client(proxy.url, pause_s=0.01) as cut_client:
        events = list(cut_client.events(job["id"]))
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers)) and proxy.cuts >= 2
    whole = list(client.events(job["id"]))
    assert [event.seq for event in whole] == numbers
    states = [event.data["state"] for event in whole if event.kind == "state"]
    assert "interrupted" in states and states[-1] == "succeeded"
    assert [event.seq for event in client.events(job["id"], after=numbers[2])] == numbers[3:]
    assert list(client.events(job["id"], after=numbers[-1])) == []


def test_watching_survives_a_restart(tmp_path: Path, archive: Path) -> None:
    with Served(tmp_path / "home") as server, Client(server.url, pause_s=0.05) as client:
        job = client.submit(archive, "slow")["id"]
        until(lambda: client.job(job)["state"] == "running")
        numbers: list[int] = []
        watching = threading.Thread(target=lambda: numbers.extend(e.seq for e in client.events(job)))
        watching.start()
        server.kill()
        server.start()
        client.cancel(job)
        assert client.wait(job, poll_s=0.05)["state"] == "cancelled"
        watching.join(timeout=30)
        assert numbers == sorted(set(numbers))
        with Client(server.url) as other:
            assert [event.seq for event in other.events(job)] == numbers


def test_cancel_and_resume(client: Client, archive: Path) -> None:
    job = client.submit(archive, "slow")["id"]
    until(lambda: client.job(job)["state"] == "running")
    with pytest.raises(ServerError) as running:
        client.delete(job)
    assert (running.value.code, running.value.status) == ("busy", 409)
    client.cancel(job)
    assert client.wait(job, poll_s=0.05)["state"] == "cancelled"
    assert client.cancel(job)["state"] == "cancelled"
    assert client.resume(job)["attempt"] >= 1
    client.cancel(job)
    client.wait(job, poll_s=0.05)


def test_logs_come_in_pages(served: Served, client: Client, archive: Path) -> None:
    job = client.submit(archive, "quick", seed=31)["id"]
    client.wait(job, poll_s=0.05)
    text = b"step of the training\n" * 120_000  # the quick trainer says nothing
    (served.home / "jobs" / job / "logs" / "trainer.log").write_bytes(text)
    assert len(text) > 2 * MB
    assert b"".join(client.logs(job, follow=True)) == text
    assert b"".join(client.logs(job, offset=len(text) - 10)) == text[-10:]
    assert b"".join(client.logs(job, name="intake")) == b""


def test_a_lost_answer_to_resume_is_found(proxy: CuttingProxy, client: Client, archive: Path) -> None:
    job = client.submit(archive, "slow")["id"]
    client.cancel(job)
    client.wait(job, poll_s=0.05)
    proxy.lose_answers(f"POST /v1/jobs/{job}/resume".encode(), times=1)
    with Client(proxy.url, pause_s=0.01) as cut_client:
        assert cut_client.resume(job)["state"] in ("queued", "preparing", "running")
    client.cancel(job)
    assert client.wait(job, poll_s=0.05)["attempt"] == client.job(job)["attempt"]


def test_refusals_have_remedies(client: Client, archive: Path) -> None:
    with pytest.raises(ServerError, match="remote models lists the names") as unknown:
        client.submit(archive, "no-such-model")
    assert unknown.value.code == "model_not_allowed"
    with pytest.raises(ServerError) as missing:
        client.job("no-such-job")
    assert (missing.value.code, missing.value.status) == ("not_found", 404)
    with pytest.raises(ServerError) as out_of_range:
        client.submit(archive, "quick", epochs=1000)
    assert out_of_range.value.code == "invalid_parameter"
    client.submit(archive, "quick", key="one-key", seed=1)
    with pytest.raises(ServerError, match="give another --key"):
        client.submit(archive, "quick", key="one-key", seed=2)
    failed = client.wait(client.submit(archive, "oom")["id"], poll_s=0.05)
    assert failed["state"] == "failed" and failed["error"]["code"] == "oom"


def test_a_token_is_asked_for(tmp_path: Path, archive: Path) -> None:
    token = "0123456789abcdef-token"
    with Served(tmp_path / "home", token) as server:
        for wrong in (None, "wrong-token-000000"):
            with Client(server.url, wrong) as client, pytest.raises(ServerError, match="ASR_SERVER_TOKEN") as caught:
                client.models()
            assert caught.value.status == 401 and token not in str(caught.value)
        with Client(server.url, token) as client:
            assert next(model["name"] for model in client.models()) == "quick"
            assert client.wait(client.submit(archive, "quick")["id"], poll_s=0.05)["state"] == "succeeded"


def test_the_command_line(served: Served, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_SERVER", served.url)
    monkeypatch.chdir(tmp_path)

    def remote(*arguments: str, status: int = 0) -> str:
        assert main(["remote", *arguments]) == status
        return capsys.readouterr().out

    folder = make_folder(tmp_path / "clips")
    said = remote("submit", str(folder), "--model", "quick", "--seed", "5", "--follow")
    assert "succeeded" in said
    job = said.split()[1].rstrip(",")
    assert "50.0% before, 25.0% after" in remote("status", job)
    assert job in remote("status")
    assert json.loads(remote("status", job, "--json"))["state"] == "succeeded"
    assert remote("download", job).strip() == f"{job}_model.tar.gz"
    assert (tmp_path / f"{job}_model.tar.gz").stat().st_size
    assert "quick" in remote("models")
    assert remote("logs", job) == ""
    assert "deleted" in remote("delete", job)
    assert "error" in remote("submit", str(folder), "--model", "oom", "--follow", status=1)
    queued = remote("submit", str(folder), "--model", "slow").split()[1]
    remote("cancel", queued)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for ``condition``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_command_line_without_jobs_with_uploads_and_with_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def remote(*arguments: str, status: int = 0) -> str:
        assert main(["remote", *arguments]) == status
        printed = capsys.readouterr()
        return printed.out + printed.err

    with Served(tmp_path / "home") as served, Client(served.url) as client:
        monkeypatch.setenv("ASR_SERVER", served.url)
        monkeypatch.chdir(tmp_path)
        assert (
            remote("status") == f"{served.url} has no jobs: python -m asr_lightning remote submit FOLDER starts one\n"
        )
        assert remote("status", "--json") == ""
        upload = httpx.post(f"{served.url}/v1/uploads", json={"size": 9}, trust_env=False).json()["id"]
        assert remote("uploads") == f"{upload}  0 of 9 bytes\n"
        assert json.loads(remote("uploads", "--json")) == {"id": upload, "received": 0, "size": 9}
        assert remote("uploads", "--delete", upload) == f"deleted upload {upload}\n"
        assert remote("uploads") == f"{served.url} has no open uploads\n"
        job = client.wait(client.submit(make_folder(tmp_path / "clips"), "quick")["id"], poll_s=0.05)
        line = remote("status")
        time = job["created_at"][:16].replace("T", " ")
        assert re.fullmatch(rf"{job['id']}  succeeded    {time} UTC  quick +  finished: better\n", line)
        shown = remote("status", job["id"])
        assert "state    succeeded\n" in shown and "verdict  better\n" in shown
        (tmp_path / "home" / "jobs" / job["id"] / "artifacts" / "model.tar.gz").write_bytes(b"cut")
        assert "damage   model.tar.gz is no longer the file that the training wrote" in remote("status", job["id"])
        assert "(artifact_damaged, HTTP 410)" in remote("download", job["id"], status=2)
