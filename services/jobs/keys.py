"""API keys: who may do what."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Engine, select
from sqlalchemy.orm import sessionmaker

from services.jobs.database import now, writing
from services.jobs.limits import Limits
from services.jobs.tables import KeyRow
from visage_core.errors import InputError

PREFIX = "visage"


class Scope(StrEnum):
    """What a key may do. `admin` may do all, and sees the jobs of all keys."""

    READ = "read"
    SUBMIT = "submit"
    READ_RESPONSES = "read-responses"
    ADMIN = "admin"


class ApiKeyError(InputError):
    """A key that cannot be made, or is not there."""


@dataclass(frozen=True)
class Caller:
    """Who asks: the id of a key, or "local" where no key is needed."""

    id: str
    name: str
    scopes: frozenset[Scope]
    limits: Limits

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def sees(self) -> str | None:
        """The owner whose jobs the caller sees; None for those of all."""
        return None if Scope.ADMIN in self.scopes else self.id


def parse_scopes(names: Iterable[str]) -> list[Scope]:
    """The scopes of some names. Raises ApiKeyError."""
    try:
        return [Scope(name) for name in names]
    except ValueError as error:
        raise ApiKeyError("scope", str(error), f"Give some of {', '.join(Scope)}") from None


class Keys:
    """The keys in a database. The secret of a key is given out once, when it is made."""

    def __init__(self, engine: Engine) -> None:
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    def create(self, name: str, scopes: Iterable[Scope], limits: Limits | None = None) -> tuple[KeyRow, str]:
        """Make a key; gives its row and the key itself. Raises ApiKeyError."""
        scopes = sorted(set(scopes))
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise ApiKeyError("name", f"{name!r} is no name", "Give up to 200 printable characters")
        if not scopes:
            raise ApiKeyError("scope", "the key would have none", f"Give some of {', '.join(Scope)}")
        secret = secrets.token_urlsafe(32)
        row = KeyRow(
            id=secrets.token_hex(8),
            name=name,
            secret_sha256=_digest(secret),
            scopes=list(scopes),
            limits=(limits or Limits()).model_dump(),
            created_at=now(),
        )
        with writing(self._sessions()) as session:
            session.add(row)
        return row, f"{PREFIX}_{row.id}_{secret}"

    def all(self) -> list[KeyRow]:
        """All keys, revoked ones too, the oldest first."""
        with self._sessions() as session:
            return list(session.scalars(select(KeyRow).order_by(KeyRow.created_at)))

    def revoke(self, key_id: str) -> KeyRow:
        """End a key; its jobs stay. Raises ApiKeyError."""
        with writing(self._sessions()) as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise ApiKeyError("id", f"there is no key {key_id!r}", "`visage keys list` prints them")
            row.revoked_at = row.revoked_at or now()
        return row

    def any(self) -> bool:
        """Whether a key was ever made: from then on nobody comes in without one."""
        with self._sessions() as session:
            return session.scalar(select(KeyRow.id).limit(1)) is not None

    def find(self, key: str) -> Caller | None:
        """Whose key it is; None where it is nobody's, or was revoked."""
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != PREFIX or not secret or not key_id.isalnum() or not key_id.isascii():
            return None
        with self._sessions() as session:
            row = session.get(KeyRow, key_id)
        expected = row.secret_sha256 if row is not None else _digest("")
        # The same time is spent on a key that is not there.
        if not secrets.compare_digest(_digest(secret), expected) or row is None or row.revoked_at is not None:
            return None
        return _caller(row)

    def by_id(self, key_id: str) -> Caller | None:
        """Whose key has an id; None where there is none, or it was revoked. For who has shown the key itself
        before, as in a session."""
        with self._sessions() as session:
            row = session.get(KeyRow, key_id)
        return None if row is None or row.revoked_at is not None else _caller(row)


def _caller(row: KeyRow) -> Caller:
    scopes = frozenset(Scope(scope) for scope in row.scopes)
    return Caller(row.id, row.name, scopes, Limits.model_validate(row.limits))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
