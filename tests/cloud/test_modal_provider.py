"""The Modal provider: the real ``modal`` package talks to a service in memory, and in one test to the real service."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("modal", reason="the extra cloud is not installed")

import modal
from modal_proto import api_pb2

from asr_lightning.cloud import modal_app, modal_entry, modal_prices, modal_provider, remote, rented
from asr_lightning.cloud.modal_provider import ModalProvider
from asr_lightning.cloud.provider import Request, RequestDocument
from asr_lightning.job_folder.spec import JobSpec
from tests.cloud import modal_service
from tests.cloud.modal_service import Account, Running

MODULES = "/root"  # where Modal's containers look for a package that comes from here
VOLUME = "asr-0192"
ROOT = Path(__file__).parents[2]
ACCOUNT = os.environ.get("MODAL_TOKEN_ID")


def request(model: str = "whisper-tiny.en", gpu: str = "L4", seconds: float = 1800.0) -> Request:
    return Request("0192", JobSpec(model), gpu, seconds, model, "cuda")


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    service = Running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODAL_SERVER_URL", service.url)
        patch.setenv("MODAL_TOKEN_ID", "ak-nobody")
        patch.setenv("MODAL_TOKEN_SECRET", "as-nobody")
        yield service
        modal.Client.from_env().close()  # all calls share this client
    service.close()


@pytest.fixture
def account(running: Running) -> Account:
    vars(running.account).update(vars(Account()))
    return running.account


@pytest.fixture
def provider(account: Account) -> ModalProvider:
    return ModalProvider()


def test_a_file_goes_there_and_back(provider: ModalProvider, account: Account, tmp_path: Path) -> None:
    content = os.urandom((8 << 20) + 12345)  # more than one of Modal's blocks
    (tmp_path / "archive").write_bytes(content)
    provider.create(VOLUME)
    provider.upload(VOLUME, tmp_path / "archive", "input/archive.tar.gz")
    assert account.content(VOLUME, "input/archive.tar.gz") == content
    seen: list[tuple[int, int]] = []
    target = tmp_path / "back"
    target.write_bytes(b"old")
    provider.download(VOLUME, "input/archive.tar.gz", target, lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == content
    assert seen[-1] == (len(content), len(content)) and len(seen) > 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "back"]


def test_reads_what_is_committed(provider: ModalProvider, account: Account, tmp_path: Path) -> None:
    assert provider.read(VOLUME, "logs/trainer.log") is None
    provider.create(VOLUME)
    assert provider.read(VOLUME, "logs/trainer.log") is None
    account.write(VOLUME, "logs/trainer.log", b"one\ntwo\n")
    assert provider.read(VOLUME, "logs/trainer.log") == b"one\ntwo\n"
    assert provider.read(VOLUME, "logs/trainer.log", 4) == b"two\n"
    assert provider.read(VOLUME, "logs/trainer.log", 8) == b""
    with pytest.raises(FileNotFoundError, match="is not on the volume"):
        provider.download(VOLUME, "artifacts/model.tar.gz", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_volume_is_made_once_and_only_ours_are_listed(provider: ModalProvider, account: Account) -> None:
    account.volumes["weights-of-somebody"] = {}
    provider.create(VOLUME)
    with pytest.raises(ValueError, match="cloud gc"):
        provider.create(VOLUME)
    assert provider.volumes() == [VOLUME]


def test_spawn_sends_what_was_asked_for(provider: ModalProvider, account: Account) -> None:
    provider.create(VOLUME)
    call = provider.spawn(VOLUME, request(seconds=1800.5))
    (function,) = account.functions
    assert (function.module_name, function.implementation_name) == ("asr_lightning.cloud.modal_entry", "train")
    assert function.resources.gpu_config.gpu_type == "L4" and function.resources.gpu_config.count == 1
    assert function.resources.milli_cpu == 1000 * modal_prices.CORES
    assert function.resources.memory_mb == 1024 * modal_prices.MEMORY_GIB
    assert function.timeout_secs == 1801 + modal_app.MARGIN and function.startup_timeout_secs == modal_app.STARTUP
    assert function.retry_policy.retries == 0 and function.single_use_containers
    (mount,) = function.volume_mounts
    assert (mount.volume_id, mount.mount_path, mount.read_only) == (f"vo-{VOLUME}", "/volume", False)
    assert account.apps == {VOLUME: f"ap-{VOLUME}"}
    args, kwargs = pickle.loads(account.inputs[call].args)
    assert args == (request(seconds=1800.5).as_dict(), VOLUME) and kwargs == {}
    assert Request.from_dict(args[0]) == request(seconds=1800.5)


@pytest.mark.parametrize(("model", "lock"), [("whisper-tiny.en", "main.lock"), ("parakeet-tdt-ctc-110m", "nemo.lock")])
def test_image_has_the_locked_versions_and_the_whole_package(
    provider: ModalProvider, account: Account, model: str, lock: str
) -> None:
    lock_file = rented.lock_of(model)
    assert lock_file.name == lock
    provider.create(VOLUME)
    provider.spawn(VOLUME, request(model=model))
    commands = [command for image in account.images for command in image.dockerfile_commands]
    assert commands[0].startswith(f"FROM python:{rented.PYTHON}.")
    (install,) = [command for command in commands if "uv pip install" in command]
    assert "--require-hashes" in install and lock_file.name in install
    (sent,) = [file for image in account.images for file in image.context_files]
    assert sent.data == lock_file.read_bytes()
    package = {f"{MODULES}/asr_lightning/{path.relative_to(rented.PACKAGE).as_posix()}" for path in package_files()}
    assert package == set(account.mounts)


def package_files() -> list[Path]:
    files = [path for path in rented.PACKAGE.rglob("*") if path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts and not path.name.startswith(".")]


def test_states_of_a_call(provider: ModalProvider, account: Account) -> None:
    provider.create(VOLUME)
    call = provider.spawn(VOLUME, request())
    assert ModalProvider().poll(call) == "running"  # as from another shell
    died = api_pb2.GenericResult(
        status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE, data=pickle.dumps(ModuleNotFoundError("no torch"))
    )
    for result in (modal_service.FAILED, modal_service.TIMED_OUT, modal_service.TERMINATED, died):
        account.results[call] = result
        assert provider.poll(call) == "done"
    returned = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, data=pickle.dumps(""))
    account.results[call] = returned
    assert provider.poll(call) == "done"
    account.expired.add(call)
    assert provider.poll(call) == "done"
    assert provider.poll("fc-nobody-knows") == "gone"


def test_cancel_ends_the_container_and_waits(provider: ModalProvider, account: Account) -> None:
    provider.create(VOLUME)
    call = provider.spawn(VOLUME, request())
    provider.cancel(call)
    assert provider.poll(call) == "done"
    provider.cancel(call)
    provider.cancel("fc-nobody-knows")


def test_cancel_is_bounded(provider: ModalProvider, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modal_provider, "CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(modal_provider, "PAUSE_SECONDS", 0.05)
    provider.create(VOLUME)
    call = provider.spawn(VOLUME, request())
    account.deaf = True
    with pytest.raises(TimeoutError, match=r"modal\.com/apps"):
        provider.cancel(call)


def test_delete_stops_the_app_before_the_volume_goes(provider: ModalProvider, account: Account) -> None:
    provider.create(VOLUME)
    call = provider.spawn(VOLUME, request())
    provider.delete(VOLUME)  # by the name alone
    assert provider.poll(call) == "done"
    assert account.apps == {} and account.volumes == {} and provider.volumes() == []
    assert account.done.index("AppStop") < account.done.index("VolumeDelete")
    provider.delete(VOLUME)
    provider.create(VOLUME)
    provider.delete(VOLUME)  # one that was never started
    assert account.volumes == {}


def test_what_modal_does_not_have_is_refused_before_anything_is_sent(provider: ModalProvider, account: Account) -> None:
    provider.create(VOLUME)
    with pytest.raises(ValueError, match="choose one of T4, L4, L40S"):
        provider.spawn(VOLUME, request(gpu="RTX4090"))
    with pytest.raises(ValueError, match="--max_time 1430m"):
        provider.spawn(VOLUME, request(seconds=24 * 3600))
    assert account.functions == [] and account.apps == {}


def test_prices_are_by_the_hour_and_hold_cores_and_memory() -> None:
    provider = ModalProvider()
    assert provider.price("L4") == pytest.approx(0.7992 + 0.1886 + 0.1279, abs=1e-3)
    prices = [provider.price(gpu) for gpu in ("T4", "L4", "L40S", "A100", "H100", "B200")]
    assert prices == sorted(prices)


def test_entry_commits_and_never_raises(
    provider: ModalProvider, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service answers a commit as Modal does when remounting the volume fails because of open files."""
    provider.create(VOLUME)
    seen: list[object] = []

    def train(folder: Path, document: RequestDocument, commit: object) -> None:
        seen.extend([folder, document, os.environ["PYTHONPATH"].split(os.pathsep)[0]])
        commit()  # type: ignore[operator]
        raise OSError("disk full")

    monkeypatch.setattr(remote, "train", train)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert modal_entry.train(request().as_dict(), VOLUME) == "OSError: disk full"
    assert seen == [Path("/volume"), request().as_dict(), str(ROOT)]
    assert "VolumeCommit" in account.done
    account.volumes.clear()
    assert "no volume" in modal_entry.train(request().as_dict(), VOLUME)


def test_remote_function_takes_what_the_entry_gives() -> None:
    inspect.signature(remote.train).bind(Path("/volume"), request().as_dict(), lambda: None)


def test_app_is_built_without_an_account() -> None:
    app, function = modal_app.app_of(VOLUME, request(gpu="H100"))
    assert app.name == VOLUME
    assert isinstance(function, modal.Function)


def elsewhere(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, without the account of the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**env, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_without_an_account_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    code = "from asr_lightning.cloud.providers import open_provider; open_provider('modal').volumes()"
    result = elsewhere(code, MODAL_CONFIG_PATH=str(tmp_path / "none.toml"))
    assert "ValueError: Modal does not know you: run python -m modal setup" in result.stderr


@pytest.mark.skipif(ACCOUNT is None, reason="needs a Modal account: MODAL_TOKEN_ID and MODAL_TOKEN_SECRET")
def test_the_account_has_volumes(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from asr_lightning.cloud.modal_provider import ModalProvider; p = ModalProvider();"
        "p.create('asr-test-only');"
        "p.upload('asr-test-only', Path('README.md'), 'a/b.md');"
        "assert p.read('asr-test-only', 'a/b.md') == Path('README.md').read_bytes();"
        "p.delete('asr-test-only'); assert 'asr-test-only' not in p.volumes()"
    )
    account = {name: os.environ[name] for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")}
    result = elsewhere(code, **account)
    assert result.returncode == 0, result.stderr
