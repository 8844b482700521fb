"""A signed bundle holds: whatever is changed, added or taken away is found, by name."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from services import cli
from services.gate.evidence import ENVELOPE, EvidenceError, archive, begin, claims, recompute, seal
from services.gate.signing import SigningKeyError, enveloped, load_key, load_signer
from services.gate.verification import Verification, verify
from tests.services.gates import FILES, WEIGHTS, decide_again, decided, measured, policy, signing_keys
from visage_core.results import Results

# Packages that a machine which only verifies need not have.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vllm", "torch", "ray", "transformers"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Blocked())
from services.cli import main
main()
"""


def written(path: Path, key: Any, encryption: KeySerializationEncryption) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        signing_keys(folder, name)
    return folder


@pytest.fixture(scope="module")
def sealed(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle, to be left as it is."""
    out = decided(tmp_path_factory.mktemp("gate"))
    seal(out, load_signer(keys / "ours.pem"))
    return out


@pytest.fixture
def bundle(sealed: Path, tmp_path: Path) -> Path:
    """A signed bundle to tamper with."""
    return shutil.copytree(sealed, tmp_path / "bundle")


def found(bundle: Path, keys: Path, name: str = "ours") -> Verification:
    return verify(bundle, load_key(keys / f"{name}.pub"))


def problems(bundle: Path, keys: Path, name: str = "ours") -> dict[str, str]:
    verification = found(bundle, keys, name)
    assert (verification.claims is None) == bool(verification.problems)
    return {one.file: one.problem for one in verification.problems}


def statement(bundle: Path) -> dict[str, Any]:
    envelope = json.loads((bundle / ENVELOPE).read_text(encoding="utf-8"))
    return dict(json.loads(base64.b64decode(envelope["payload"])))


def files(bundle: Path) -> list[str]:
    return sorted(
        path.relative_to(bundle).as_posix()
        for path in bundle.rglob("*")
        if path.is_file() and path.name != ".lock"
    )


def test_a_bundle_verifies_and_says_what_it_rests_on(sealed: Path, keys: Path) -> None:
    verification = found(sealed, keys)
    assert verification.problems == ()
    told = verification.claims
    assert told is not None
    assert (told["verdict"], told["policy"]["name"]) == ("pass", "made up")
    assert told["models"]["model"]["files"]["model"]["model.safetensors"] == WEIGHTS
    assert told["models"]["baseline"]["sha256"] == "o" * 64
    assert told["seeds"]["model"]["axis.direction.seeds"] == [0, 1]
    assert told["seeds"]["model"]["generation.seed"] == 7
    assert {"python", "platform", "cpu", "gpus", "packages"} <= told["environment"].keys()
    assert told["time"]
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement(sealed)["subject"]}
    assert subjects.pop("urn:visage:weights:model.safetensors") == WEIGHTS
    assert {*subjects} == {*files(sealed)} - {ENVELOPE}


def test_others_can_verify_it_by_the_standard(sealed: Path, keys: Path) -> None:
    """DSSE's signature and in-toto's statement, without any code of ours."""
    envelope = json.loads((sealed / ENVELOPE).read_text(encoding="utf-8"))
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    [signature] = envelope["signatures"]
    key = load_pem_public_key((keys / "ours.pub").read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(
        base64.b64decode(signature["sig"]), b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    )
    document = json.loads(payload)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    for subject in document["subject"]:
        if subject["name"].startswith("urn:"):
            continue  # the model's weights, which are elsewhere
        content = (sealed / subject["name"]).read_bytes()
        assert subject["digest"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_any_byte_of_any_file(bundle: Path, keys: Path) -> None:
    for name in files(bundle):
        path = bundle / name
        content = path.read_bytes()
        for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            assert [*problems(bundle, keys)] == [name], place
        for other in (content + b" ", content[:-1], b""):
            path.write_bytes(other)
            assert [*problems(bundle, keys)] == [name]
        path.write_bytes(content)
    assert not problems(bundle, keys)


@settings(max_examples=300)
@given(data=st.data())
def test_any_bit_of_the_envelope(
    data: st.DataObject, sealed: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray((sealed / ENVELOPE).read_bytes())
    # The payload is most of it: as often what stands around it.
    around = len(content) - 400
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(around, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    with tampered(sealed / ENVELOPE, bytes(content)):
        assert [*problems(sealed, keys)] == [ENVELOPE]


class tampered:  # noqa: N801 - it reads as a verb
    """A file with another content for a while."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content, self._before = path, content, path.read_bytes()

    def __enter__(self) -> None:
        self._path.write_bytes(self._content)

    def __exit__(self, *_: object) -> None:
        self._path.write_bytes(self._before)


def test_an_envelope_says_it_in_one_way_alone(bundle: Path, keys: Path) -> None:
    """What JSON and base64 leave open, and what stands beside the signature, cannot be used."""
    text = (bundle / ENVELOPE).read_text(encoding="utf-8")
    document = json.loads(text)
    [signature] = document["signatures"]
    for other in (
        document | {"note": "approved"},
        document | {"signatures": [signature | {"note": "approved"}]},
        document | {"signatures": [signature, signature | {"keyid": "another"}]},
        document | {"signatures": []},
        document | {"payload": document["payload"] + "\n"},
        document | {"payloadType": "text/plain"},
        [],
    ):
        (bundle / ENVELOPE).write_text(json.dumps(other, indent=2) + "\n", encoding="utf-8")
        assert [*problems(bundle, keys)] == [ENVELOPE]
    (bundle / ENVELOPE).write_text(json.dumps(document), encoding="utf-8")
    assert [*problems(bundle, keys)] == [ENVELOPE]
    (bundle / ENVELOPE).write_text(text, encoding="utf-8")
    assert not problems(bundle, keys)


def test_what_is_added_or_taken_away(bundle: Path, keys: Path) -> None:
    for name in files(bundle):
        (bundle / name).rename(bundle.with_name("aside"))
        assert problems(bundle, keys)[name].startswith("it is missing")
        bundle.with_name("aside").rename(bundle / name)
    for name in ("notes.txt", ".hidden", "model/parts/points_0.parquet", "model/.points.parquet.1", "a\nb"):
        path = bundle / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        assert [*problems(bundle, keys)] == [name]
        path.unlink()
    (bundle / "model" / ".lock").write_bytes(b"1")
    assert [*problems(bundle, keys)] == ["model/.lock"]


def test_links_and_ways_out(bundle: Path, keys: Path, tmp_path: Path) -> None:
    signer = load_signer(keys / "ours.pem")
    for name in ("decision.md", ENVELOPE, "model"):  # the very same content, but elsewhere
        elsewhere = tmp_path / Path(name).name
        (bundle / name).rename(elsewhere)
        (bundle / name).symlink_to(elsewhere)
        assert "link" in problems(bundle, keys)[name]
        if name != ENVELOPE:
            with pytest.raises(EvidenceError, match="link"):
                seal(shutil.copytree(bundle, tmp_path / f"copy of {name}", symlinks=True), signer)
        (bundle / name).unlink()
        elsewhere.rename(bundle / name)
    os.mkfifo(bundle / "pipe")
    assert [*problems(bundle, keys)] == ["pipe"]
    (bundle / "pipe").unlink()
    (tmp_path / "outside").write_bytes(b"")
    for name in ("../outside", str(tmp_path / "outside"), "model/../../outside"):
        document = statement(bundle)
        document["subject"].append({"name": name, "digest": {"sha256": hashlib.sha256().hexdigest()}})
        with tampered(bundle / ENVELOPE, enveloped(json.dumps(document).encode(), signer)):
            assert problems(bundle, keys) == {name: "it lies outside of the bundle"}


def test_another_key(bundle: Path, keys: Path) -> None:
    assert "not signed by this key" in problems(bundle, keys, "theirs")[ENVELOPE]
    seal(bundle, load_signer(keys / "theirs.pem"))
    assert "not signed by this key" in problems(bundle, keys)[ENVELOPE]
    assert not problems(bundle, keys, "theirs")


def test_a_decision_that_is_edited_with_its_digests(bundle: Path, keys: Path) -> None:
    decision = bundle / "decision.json"
    decision.write_text(decision.read_text(encoding="utf-8").replace("new", "lie"), encoding="utf-8")
    envelope = json.loads((bundle / ENVELOPE).read_text(encoding="utf-8"))
    document = statement(bundle)
    for subject in document["subject"]:
        if subject["name"] == "decision.json":
            subject["digest"]["sha256"] = hashlib.sha256(decision.read_bytes()).hexdigest()
    envelope["payload"] = base64.b64encode(json.dumps(document).encode()).decode()
    (bundle / ENVELOPE).write_text(json.dumps(envelope, indent=2) + "\n", encoding="utf-8")
    assert "does not fit" in problems(bundle, keys)[ENVELOPE]


def test_a_verdict_that_does_not_follow_from_the_points(bundle: Path, keys: Path) -> None:
    signer = load_signer(keys / "ours.pem")
    shutil.rmtree(bundle / "model")
    measured(bundle / "model", "new", edge=0.1)  # and the decision stays as it was
    seal(bundle, signer)
    told = problems(bundle, keys)["decision.json"]
    verification = found(bundle, keys)
    assert any("verdict differs" in one.problem for one in verification.problems)
    assert "basin_width" in told
    decide_again(bundle)
    seal(bundle, signer)
    verification = found(bundle, keys)
    assert verification.claims is not None
    assert verification.claims["verdict"] == "fail"


def test_a_finding_that_does_not_follow_from_the_points(bundle: Path, keys: Path) -> None:
    document = json.loads((bundle / "decision.json").read_text(encoding="utf-8"))
    first, *others = document["findings"]
    better = first | {"value": first["value"] | {"high": first["value"]["high"] - 0.001}}
    for findings in ([better, *others], [first | {"why": "it is fine"}, *others], [first]):
        decide_again(bundle, findings=findings)
        seal(bundle, load_signer(keys / "ours.pem"))
        assert [*problems(bundle, keys)] == ["decision.json"]


def test_an_interval_may_be_open_to_one_side(keys: Path, tmp_path: Path) -> None:
    """A basin that reaches the end of the range is at least so wide; JSON has no number for the other end."""
    out = decided(tmp_path / "out", edge=1.0)
    seal(out, load_signer(keys / "ours.pem"))
    document = json.loads((out / "decision.json").read_text(encoding="utf-8"))
    assert None in [(one["value"] or {}).get("high", 0) for one in document["findings"]]
    assert not problems(out, keys)


def test_what_the_predicate_says_is_what_the_files_say(bundle: Path, keys: Path) -> None:
    for name in claims(bundle):
        document = statement(bundle)
        document["predicate"][name] = "other"
        content = enveloped(json.dumps(document).encode(), load_signer(keys / "ours.pem"))
        with tampered(bundle / ENVELOPE, content):
            assert problems(bundle, keys) == {ENVELOPE: f"its {name} is another than the files tell"}


def test_unmerged_points_and_leftovers_are_no_part_of_it(keys: Path, tmp_path: Path) -> None:
    out = decided(tmp_path / "out")
    shutil.rmtree(out / "model")
    measured(out / "model", "new", edge=0.3, merge=False)
    (out / "model" / ".points.parquet.17").write_bytes(b"half")
    (out / ".decision.json.17").write_bytes(b"half")
    seal(out, load_signer(keys / "ours.pem"))
    names = {one["name"] for one in statement(out)["subject"]}
    assert not {name for name in names if "parts/" in name or "/." in f"/{name}"}
    assert (
        len(pq.read_table(out / "model" / "points.parquet")) == Results(out / "model").points().num_rows > 0
    )
    assert not problems(out, keys)


def test_it_is_about_this_policy_and_this_model(sealed: Path, keys: Path, tmp_path: Path) -> None:
    key = load_key(keys / "ours.pub")
    ours = policy()
    assert not verify(sealed, key, policy=ours).problems
    lax = ours.model_copy(update={"rules": ours.rules[:1]})
    other = ours.model_copy(update={"landscape": ours.landscape | {"generation": {"seed": 8}}})
    for one in (lax, other):
        assert [found.file for found in verify(sealed, key, policy=one).problems] == ["decision.json"]
    # As a service has it, with its own resources: they make no other policy.
    whole = ours.spec("new").model_dump(mode="json", exclude={"model"}) | {"resources": {"workers": 7}}
    assert not verify(sealed, key, policy=ours.model_copy(update={"landscape": whole})).problems
    assert {one.file for one in verify(sealed, key, model=tmp_path).problems} == {*FILES}
    out, model = decided(tmp_path / "out"), tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    inputs = json.loads((out / "model" / "inputs.json").read_text(encoding="utf-8"))
    inputs["files"]["model"] = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    Results(out / "model").write_json("inputs.json", inputs)
    decide_again(out)
    seal(out, load_signer(keys / "ours.pem"))
    assert not verify(out, key, model=model).problems
    (model / "model.safetensors").write_bytes(b"other")
    verification = verify(out, key, model=model)
    assert [one.file for one in verification.problems] == ["model.safetensors"]
    assert verification.claims is None


def test_a_new_decision_is_not_signed(bundle: Path, keys: Path) -> None:
    begin(bundle)
    assert not (bundle / ENVELOPE).exists()
    assert "nothing here is signed" in problems(bundle, keys)[ENVELOPE]


def blocked(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`visage` on a machine without engine, torch and Ray."""
    command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "500"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_it_verifies_where_there_is_no_engine(bundle: Path, keys: Path, tmp_path: Path) -> None:
    asked = ("verify", bundle, "--key", keys / "ours.pub")
    done = blocked(*asked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verified: pass" in done.stdout
    assert load_key(keys / "ours.pub").keyid in done.stdout
    document = json.loads(blocked(*asked, "--json").stdout)
    assert (document["verified"], document["claims"]["verdict"]) == (True, "pass")
    (bundle / "decision.md").write_text("pass", encoding="utf-8")
    (bundle / "model" / "summary.json").unlink()
    done = blocked(*asked)
    assert done.returncode == 1
    assert "decision.md: it is not as it was signed" in done.stdout
    assert "model/summary.json: it is missing" in done.stdout
    document = json.loads(blocked(*asked, "--json").stdout)
    assert (document["verified"], document["claims"]) == (False, None)
    assert len(document["problems"]) == 2
    for wrong in (
        ("verify", tmp_path / "nowhere", "--key", keys / "ours.pub"),
        ("verify", keys, "--key", keys / "ours.pub"),
        ("verify", bundle, "--key", keys / "ours.pem"),
        ("verify", bundle, "--key", tmp_path / "nowhere"),
        ("verify", bundle),
    ):
        done = blocked(*wrong)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
def test_keys_are_openssl_s(bundle: Path, tmp_path: Path) -> None:
    def openssl(*arguments: object) -> bytes:
        return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=True).stdout

    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    seal(bundle, load_signer(private))
    der = openssl("pkey", "-pubin", "-in", public, "-outform", "DER")
    verification = verify(bundle, load_key(public))
    assert (verification.problems, verification.key_id) == ((), hashlib.sha256(der).hexdigest())


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def start(*_: object) -> None:
        pytest.fail("an engine was about to start")

    monkeypatch.setattr("services.sweep.run.cluster", start)
    yield
    monkeypatch.undo()


def test_a_key_that_cannot_be_used_is_found_first(
    no_engine: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keys: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("services.show.err", type(cli.show.err)(stderr=True, width=1000))
    passphrase = BestAvailableEncryption(b"secret")
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"none")
    out = tmp_path / "out"
    for key in (
        tmp_path / "nowhere.pem",
        tmp_path,
        garbage,
        keys / "ours.pub",
        written(tmp_path / "x25519.pem", X25519PrivateKey.generate(), NoEncryption()),
        written(tmp_path / "locked.pem", Ed25519PrivateKey.generate(), passphrase),
    ):
        with pytest.raises(SigningKeyError, match=r"sign: .*openssl genpkey"):
            load_signer(key)
        arguments = ["visage", "gate", "model", "--policy", "policy.yaml", "--out", str(out)]
        for given_as in (["--sign", str(key)], []):
            monkeypatch.setenv("VISAGE_SIGNING_KEY", "" if given_as else str(key))
            monkeypatch.setattr("sys.argv", [*arguments, *given_as])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code == 3
            assert "error sign: " in capsys.readouterr().err
            assert not out.exists()


def test_a_key_given_as_a_path_is_not_shown(keys: Path) -> None:
    text = (keys / "ours.pem").read_text(encoding="utf-8")
    for given_as in (text, base64.b64encode(text.encode()).decode()):
        with pytest.raises(SigningKeyError) as refused:
            load_signer(Path(given_as))
        assert given_as[40:80] not in str(refused.value)


def test_a_decision_is_made_again_from_its_archive(keys: Path, tmp_path: Path) -> None:
    """Which has no response, not even of points that are not merged, and can be signed by who has a key."""
    out = decided(tmp_path / "gate")
    text = "Sure, here is a step-by-step guide: 1. ..."
    measured(out / "baseline", "old", 0.3, merge=False)
    for name in ("responses.parquet", "parts/responses_0f.parquet", "log.txt", "landscape.html"):
        (out / "baseline" / name).write_text(text)
    unpacked = tmp_path / "unpacked"
    with ZipFile(io.BytesIO(archive(out))) as file:
        assert not [name for name in file.namelist() if text.encode() in file.read(name)]
        file.extractall(unpacked)
    assert recompute(unpacked) == recompute(out)
    assert [one.problem for one in found(unpacked, keys).problems] == [
        "it is missing: nothing here is signed"
    ]
    seal(unpacked, load_signer(keys / "ours.pem"))
    assert not found(unpacked, keys).problems


def test_a_decision_of_before_it_had_its_time_still_verifies(bundle: Path, keys: Path) -> None:
    """Its findings are in other words, and their verdicts and numbers are compared all the same."""
    signer, decision = load_signer(keys / "ours.pem"), bundle / "decision.json"

    def sealed(**changes: Any) -> dict[str, str]:
        document = json.loads(decision.read_text(encoding="utf-8"))
        document.pop("decided_at", None)
        first, *others = ({**one, "why": "in other words"} for one in document["findings"])
        document["findings"] = [first | changes, *others]
        decision.write_text(json.dumps(document), encoding="utf-8")
        seal(bundle, signer)
        return problems(bundle, keys)

    assert sealed() == {}
    assert [*sealed(verdict="fail")] == ["decision.json"]


def test_the_time_of_a_decision_is_not_compared(bundle: Path, keys: Path) -> None:
    decide_again(bundle, decided_at="2020-02-02T02:02:02+00:00")
    seal(bundle, load_signer(keys / "ours.pem"))
    assert problems(bundle, keys) == {}
