"""The image and the function that Modal runs. Building them contacts nobody: Modal's objects are lazy."""

from __future__ import annotations

import math
from pathlib import Path

import modal

from asr_lightning.cloud import modal_entry, modal_prices, rented
from asr_lightning.cloud.provider import Request

FUNCTION = modal_entry.train.__name__
DAY = 24 * 3600
"""Seconds; the longest that Modal lets one attempt run."""
MARGIN = 600
"""Seconds between our own end and Modal's: for the last save and its commit."""
STARTUP = 900
"""Seconds to pull the image and start Python."""
UV = "0.13.9"
"""The one that resolved the locks."""


def image_of(lock: Path) -> modal.Image:
    """Debian with the versions of ``lock`` and this package. Modal keeps the layers: only the first build is slow."""
    ignored = list(rented.NO_SOURCE)
    return (
        modal.Image.debian_slim(python_version=rented.PYTHON)
        .uv_pip_install(requirements=[str(lock)], extra_options="--require-hashes", uv_version=UV)
        .env({"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
        .add_local_python_source("asr_lightning", ignore=ignored)
    )


def timeout_of(request: Request) -> int:
    """Seconds after which Modal ends an attempt; Modal's default of 300 would end most trainings.

    Raises:
        ValueError: The request may take longer than Modal lets anything run.
    """
    seconds = math.ceil(request.max_seconds) + MARGIN
    if seconds > DAY:
        longest = (DAY - MARGIN) // 60
        raise ValueError(f"Modal ends everything after 24 hours: give --max_time {longest}m or less")
    return seconds


def app_of(volume: str, request: Request) -> tuple[modal.App, modal.Function]:
    """The app of one rental, which has the name of its volume and one function.

    No retries: a training that failed would fail again. A preemption is not a retry, Modal restarts the input by
    itself. The container serves one call and ends, so that nobody pays for an idle one.

    Raises:
        ValueError: It asks for what Modal or the locks do not have.
    """
    modal_prices.price(request.gpu)
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
