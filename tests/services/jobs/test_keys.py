"""API keys: their secrets are nowhere, they do what they may, and they end when they are revoked."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from services.jobs.keys import ApiKeyError, Keys, Scope, parse_scopes
from services.jobs.limits import Limits
from services.jobs.tables import KeyRow, Table

READER = [Scope.READ]


@pytest.fixture
def keys(engine: Engine) -> Keys:
    return Keys(engine)


def secret_of(key: str) -> str:
    return key.split("_", 2)[2]


def test_the_secret_is_nowhere_in_the_database(keys: Keys, engine: Engine, tmp_path: Path) -> None:
    _, key = keys.create("one", READER)
    keys.find(key)
    for table in Table.metadata.sorted_tables:
        with engine.connect() as connection:
            assert secret_of(key) not in repr(connection.execute(select(table)).all())
    engine.dispose()
    for file in tmp_path.iterdir():  # of SQLite: the database and its log
        assert secret_of(key).encode() not in file.read_bytes()


def test_a_key_is_found_with_what_it_was_made_with(keys: Keys) -> None:
    limits = Limits(jobs=1, points=2, prompts=3, tokens=4)
    row, key = keys.create("Ada – the first", [Scope.SUBMIT, Scope.READ, Scope.READ], limits)
    assert key == f"visage_{row.id}_{secret_of(key)}"
    assert len(secret_of(key)) >= 43, "256 random bits"
    caller = keys.find(key)
    assert caller is not None
    assert (caller.id, caller.name, caller.limits) == (row.id, "Ada – the first", limits)
    assert caller.scopes == {Scope.READ, Scope.SUBMIT}


def test_a_key_has_the_usual_limits_unless_others_are_given(keys: Keys) -> None:
    caller = keys.find(keys.create("one", READER)[1])
    assert caller is not None
    assert caller.limits == Limits()


def test_keys_differ(keys: Keys) -> None:
    made = [keys.create("the same name", READER) for _ in range(20)]
    assert len({row.id for row, _ in made}) == len({secret_of(key) for _, key in made}) == 20
    for row, key in made:
        caller = keys.find(key)
        assert caller is not None
        assert caller.id == row.id


def test_a_key_with_another_keys_secret_is_nobodys(keys: Keys) -> None:
    (one, _), (_, other) = keys.create("one", READER), keys.create("other", READER)
    assert keys.find(f"visage_{one.id}_{secret_of(other)}") is None


def test_what_is_no_key_is_nobodys(keys: Keys) -> None:
    row, key = keys.create("one", READER)
    wrong = [
        "",
        "_",
        "__",
        "visage",
        "visage_",
        "visage__",
        f"visage_{row.id}",
        f"visage_{row.id}_",
        f"visage__{secret_of(key)}",
        secret_of(key),
        key[:-1],
        f"{key}x",
        f"{key} ",
        f" {key}",
        f"{key}\0",
        key.upper(),
        key.replace("visage", "VISAGE"),
        key.replace("visage_", "other_"),
        f"visage_{row.id}_{row.secret_sha256}",
        f"visage_{'0' * 16}_{secret_of(key)}",
        f"visage_{row.id}\0_{secret_of(key)}",
        f"visage_%_{secret_of(key)}",
        f"visage_' OR 1=1 --_{secret_of(key)}",
        f"visage_{'é' * 16}_{secret_of(key)}",
        f"visage_{'٣' * 16}_{secret_of(key)}",
        f"visage_{row.id}_ключ",
        f"visage_{row.id}_\ud800",
        f"visage_\ud800_{secret_of(key)}",
        f"visage_{'a' * 100_000}_{secret_of(key)}",
        f"visage_{row.id}_{'a' * 1_000_000}",
        "\U0001f511" * 1_000,
    ]
    for text in wrong:
        assert keys.find(text) is None, text[:100]
    assert keys.find(key) is not None


def test_a_revoked_key_is_nobodys_from_then_on(keys: Keys) -> None:
    (one, first), (_, second) = keys.create("one", READER), keys.create("two", READER)
    revoked = keys.revoke(one.id)
    assert revoked.revoked_at is not None
    assert keys.find(first) is None
    assert keys.find(second) is not None
    assert keys.revoke(one.id).revoked_at == revoked.revoked_at
    assert [row.name for row in keys.all()] == ["one", "two"]


def test_a_key_that_is_not_there_cannot_be_revoked(keys: Keys) -> None:
    keys.create("one", READER)
    for key_id in ("", "0" * 16, "x' OR 1=1", "é", "a" * 100_000):
        with pytest.raises(ApiKeyError, match="there is no key"):
            keys.revoke(key_id)
    assert [row.revoked_at for row in keys.all()] == [None]


def test_from_the_first_key_on_one_is_needed(keys: Keys) -> None:
    assert not keys.any()
    row, _ = keys.create("one", READER)
    assert keys.any()
    keys.revoke(row.id)
    assert keys.any(), "revoking the last key opens the service to nobody"


def test_a_scope_allows_itself_and_admin_allows_all(keys: Keys) -> None:
    for scope in Scope:
        caller = keys.find(keys.create("one", [scope])[1])
        assert caller is not None
        allowed = {asked for asked in Scope if caller.may(asked)}
        assert allowed == (set(Scope) if scope == Scope.ADMIN else {scope})
        assert caller.sees == (None if scope == Scope.ADMIN else caller.id)


def test_scopes_by_their_names() -> None:
    assert parse_scopes(["read", "read-responses"]) == [Scope.READ, Scope.READ_RESPONSES]
    with pytest.raises(ApiKeyError, match="'write' is not a valid Scope") as refused:
        parse_scopes(["read", "write"])
    assert "read, submit, read-responses, admin" in refused.value.remedy


def test_what_is_no_name(keys: Keys) -> None:
    for name in ("", " ", "a\nb", "a\0", "\x1b[31m", "x" * 201, "\ud800", "a\u202eb"):
        with pytest.raises(ApiKeyError) as refused:
            keys.create(name, READER)
        assert refused.value.field == "name"
    assert not keys.any()


def test_a_key_without_scopes_is_none(keys: Keys) -> None:
    with pytest.raises(ApiKeyError, match="the key would have none"):
        keys.create("one", [])


def test_the_longest_name_is_kept(keys: Keys, engine: Engine) -> None:
    keys.create("ü" * 200, READER)
    with engine.connect() as connection:
        assert list(connection.scalars(select(KeyRow.name))) == ["ü" * 200]
