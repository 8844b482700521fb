"""The OpenAPI document and the application agree, whatever is sent."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import status_code_conformance

from tests.services.api.conftest import Api


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_makes_it_fail_or_answer_what_is_not_documented(api: Api, mode: GenerationMode) -> None:
    """A few requests to each operation, that fit the document and that do not; tests/slow sends more."""
    assert send_requests(api.client.app, mode, count=2) > 10


def send_requests(application: Any, mode: GenerationMode, count: int) -> int:
    """Send so many requests to each operation; gives how many there were in all."""
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", application)
    called = 0
    for operation in (result.ok() for result in schema.get_all_operations()):

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
        def call(case: Any) -> None:
            nonlocal called
            called += 1
            answer = case.call(headers={"host": "localhost"})
            # There is no runner here, so it is not ready.
            assert answer.status_code < 500 or case.path == "/readyz", answer.text
            case.validate_response(answer, checks=[status_code_conformance])

        with suppress(Unsatisfiable):  # nothing that does not fit, where nothing is sent
            call()
    return called


def test_the_document_has_examples_that_work_and_one_shape_of_errors(api: Api) -> None:
    document = api.client.get("/v1/openapi.json").json()
    schemas = document["components"]["schemas"]
    names = ("LandscapeRequest", "GateRequest", "AuditRequest")
    landscape, gate, audit = (schemas[name]["examples"][0] for name in names)
    assert api.submit(landscape["spec"] | {"model": str(api.model)}).status_code == 202
    assert api.submit_gate(gate | {"model": str(api.model)}).status_code == 202
    models = {"models": str(api.model), "baseline": str(api.model)}
    assert api.submit_audit(audit | models).status_code == 202
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status.startswith("4"):
                    assert list(response["content"]) == ["application/problem+json"], path
