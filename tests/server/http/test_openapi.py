"""Fuzz every operation of the OpenAPI description: no answer is a 500, and each is as described."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from asr_lightning.server.engine import states
from asr_lightning.server.http.problems import CODES
from tests.server import driver
from tests.server.http.conftest import GZIP, client_of

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
FULL = {503, 507}  # no fault
EXAMPLES = 20


@pytest.fixture
def known(tmp_path: Path) -> Iterator[tuple[FastAPI, dict[str, list[Any]]]]:
    """The application, and values that some of the fuzzed cases get so that they come past the first look-up."""
    with driver.running(tmp_path / "home", queue_cap=3) as engine:
        done = driver.reach(engine, driver.submit(engine), "succeeded").id
        failed = driver.reach(engine, driver.submit(engine, "oom"), "failed").id
        slow = driver.submit(engine, "slow").id
        http = client_of(engine, uploads=1000)
        uploads = [http.post("/v1/uploads").json()["id"] for _ in range(2)]
        jobs = [done, slow, failed]
        yield (
            http.app,
            {"job_id": jobs, "training_id": jobs, "upload_id": uploads, "name": ["model.tar.gz"], "follow": [0]},
        )
        assert {job.state for job in engine.jobs(limit=500)} <= states.STATES


def test_fuzzed_operations_answer_as_described(known: tuple[FastAPI, dict[str, list[Any]]]) -> None:
    app, values = known
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    seen: Counter[int] = Counter()
    operations = [result.ok() for result in schema.get_all_operations()]
    # What deletes comes last, so that the others find something.
    for operation in sorted(operations, key=lambda operation: operation.method.upper() == "DELETE"):
        fuzz(operation, values, seen)
    assert len(operations) >= 24
    print(seen)
    assert {*seen} >= {200, 201, 202, 404, 409, 415, 422}


def fuzz(operation: Any, values: dict[str, list[Any]], seen: Counter[int]) -> None:
    """Answers of ``operation`` to what hypothesis makes of its description; counted by status in ``seen``."""
    turn = itertools.count()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operation.as_strategy())
    def ask(case: schemathesis.Case) -> None:
        if number := next(turn) % 4:
            for place in (case.path_parameters, case.query):
                for name in {*(place or {})} & {*values}:
                    place[name] = values[name][number % len(values[name])]
            if isinstance(case.body, dict) and "data" in case.body:
                case.body |= {"data": GZIP, "model" if "v1" in operation.path else "base_model_name": "quick"}
        answer = case.call(headers={"Host": "127.0.0.1"})
        seen[answer.status_code] += 1
        full = answer.status_code in FULL
        case.validate_response(answer, checks=[check for check in CHECKS if not (full and check is not_a_server_error)])

    ask()


def test_the_description_names_every_code_that_is_in_use(look: TestClient) -> None:
    described = {status for path in look.get("/openapi.json").json()["paths"].values()
                 for operation in path.values() for status in operation["responses"]}  # fmt: skip
    never = {"405", "500"}  # of the router and of errors nobody expected
    assert {str(status) for status, _ in CODES.values()} - never <= described
