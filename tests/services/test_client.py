"""What the client makes of a URL and a key, and how it follows a job whose service comes and goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from services.api.schemas import Gate
from services.client import Client, ClientError, ServiceError
from services.client.transport import http_options, told
from services.jobs.states import State
from tests.conftest import free_port

URL = "http://127.0.0.1:8420"


@pytest.mark.parametrize("key", ["vk_1_secret\n", " vk_1_secret", "vk_1_secret\r\n"])
def test_white_space_around_a_key_is_no_part_of_it(key: str) -> None:
    assert http_options(URL, key)["headers"] == {"authorization": "Bearer vk_1_secret"}


@pytest.mark.parametrize(
    "key", ["", " \n", "vk_1_se cret", "vk_1_se\ncret", "vk_1_sécret", "vk_1_\x7fsecret"]
)
def test_a_key_that_is_none_is_not_shown(key: str) -> None:
    with pytest.raises(ClientError, match=r"^key: .*visage keys create") as refused:
        Client(URL, key)
    assert "vk" not in str(refused.value)


def test_an_error_that_quotes_the_key_is_not_told() -> None:
    error = told(httpx.LocalProtocolError("Illegal header value b'Bearer secret'"))
    assert "secret" not in str(error)
    assert "LocalProtocolError" in str(error)


@pytest.mark.parametrize(
    "server",
    [
        "",
        "localhost:8420",
        "127.0.0.1:8420",
        "http://",
        "http:///v1",
        "ftp://127.0.0.1",
        "http://127.0.0.1:8420\n",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://xn--",
        "http://name:secret@127.0.0.1:8420",
    ],
)
def test_a_url_of_no_service_is_refused_at_once(server: str) -> None:
    with pytest.raises(ClientError, match=r"^server: ") as refused:
        Client(server)
    assert "secret" not in str(refused.value)


def gate(revision: int, state: State) -> Gate:
    return Gate(
        id="1",
        state=state,
        revision=revision,
        label=None,
        priority=0,
        owner="",
        points=1,
        done=0,
        failed=0,
        tokens=0,
        worker_seconds=0.0,
        error=None,
        created_at=datetime.now(UTC),
        started_at=None,
        finished_at=None,
        name="made up",
        model="new",
        baseline=None,
        verdict=None,
        look=None,
    )


class Answer(BaseHTTPRequestHandler):
    """An answer that is `kind`, and begins. Its connection ends with it."""

    kind = "text/event-stream"
    asked: list[str | None]  # the Last-Event-ID of each request
    tell: Callable[[Answer], None]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Last-Event-ID"])
        self.send_response(200)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", "1000000")  # so that its end is known for a loss
        self.end_headers()
        type(self).tell(self)

    def event(self, now: Gate) -> None:
        self.wfile.write(f"event: gate\nid: {now.revision}\ndata: {now.model_dump_json()}\n\n".encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(
    tell: Callable[[Answer], None], kind: str = Answer.kind
) -> Iterator[tuple[str, list[str | None]]]:
    """The URL of a server whose every answer is told so; and what it is asked for."""
    asked: list[str | None] = []
    handler = type("Told", (Answer,), {"asked": asked, "tell": staticmethod(tell), "kind": kind})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who tries again does it soon."""
    monkeypatch.setattr("services.client.sync.AGAIN_SECONDS", 0.02)


def test_a_connection_that_is_lost_after_a_quiet_time_is_made_again() -> None:
    """Longer quiet than its patience, twice: each loss has all of it."""

    def tell(answer: Answer) -> None:
        number = len(answer.asked)
        if number in (1, 4):
            answer.event(gate(number, State.DONE if number == 4 else State.RUNNING))
        if number != 4:
            time.sleep(0.4)

    with answering(tell) as (url, asked), Client(url, patience=0.3) as client:
        assert [one.state for one in client.watch_gate("1")] == [State.RUNNING, State.DONE]
    assert asked == [None, "1", "1", "1"]


def test_who_never_answers_is_given_up() -> None:
    begin = time.monotonic()
    client = Client(f"http://127.0.0.1:{free_port()}", patience=0.3)
    with client, pytest.raises(ServiceError, match="does not answer") as lost:
        list(client.watch_gate("1"))
    assert 0.3 <= time.monotonic() - begin < 10
    assert lost.value.is_infrastructure


def test_who_answers_with_something_else_is_given_up() -> None:
    def tell(answer: Answer) -> None:
        answer.wfile.write(b"<p>Welcome</p>")

    with answering(tell, "text/html") as (url, asked), Client(url, patience=0.3) as client:
        with pytest.raises(ServiceError, match="does not answer"):
            list(client.watch_gate("1"))
        assert len(asked) > 1
