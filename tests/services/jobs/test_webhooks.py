"""Who asked for it is told of a job's end: signed, until it is taken, and never at a private address."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Engine

from services.jobs.database import now, open_database
from services.jobs.states import OVER, State
from services.jobs.store import LEASE, MOST_STARTS, Jobs
from services.jobs.tables import JobRow
from services.jobs.webhooks import (
    FIRST_WAIT,
    MOST_ATTEMPTS,
    WebhookError,
    deliver,
    require_url,
    signature,
)
from tests.services.jobs.test_states import force, submitted, taken

SECRET = "a secret of some – length"
BODY: dict[str, Any] = {"type": "landscape.finished", "data": {"label": "žluťoučký", "state": "done"}}
PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[fc00::]",
    "[fd12:3456::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::10.0.0.1]",
    "[64:ff9b:1::10.0.0.1]",
    "[2002:a00:1::]",
    "[::127.0.0.1]",
]


class Receiver:
    """A real server that notes what it is sent, and answers as it was told."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str = "http") -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status, self.headers, self.drip = 200, {}, b""
        host, self.port = server.server_address[:2]
        self.url = f"{scheme}://{f'[{host}]' if ':' in str(host) else host}:{self.port}/hook"

    @property
    def headers_seen(self) -> dict[str, str]:
        """Of the only request."""
        [(_, _, headers, _)] = self.requests
        return headers


@contextmanager
def receiver(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.notes.requests.append((self.command, self.path, headers, body))  # type: ignore[attr-defined]
            self.answer(self.server.notes)  # type: ignore[attr-defined]

        do_GET = do_POST  # noqa: N815 - so they are called

        def answer(self, told: Receiver) -> None:
            if told.drip:
                try:
                    while not self.server.over.wait(0.05):  # type: ignore[attr-defined]
                        self.wfile.write(told.drip)
                        self.wfile.flush()
                except OSError:
                    pass  # the other side had enough
                return
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, *_: object) -> None:
            pass  # who does not trust the certificate hangs up

    server = Server((host, 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.over = threading.Event()  # type: ignore[attr-defined]
    server.notes = Receiver(server, "http" if tls is None else "https")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.notes  # type: ignore[attr-defined]
    finally:
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture(autouse=True)
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address to which a test connects; only those of this machine are let through."""
    addresses: list[str] = []
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            addresses.append(address[0])
            if not ipaddress.ip_address(address[0]).is_loopback:
                raise OSError("a test connects to no other machine")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    return addresses


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What names stand for: the addresses at the first look-up, at the second, ...; the last ones stay."""
    names: dict[str, list[list[str]]] = {}
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        if text not in names:
            assert text == "localhost" or ipaddress.ip_address(text), "a test asks no name server"
            return look_up(host, port, *rest, **options)
        answers = names[text]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
        ends = {4: (), 6: (0, 0)}
        return [
            (kinds[version], socket.SOCK_STREAM, 6, "", (address, port, *ends[version]))
            for address in addresses
            for version in [ipaddress.ip_address(address).version]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Jobs]:
    """A job table, where it does not matter in which database."""
    engine = open_database(f"sqlite:///{tmp_path / 'here.db'}")
    yield Jobs(engine)
    engine.dispose()


def finished(jobs: Jobs, url: str, secret: str = SECRET) -> JobRow:
    """A job that is done, and of which somebody wants to be told."""
    job = taken(jobs, webhook={"url": url, "secret": secret}).id
    jobs.end(job, "r", State.DONE)
    return jobs.get(job)


def tell(jobs: Jobs, url: str, private: bool = True, body: dict[str, Any] | None = None) -> bool:
    """Whether a server takes it."""
    return deliver(jobs, finished(jobs, url), body or BODY, private)


def verify(key: bytes, headers: dict[str, str], body: bytes, tolerance: float = 300) -> bool:
    """As a receiver does by the specification (standardwebhooks.com)."""
    stamp = headers["webhook-timestamp"]
    if not stamp.isdecimal() or abs(time.time() - int(stamp)) > tolerance:
        return False
    signed = b".".join([headers["webhook-id"].encode(), stamp.encode(), body])
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    pairs = [part.partition(",") for part in headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(found, expected) for version, _, found in pairs)


# What is sent


def test_who_asked_is_told_with_a_signature(here: Jobs, there: Receiver) -> None:
    row = finished(here, there.url)
    assert deliver(here, row, BODY, allow_private=True)
    [(method, path, headers, body)] = there.requests
    assert (method, path) == ("POST", "/hook")
    assert headers["content-type"] == "application/json"
    assert headers["host"] == f"127.0.0.1:{there.port}"
    assert headers["webhook-id"] == row.id
    assert json.loads(body) == BODY
    assert verify(SECRET.encode(), headers, body)


def test_a_signature_holds_for_nothing_else(here: Jobs, there: Receiver) -> None:
    assert tell(here, there.url)
    [(_, _, headers, body)] = there.requests
    key = SECRET.encode()
    assert not verify(b"another secret than that", headers, body)
    assert not verify(key, headers, body + b" ")
    assert not verify(key, headers | {"webhook-id": "0" * 32}, body)
    later = str(int(headers["webhook-timestamp"]) + 1)
    assert not verify(key, headers | {"webhook-timestamp": later}, body)


# The message, the secret and the signature that the specification's own libraries are tested with.
KNOWN_SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KNOWN = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
KNOWN_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_check_here_is_that_of_the_specification() -> None:
    message, stamp, body = KNOWN
    headers = {"webhook-id": message, "webhook-timestamp": str(stamp), "webhook-signature": KNOWN_SIGNATURE}
    assert verify(base64.b64decode(KNOWN_SECRET), headers, body, tolerance=float("inf"))
    assert not verify(base64.b64decode(KNOWN_SECRET), headers, body), "it is years old"


def test_a_secret_in_the_form_of_the_specification_is_the_key_that_it_stands_for() -> None:
    """Else no library for Standard Webhooks that is given the same secret takes the signature."""
    assert signature(f"whsec_{KNOWN_SECRET}", *KNOWN) == KNOWN_SIGNATURE


def test_the_secret_is_not_sent(here: Jobs, there: Receiver) -> None:
    assert tell(here, there.url)
    assert SECRET not in repr(there.requests)
    assert "authorization" not in there.headers_seen


def test_path_and_query_are_as_they_were_given(here: Jobs, there: Receiver) -> None:
    assert tell(here, f"{there.url}/a%20b/?x=1&y=%2F&x=2")
    [(_, path, _, _)] = there.requests
    assert path == "/hook/a%20b/?x=1&y=%2F&x=2"


def test_a_server_by_its_name(here: Jobs, there: Receiver, known: dict[str, list[list[str]]]) -> None:
    known["hooks.example"] = [["127.0.0.1"]]
    assert tell(here, f"http://hooks.example:{there.port}/hook")
    assert there.headers_seen["host"] == f"hooks.example:{there.port}"


def test_a_server_whose_name_has_letters_of_all_kinds(
    here: Jobs, there: Receiver, known: dict[str, list[list[str]]]
) -> None:
    known["bücher.example"] = known["xn--bcher-kva.example"] = [["127.0.0.1"]]
    assert tell(here, f"http://bücher.example:{there.port}/hook")
    assert there.headers_seen["host"] == f"xn--bcher-kva.example:{there.port}"


def test_a_server_at_an_address_of_version_6(here: Jobs) -> None:
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    try:
        with receiver("::1") as found:
            assert tell(here, found.url)
            assert found.headers_seen["host"] == f"[::1]:{found.port}"
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")


def test_a_proxy_of_the_environment_is_not_asked(
    here: Jobs, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert tell(here, there.url)
        assert not proxy.requests
    assert there.requests


# Whether it is taken, and when it is tried again


def test_it_is_told_once_where_it_is_taken(jobs: Jobs, there: Receiver) -> None:
    for there.status in (200, 201, 202, 204, 299):
        row = finished(jobs, there.url)
        [due] = jobs.take_webhooks()
        assert due.id == row.id
        assert deliver(jobs, due, BODY, allow_private=True)
        assert jobs.take_webhooks() == []
        after = jobs.get(row.id)
        assert (after.webhook_due, after.webhook_attempts) == (None, 1)


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 410, 429, 500, 503])
def test_a_server_that_does_not_take_it_is_asked_again(here: Jobs, there: Receiver, status: int) -> None:
    there.status = status
    row = finished(here, there.url)
    assert not deliver(here, row, BODY, allow_private=True)
    assert here.take_webhooks() == [], "not at once"
    assert here.get(row.id).webhook_due is not None


def test_waits_grow_until_it_is_given_up(jobs: Jobs, engine: Engine, closed: str) -> None:
    job = finished(jobs, closed).id
    waits = []
    for attempt in range(1, MOST_ATTEMPTS + 1):
        [due] = jobs.take_webhooks()
        assert not deliver(jobs, due, BODY, allow_private=True)
        row = jobs.get(job)
        assert row.webhook_attempts == attempt
        assert jobs.take_webhooks() == []
        if row.webhook_due is not None:
            waits.append(row.webhook_due - now())
            force(engine, job, webhook_due=now() - timedelta(seconds=1))
    assert row.webhook_due is None, "it was given up"
    assert len(waits) == MOST_ATTEMPTS - 1
    for number, wait in enumerate(waits):
        assert abs(wait - FIRST_WAIT * 2**number) < timedelta(seconds=10)
    assert timedelta(hours=10) < sum(waits, timedelta()) < timedelta(hours=11)
    assert row.state == State.DONE


@pytest.fixture
def closed() -> Iterator[str]:
    """The URL of a port at which nobody listens."""
    with socket.socket() as taken_:
        taken_.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken_.getsockname()[1]}/hook"


def test_a_repeated_message_has_its_id_and_a_time_of_its_own(
    jobs: Jobs, engine: Engine, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.status = 500
    row = finished(jobs, there.url)
    deliver(jobs, row, BODY, allow_private=True)
    there.status = 200
    later = now() + timedelta(minutes=5)
    monkeypatch.setattr("services.jobs.webhooks.now", lambda: later)
    assert deliver(jobs, jobs.get(row.id), BODY, allow_private=True)
    (_, _, first, body), (_, _, second, body_again) = there.requests
    assert body == body_again
    assert first["webhook-id"] == second["webhook-id"] == row.id
    assert second["webhook-timestamp"] == str(int(later.timestamp()))
    for headers in (first, second):
        assert verify(SECRET.encode(), headers, body, tolerance=400)


def test_redirects_are_not_followed(here: Jobs, there: Receiver, reached: list[str]) -> None:
    with receiver() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            there.status, there.headers = status, {"location": elsewhere.url}
            assert not tell(here, there.url)
        assert not elsewhere.requests
    assert len(there.requests) == len(reached) == 5


@pytest.mark.parametrize(
    "drip",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000, id="a body without end"),
        pytest.param(b"\x00\xff no HTTP\r\n\r\n", id="no HTTP"),
    ],
)
def test_an_answer_that_does_not_end_is_not_read(here: Jobs, there: Receiver, drip: bytes) -> None:
    there.drip = drip
    begin = time.monotonic()
    assert tell(here, there.url) == drip.startswith(b"HTTP")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("drip", [b"", b"x"], ids=["nothing comes", "a drop at a time"])
def test_a_server_that_keeps_one_waiting_is_left(
    here: Jobs, there: Receiver, monkeypatch: pytest.MonkeyPatch, drip: bytes
) -> None:
    """However it goes about it: else a few such servers hold up all that others are to be told."""
    monkeypatch.setattr("services.jobs.webhooks.TIMEOUT_SECONDS", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there.drip = drip
        url = there.url if drip else f"http://127.0.0.1:{silent.getsockname()[1]}/"
        begin = time.monotonic()
        closing = threading.Timer(4, there.__setattr__, ("drip", b"\r\n\r\n"))  # else it would never end
        closing.start()
        assert not tell(here, url)
        closing.cancel()
    assert time.monotonic() - begin < 3


# Which jobs


def test_every_end_is_told(jobs: Jobs) -> None:
    for end in OVER:
        job = taken(jobs, webhook={"url": "https://example.com", "secret": SECRET}).id
        assert jobs.take_webhooks() == []
        jobs.end(job, "r", end)
        assert [row.id for row in jobs.take_webhooks()] == [job]
        jobs.webhook_tried(job, None)


def test_a_cancelled_and_a_lost_job_are_told_too(jobs: Jobs, engine: Engine) -> None:
    webhook = {"url": "https://example.com", "secret": SECRET}
    waiting = submitted(jobs, webhook=webhook).id
    jobs.cancel(waiting)
    lost = taken(jobs, webhook=webhook).id
    force(engine, lost, lease_until=now() - LEASE, starts=MOST_STARTS)
    jobs.recover()
    assert {row.id for row in jobs.take_webhooks()} == {waiting, lost}


def test_nobody_is_told_of_other_jobs(jobs: Jobs) -> None:
    webhook = {"url": "https://example.com", "secret": SECRET}
    jobs.end(taken(jobs).id, "r", State.DONE)
    jobs.end(taken(jobs, webhook=webhook).id, "r", State.QUEUED)
    submitted(jobs, webhook=webhook)
    assert jobs.take_webhooks() == []


# Private addresses


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused(here: Jobs, reached: list[str], address: str) -> None:
    url = f"https://{address}/hook"
    with pytest.raises(WebhookError, match="private address") as refused:
        require_url(url, allow_private=False)
    assert refused.value.field == "webhook.url"
    require_url(url, allow_private=True)
    # And when it comes to calling it, should it have come into the table all the same.
    row = finished(here, url)
    assert not deliver(here, row, BODY, allow_private=False)
    assert here.get(row.id).webhook_due is not None
    assert reached == []


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0"])
def test_names_of_private_addresses_are_refused_once_they_are_looked_up(
    here: Jobs, there: Receiver, reached: list[str], host: str
) -> None:
    for scheme in ("https", "http"):
        assert not tell(here, f"{scheme}://{host}:{there.port}/hook", private=False)
    assert reached == []
    assert there.requests == []


@pytest.mark.parametrize("address", [address.strip("[]") for address in PRIVATE])
def test_a_name_that_stands_for_a_private_address_is_refused(
    here: Jobs, reached: list[str], known: dict[str, list[list[str]]], address: str
) -> None:
    """Also where it stands for a public one as well."""
    known["hooks.example"] = [[address]]
    known["both.example"] = [["93.184.216.34", address]]
    for host in ("hooks.example", "both.example"):
        require_url(f"https://{host}/", allow_private=False)
        assert not tell(here, f"https://{host}/", private=False)
    assert reached == []


def test_the_address_that_was_checked_is_the_one_that_is_called(
    here: Jobs, there: Receiver, reached: list[str], known: dict[str, list[list[str]]]
) -> None:
    """A name that is public when it is looked at, and private a moment later."""
    known["hooks.example"] = [["93.184.216.34"], ["127.0.0.1"]]
    assert not tell(here, f"https://hooks.example:{there.port}/hook", private=False)
    assert reached == ["93.184.216.34"]
    assert there.requests == []


def test_public_addresses_are_called(
    here: Jobs, reached: list[str], known: dict[str, list[list[str]]]
) -> None:
    known["hooks.example"] = [["2606:2800:220:1:248:1893:25c8:1946"]]
    urls = ["https://93.184.216.34/hook", "https://hooks.example/", "https://[2606:2800:220:1::1]:8443/x?y=z"]
    for url in urls:
        require_url(url, allow_private=False)
        tell(here, url, private=False)
    assert reached == ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "2606:2800:220:1::1"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "//hooks.example/",
        "/hook",
        "https://",
        "https:///hook",
        "https://:443/hook",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://hooks.example:0/",
        "https://hooks.example:65536/",
        "https://hooks.example:port/",
        "https://[::1/hook",
        "https://[nonsense]/",
        "https://user:password@hooks.example/",
        "https://user@hooks.example/",
        "https://:password@hooks.example/",
        "https://@hooks.example/",
    ],
)
@pytest.mark.parametrize("private", [False, True])
def test_what_is_no_url_of_a_webhook(url: str, private: bool) -> None:
    with pytest.raises(WebhookError) as refused:
        require_url(url, private)
    assert refused.value.field == "webhook.url"
    assert "password" not in str(refused.value)


def test_without_tls_only_private_ones_are_called(here: Jobs, reached: list[str]) -> None:
    with pytest.raises(WebhookError, match="it is not https"):
        require_url("http://hooks.example/", allow_private=False)
    assert not tell(here, "http://93.184.216.34/", private=False)
    assert reached == []
    require_url("http://hooks.example/", allow_private=True)


@pytest.mark.parametrize(
    "url", ["https://hooks.example\0/", "https://a b/", "https://" + "a" * 300 + ".example/"]
)
def test_a_url_that_cannot_be_called_is_no_crash(here: Jobs, reached: list[str], url: str) -> None:
    for private in (False, True):
        assert not tell(here, url, private)
    assert reached == []


# Certificates


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side of TLS, for a certificate of hooks.example that clients here trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "certificate.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    monkeypatch.setattr("certifi.where", lambda: str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_a_certificate_is_that_of_the_name_though_an_address_is_called(
    here: Jobs, certified: ssl.SSLContext, known: dict[str, list[list[str]]]
) -> None:
    known["hooks.example"] = known["other.example"] = [["127.0.0.1"]]
    with receiver(tls=certified) as server:
        assert tell(here, f"https://hooks.example:{server.port}/hook")
        assert server.headers_seen["host"] == f"hooks.example:{server.port}"
        for host in ("other.example", "127.0.0.1"):
            assert not tell(here, f"https://{host}:{server.port}/hook")
        assert len(server.requests) == 1


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    here: Jobs, certified: ssl.SSLContext, known: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with receiver(tls=certified) as server:
        assert not tell(here, server.url.replace("127.0.0.1", "localhost"))
        assert not server.requests
