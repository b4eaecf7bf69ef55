from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http.app import create_app
from asr_lightning.server.http.models import Catalogue
from asr_lightning.server.http.settings import BodyLimits, ServerSettings
from asr_lightning.server.http.tensorboard import TensorBoard
from tests.server import driver

URL = "http://127.0.0.1:5553"
GZIP = b"\x1f\x8b\x08\x00 and the rest, which the fake intake does not read"
TOKEN = "0123456789abcdef0123456789abcdef"
LISTING: dict[str, Any] = {
    "source": "here", "licence": "MIT", "restricted": False, "languages": "en", "parameters": 1, "gb_to_train": 0.1,
}  # fmt: skip
CATALOGUE = Catalogue(
    driver.MODELS, {"openai/quick": "quick"}, tuple({"name": name, **LISTING} for name in driver.MODELS)
)
QUICK_LIMITS = BodyLimits(upload=1 << 20, other=1 << 10, rate=1000, patience_s=0.3, total_s=1.0)
Serve = Callable[..., TestClient]


def client_of(engine: Engine, board: TensorBoard | None = None, **changes: Any) -> TestClient:
    """A client of the application over ``engine``."""
    settings = ServerSettings(**{"min_free_bytes": 0, "poll_s": 0.02, **changes})
    return TestClient(create_app(engine, settings, CATALOGUE, board), base_url=URL)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with driver.running(tmp_path / "home") as engine:
        yield engine


@pytest.fixture
def http(engine: Engine) -> TestClient:
    return client_of(engine)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine for the tests of one file that only look, or leave what they make; it holds one finished job."""
    with driver.running(tmp_path_factory.mktemp("shared") / "home") as engine:
        driver.reach(engine, driver.submit(engine), "succeeded")
        yield engine


@pytest.fixture(scope="module")
def look(shared: Engine) -> TestClient:
    return client_of(shared, body=QUICK_LIMITS)


@pytest.fixture(scope="module")
def done(shared: Engine) -> str:
    """Id of the finished job."""
    return shared.jobs("succeeded")[-1].id


def form(data: bytes = GZIP, name: str = "data.tar.gz") -> dict[str, Any]:
    """The file of a form."""
    return {"data": (name, data, "application/gzip")}
