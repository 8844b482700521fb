"""Telling somebody's server that a job is over: signed, again until it is taken, never to private addresses.

Signed as the Standard Webhooks specification says: HMAC-SHA256 over id, time and body.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import socket
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from services.jobs.database import now
from services.jobs.store import Jobs
from services.jobs.tables import JobRow
from visage_core.errors import InputError

# What is not public either, though not every Python knows: IPv4 in IPv6, local NAT64, site-local.
NOT_PUBLIC = tuple(ipaddress.ip_network(name) for name in ("::/96", "64:ff9b:1::/48", "fec0::/10"))
BASE64_PREFIX = "whsec_"
TIMEOUT_SECONDS = 10.0  # for all of it
MOST_ATTEMPTS = 8  # with doubled waits: over about ten hours
FIRST_WAIT = timedelta(minutes=5)
log = structlog.get_logger("visage.webhooks")


class WebhookError(InputError):
    """A webhook that the service does not call."""


def require_url(url: str, allow_private: bool) -> None:
    """Refuse what no webhook may be, as far as the URL alone tells. Raises WebhookError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise WebhookError("webhook.url", "it is no URL", "Give https://HOST/PATH") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc or port == 0:
        raise WebhookError("webhook.url", "it is no http or https URL of a server", "Give https://HOST/PATH")
    if allow_private:
        return
    if parts.scheme != "https":
        raise WebhookError("webhook.url", "it is not https", "Give https://HOST/PATH")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return  # a name: what it stands for is looked up when it is called
    if not _is_public(address):
        raise WebhookError(
            "webhook.url", f"{address} is a private address", "Give one that the whole internet reaches"
        )


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header webhook-signature."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    """The bytes of a secret: in base64 after whsec_, as the specification has it, else its text."""
    if secret.startswith(BASE64_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(BASE64_PREFIX), validate=True)
        except ValueError:
            pass
    return secret.encode()


def deliver(jobs: Jobs, row: JobRow, body: dict[str, Any], allow_private: bool) -> bool:
    """Tell of a job's end, and note in the table whether to try again. Tells whether it was taken."""
    assert row.webhook is not None
    problem = _post(row, body, allow_private)
    attempts = row.webhook_attempts + 1
    again = problem is not None and attempts < MOST_ATTEMPTS
    jobs.webhook_tried(row.id, now() + FIRST_WAIT * 2 ** (attempts - 1) if again else None)
    log.info("webhook", job=row.id, attempt=attempts, taken=problem is None, problem=problem, again=again)
    return problem is None


def _post(row: JobRow, body: dict[str, Any], allow_private: bool) -> str | None:
    """What went wrong, if anything."""
    assert row.webhook is not None
    url = row.webhook["url"]
    content = json.dumps(body).encode()
    timestamp = int(now().timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": "visage",
        "webhook-id": row.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(row.webhook["secret"], row.id, timestamp, content),
    }
    try:
        require_url(url, allow_private)
        address = _address(url, allow_private)
        given = httpx.URL(url)
        headers["host"] = given.netloc.decode()
        # To the very address that was checked: a second look-up could give another.
        target = given.copy_with(host=address)
        status = asyncio.run(_send(target, given.raw_host.decode(), headers, content))
        return None if 200 <= status < 300 else f"status {status}"
    except (httpx.HTTPError, httpx.InvalidURL, InputError, OSError, UnicodeError) as error:
        return f"{type(error).__name__}: {error}"


async def _send(target: httpx.URL, host: str, headers: dict[str, str], content: bytes) -> int:
    """The status of the answer. What it says is of no interest, and may be long. Raises TimeoutError."""
    async with (
        asyncio.timeout(TIMEOUT_SECONDS),
        httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client,
        client.stream(
            "POST", target, headers=headers, content=content, extensions={"sni_hostname": host}
        ) as answer,
    ):
        return answer.status_code


def _address(url: str, allow_private: bool) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    if not allow_private and not all(_is_public(address) for address in addresses):
        raise WebhookError(
            "webhook.url", f"{parts.hostname} has a private address", "Give a server that all can reach"
        )
    return str(addresses[0])


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        # Ways in which an IPv6 address carries an IPv4 one.
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner:
            return _is_public(inner)
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if any(address in network for network in NOT_PUBLIC):
            return False
    return address.is_global and not address.is_multicast
