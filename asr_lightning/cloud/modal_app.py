"""The image and the function that Modal runs. Building them sends nothing: Modal's objects are lazy."""

from __future__ import annotations

import math
from pathlib import Path

import modal

from asr_lightning.cloud import modal_entry, modal_prices, rented
from asr_lightning.cloud.provider import Request

FUNCTION = modal_entry.train.__name__
DAY = 24 * 3600
"""Seconds that Modal lets one attempt run at most."""
MARGIN = 600
"""Seconds between our time limit and Modal's, for the last checkpoint and its commit."""
STARTUP = 900
"""Seconds that pulling the image and starting Python may take."""


def image_of(lock: Path) -> modal.Image:
    """Debian with the versions of ``lock`` and this package. Modal caches the layers: only the first build is slow."""
    ignored = list(rented.NO_SOURCE)
    return (
        modal.Image.debian_slim(python_version=rented.PYTHON)
        .uv_pip_install(requirements=[str(lock)], extra_options="--require-hashes", uv_version=rented.UV)
        .env({"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
        .add_local_python_source("asr_lightning", ignore=ignored)
    )


def timeout_of(request: Request) -> int:
    """Seconds after which Modal ends an attempt; Modal's default of 300 would end most trainings.

    Raises:
        ValueError: The request may take longer than Modal allows.
    """
    seconds = math.ceil(request.max_seconds) + MARGIN
    if seconds > DAY:
        longest = (DAY - MARGIN) // 60
        raise ValueError(f"Modal ends everything after 24 hours: give --max_time {longest}m or less")
    return seconds


def app_of(volume: str, request: Request) -> tuple[modal.App, modal.Function]:
    """The app of one rental, with its one function; it has the same name as the rental's volume.

    There are no retries, because a training that failed would fail again; Modal restarts a call after a preemption
    anyway. The container ends after its one call, so that no idle one has to be paid.

    Raises:
        ValueError: The request needs a GPU, a time or packages that Modal or the locks do not offer.
    """
    modal_prices.price(request.gpu)  # refuses an unknown GPU
    app = modal.App(volume, include_source=False)
    decorate = app.function(
        image=image_of(rented.lock_of(request.spec.model)),
        gpu=request.gpu,
        cpu=modal_prices.CORES,
        memory=modal_prices.MEMORY_GIB * 1024,
        volumes={modal_entry.MOUNT: modal.Volume.from_name(volume)},
        timeout=timeout_of(request),
        startup_timeout=STARTUP,
        retries=0,
        max_containers=1,
        single_use_containers=True,
        name=FUNCTION,
    )
    return app, decorate(modal_entry.train)
