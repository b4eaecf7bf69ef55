"""The SkyPilot provider on a stand-in for the cloud. If SkyPilot is installed, it validates the task and the calls."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from asr_lightning.cloud import rented, skypilot, skypilot_ssh, skypilot_task
from asr_lightning.cloud.provider import Request
from asr_lightning.cloud.providers import open_provider
from asr_lightning.cloud.skypilot import SkyPilotProvider
from asr_lightning.errors import MissingExtraError
from asr_lightning.job_folder.spec import JobSpec
from tests.cloud.fake_sky import ResourcesUnavailableError, Sky, tools

VOLUME = "asr-0192"
REAL = find_spec("sky") is not None
needs_sky = pytest.mark.skipif(not REAL, reason="SkyPilot has an environment of its own: make install-skypilot")


def request(seconds: float = 1800.0, model: str = "whisper-tiny.en") -> Request:
    return Request("0192", JobSpec(model), "L4", seconds, model, "cpu")


@pytest.fixture
def sky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sky:
    (tmp_path / "machines").mkdir()
    fake = Sky(tmp_path / "machines")
    monkeypatch.setitem(sys.modules, "sky", fake)
    monkeypatch.setitem(sys.modules, "sky.client", fake)
    monkeypatch.setattr(skypilot, "find_spec", lambda _: fake)
    tools(tmp_path / "bin", tmp_path / "machines")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(skypilot_ssh, "SKY", tmp_path / "bin" / "sky")
    monkeypatch.setenv("ASR_CLOUD_HOME", str(tmp_path / "home"))
    return fake


@pytest.fixture
def provider(sky: Sky) -> SkyPilotProvider:
    return SkyPilotProvider()


def started(provider: SkyPilotProvider, tmp_path: Path) -> str:
    """Start a rental with a broken archive, so that the remote function soon ends with an error."""
    archive = tmp_path / "archive"
    archive.write_bytes(b"no archive")
    provider.create(VOLUME)
    provider.upload(VOLUME, archive, "input/archive.tar.gz")
    return provider.spawn(VOLUME, request())


def wait_for_end(provider: SkyPilotProvider, call: str) -> None:
    until = time.monotonic() + 60
    while provider.poll(call) == "running":
        assert time.monotonic() < until
        time.sleep(0.1)


def test_task_says_what_is_paid_for_and_when_it_ends(tmp_path: Path) -> None:
    config = skypilot_task.task_config(VOLUME, request(), tmp_path, 0.8)
    resources = config["resources"]
    assert (resources["accelerators"], resources["max_hourly_cost"]) == ("L4:1", 0.8)
    assert resources["use_spot"] is False
    assert resources["autostop"] == {"idle_minutes": 30, "down": True, "wait_for": "jobs"}
    assert config["file_mounts"]["~/asr_volume"] == str(tmp_path)
    assert config["file_mounts"]["~/asr_package/asr_lightning"] == str(rented.PACKAGE)


@pytest.mark.parametrize(("model", "lock"), [("whisper-tiny.en", "main"), ("parakeet-tdt-ctc-110m", "nemo")])
def test_setup_installs_the_locked_versions(tmp_path: Path, model: str, lock: str) -> None:
    config = skypilot_task.task_config(VOLUME, request(model=model), tmp_path, 0.8)
    assert "--require-hashes" in config["setup"]
    assert config["setup"].rstrip().endswith(f"~/asr_package/asr_lightning/cloud/locks/{lock}.lock")
    for script in (config["setup"], config["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_file_names_are_quoted() -> None:
    hostile = "logs/a b; touch '$HOME/x'"
    for command in (skypilot_task.read_command(hostile, 3), skypilot_task.size_command(hostile)):
        result = subprocess.run(["sh", "-c", command], capture_output=True, env={"HOME": "/nowhere"})
        assert (result.returncode, result.stdout) == (skypilot_task.MISSING, b"")


def test_rental_from_start_to_end(provider: SkyPilotProvider, sky: Sky, tmp_path: Path) -> None:
    call = started(provider, tmp_path)
    assert provider.volumes() == [VOLUME]
    assert not any(path.is_file() for path in (tmp_path / "home").rglob("*") if path.name != skypilot.LAUNCH)
    wait_for_end(provider, call)
    another = SkyPilotProvider()  # as from another shell
    assert another.poll(call) == "done"
    exit_json = another.read(VOLUME, "exit.json")
    assert exit_json is not None and json.loads(exit_json)["error"]
    assert another.read(VOLUME, "exit.json", 5) == exit_json[5:]
    assert another.read(VOLUME, "artifacts/model.tar.gz") is None
    assert (tmp_path / "bin" / "configured").read_text() == f"{VOLUME}\n"
    seen: list[tuple[int, int]] = []
    another.download(VOLUME, "exit.json", tmp_path / "back", lambda *moved: seen.append(moved))
    assert (tmp_path / "back").read_bytes() == exit_json and seen == [(len(exit_json), len(exit_json))]
    with pytest.raises(FileNotFoundError):
        another.download(VOLUME, "artifacts/model.tar.gz", tmp_path / "model")
    another.delete(VOLUME)
    assert another.volumes() == [] and list((tmp_path / "machines").iterdir()) == []
    assert list((tmp_path / "home" / "skypilot").iterdir()) == []
    assert another.poll(call) == "gone" and another.read(VOLUME, "exit.json") is None
    another.delete(VOLUME)


def test_launch_has_a_ceiling_and_ends_by_itself(provider: SkyPilotProvider, sky: Sky, tmp_path: Path) -> None:
    started(provider, tmp_path)
    options = sky.launched[VOLUME]
    assert options["down"] is True and options["idle_minutes_to_autostop"] == skypilot_task.IDLE_MINUTES
    assert options["task"]["resources"]["max_hourly_cost"] == provider.price("L4") == 0.80
    provider.delete(VOLUME)


def test_price_is_of_enabled_clouds(provider: SkyPilotProvider, sky: Sky) -> None:
    assert provider.price("L4") == 0.80  # the higher of the lowest prices of RunPod and AWS: either may be taken
    sky.clouds = ["RunPod"]
    assert provider.price("L4") == 0.44
    with pytest.raises(ValueError, match="no 'T4' in RunPod: choose one of H100, L4"):
        provider.price("T4")
    sky.clouds = []
    with pytest.raises(ValueError, match="sky check"):
        provider.price("L4")


def test_no_machine_leaves_nothing(provider: SkyPilotProvider, sky: Sky, tmp_path: Path) -> None:
    sky.fails = ResourcesUnavailableError("none left")
    with pytest.raises(OSError, match="try later, or another GPU"):
        started(provider, tmp_path)
    provider.delete(VOLUME)
    assert len(sky.aborted) == 1  # the launch, which could still be under way
    assert provider.volumes() == [] and list((tmp_path / "home" / "skypilot").iterdir()) == []


def test_what_is_staged_is_a_volume(provider: SkyPilotProvider, tmp_path: Path) -> None:
    provider.create(VOLUME)
    assert provider.volumes() == [VOLUME]
    with pytest.raises(ValueError, match="cloud gc"):
        provider.create(VOLUME)
    assert provider.read(VOLUME, "input/archive.tar.gz") is None
    provider.delete(VOLUME)
    assert provider.volumes() == []
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="before its machine starts"):
        provider.upload(VOLUME, tmp_path / "file", "input/archive.tar.gz")


def test_cancel(provider: SkyPilotProvider, sky: Sky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skypilot, "CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(skypilot, "PAUSE_SECONDS", 0.05)
    sky.running[VOLUME] = subprocess.Popen(["sleep", "60"])
    (tmp_path / "machines" / VOLUME).mkdir()
    sky.deaf = True
    with pytest.raises(TimeoutError, match=f"sky down {VOLUME}"):
        provider.cancel(f"{VOLUME}:1")
    sky.deaf = False
    provider.cancel(f"{VOLUME}:1")
    assert provider.poll(f"{VOLUME}:1") == "done"
    provider.delete(VOLUME)
    provider.cancel(f"{VOLUME}:1")


def test_a_machine_that_cannot_be_reached_is_no_missing_file(
    provider: SkyPilotProvider, sky: Sky, tmp_path: Path
) -> None:
    sky.running[VOLUME] = subprocess.Popen(["true"])
    with pytest.raises(ConnectionError, match="no route"):
        provider.read(VOLUME, "exit.json")
    sky.running[VOLUME].wait()


@pytest.mark.skipif(REAL, reason="needs an environment without SkyPilot")
def test_without_the_package_the_error_says_how_to_get_it() -> None:
    with pytest.raises(MissingExtraError, match="make install-skypilot"):
        open_provider("skypilot")


@needs_sky
def test_task_passes_skypilots_own_schema(tmp_path: Path) -> None:
    import sky

    task = sky.Task.from_yaml_config(skypilot_task.task_config(VOLUME, request(), tmp_path, 0.8))
    (resources,) = task.resources
    assert resources.accelerators == {"L4": 1} and not resources.use_spot
    assert resources.autostop_config.down and resources.autostop_config.idle_minutes == skypilot_task.IDLE_MINUTES


@needs_sky
def test_calls_have_skypilots_signatures() -> None:
    import sky
    from sky.client import sdk

    def fits(function: object, *args: object, **kwargs: object) -> None:
        inspect.signature(function).bind(*args, **kwargs)  # type: ignore[arg-type]

    fits(sdk.enabled_clouds)
    fits(sdk.list_accelerators, clouds=["runpod"])
    fits(sky.launch, None, cluster_name="a", down=True, idle_minutes_to_autostop=1, retry_until_up=False)
    fits(sky.job_status, "a", job_ids=[1])
    fits(sky.cancel, "a", job_ids=[1])
    fits(sky.api_cancel, "a", silent=True)
    fits(sky.down, "a")
    fits(sky.status)
    fits(sky.get, "a")
    fits(sky.stream_and_get, "a")
    assert sky.ClusterStatus.UP and sky.JobStatus.SUCCEEDED.is_terminal()
    names = ("ClusterDoesNotExist", "ClusterNotUpError", "NoCloudAccessError", "ResourcesUnavailableError")
    assert all(hasattr(sky.exceptions, name) for name in (*names, "ApiServerConnectionError"))
