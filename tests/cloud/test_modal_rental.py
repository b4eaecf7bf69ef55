"""Promises P15 and P16 of docs/cloud.md on Modal: whole rentals with the real ``modal`` package, in fake containers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("modal", reason="the extra cloud is not installed")

import modal

from asr_lightning.cloud.ledger import Ledger
from asr_lightning.cloud.modal_provider import ModalProvider
from tests.cloud.modal_containers import ROOT, Machines
from tests.cloud.modal_service import Running
from tests.cloud.renting import INTAKE, TRAINER, Shown, clear_leftovers, leftovers, order, rent, renter
from tests.server.driver import wait


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    account = Machines(root=tmp_path / "modal", options={"trainer": TRAINER, "intake": INTAKE, "commit_s": 0.2})
    service = Running(account)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODAL_SERVER_URL", service.url)
        patch.setenv("MODAL_TOKEN_ID", "ak-nobody")
        patch.setenv("MODAL_TOKEN_SECRET", "as-nobody")
        yield account
        modal.Client.from_env().close()
    account.close()
    service.close()


def nothing_left(home: Path, machines: Machines) -> bool:
    return leftovers(home, ModalProvider()) == [] and machines.volumes == {} and machines.apps == {}


def test_rental(home: Path, clips: Path, machines: Machines) -> None:
    shown = Shown()
    record = rent(home, ModalProvider(), order(clips, home.parent / "out", {"steps": 40}, gpu="L4"), shown=shown)
    assert record.outcome == "succeeded", record.error
    assert record.metrics and (home.parent / "out" / "model.tar.gz").is_file()
    assert shown.progressed and nothing_left(home, machines)


def test_a_preempted_rental_goes_on(home: Path, clips: Path, machines: Machines) -> None:
    provider = ModalProvider()
    rental_order = order(clips, home.parent / "out", {"steps": 80}, gpu="L4", detach=True)
    entry = Ledger(home).take(renter(home, provider).rent(rental_order).id)
    assert entry is not None and entry.record.call is not None and entry.record.volume is not None
    volume = entry.record.volume

    def trained() -> int:
        return int(json.loads(provider.read(volume, "run/checkpoint.json") or b"{}").get("step", 0))

    wait(lambda: trained() >= 10, "a checkpoint")
    machines.preempt(entry.record.call)
    record = renter(home, ModalProvider()).finish(entry)  # as from another shell
    entry.close()
    assert record.outcome == "succeeded", record.error
    assert machines.starts == 2 and nothing_left(home, machines)


def test_a_failed_training_leaves_nothing(home: Path, clips: Path, machines: Machines) -> None:
    behaviour = {"error": {"code": "out_of_memory", "message": "too big"}}
    record = rent(home, ModalProvider(), order(clips, home.parent / "out", behaviour, gpu="L4"))
    assert record.outcome == "failed" and nothing_left(home, machines)


CLIENT = """
import os, signal, sys
from pathlib import Path
from asr_lightning.cloud.modal_provider import ModalProvider
from asr_lightning.durable import faults
from tests.cloud.renting import order, rent
home, data, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
faults.point = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == f"cloud.{step}" else None
rent(home, ModalProvider(), order(data, home.parent / "out", {"steps": 3000}, gpu="L4"))
"""


@pytest.mark.parametrize("step", ["uploaded", "spawned", "following"])
def test_the_next_client_deletes_what_a_killed_one_left(home: Path, clips: Path, machines: Machines, step: str) -> None:
    """At the step "spawned", the id of the call is not in the ledger yet."""
    result = subprocess.run([sys.executable, "-c", CLIENT, str(home), str(clips), step], cwd=ROOT, timeout=60)
    assert result.returncode == -signal.SIGKILL
    assert len(machines.volumes) == 1
    clear_leftovers(home, ModalProvider())
    assert nothing_left(home, machines)
    assert all(container.poll() is not None for container in machines.containers.values())
