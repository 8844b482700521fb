"""A gate or an audit of a service leaves what it says, whole and checked, or it has no verdict."""

from __future__ import annotations

import io
import json
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

import pytest
from pydantic import ValidationError

from services import asked
from services.api.schemas import Audit, AuditDetail, Failure, Gate, GateDetail, LookInfo, Names
from services.asked import ASIDE, AskedError
from services.client import ServiceError
from services.client.transport import http_options
from services.gate.evidence import EvidenceError, archive, seal, unpack
from services.gate.signing import load_key, load_signer
from services.gate.verification import verify
from services.jobs.states import State
from services.jobs.storage import LOCK
from services.sweep.coordinator import FolderBusyError, lease_of
from tests.conftest import Visage
from tests.services.gates import decide_again, decided, measured, policy, signing_keys
from visage_core.policy import Policy
from visage_core.results import Results

URL = "http://127.0.0.1:8420"
JOB: dict[str, Any] = {
    "state": State.DONE,
    "revision": 1,
    "label": None,
    "priority": 0,
    "owner": "",
    "points": 10,
    "done": 10,
    "failed": 0,
    "tokens": 1,
    "worker_seconds": 1.0,
    "error": None,
    "created_at": datetime.now(UTC),
    "started_at": None,
    "finished_at": None,
    "name": "made up",
    "baseline": "old",
}
GATE = {
    "model": "new",
    "verdict": "pass",
    "look": LookInfo(number=1, of=1, responses=1, planned=1, level=0.95),
}
AUDIT = {"checkpoints": 2, "settled": 2, "verdicts": {"pass": 1, "broken": 1}}
DETAIL = {"policy": policy(), "links": {}}


@dataclass
class FakeClient:
    """A service that has measured all, named as a fake one. Whoever asks with another key asks for another
    job; `fails` is what it does when it is to give its results."""

    packed: bytes = b""
    boards: dict[str, bytes] = field(default_factory=dict)
    ends: dict[str, Any] = field(default_factory=dict)  # how its jobs differ from such as are done
    fails: BaseException | None = None
    server: str = URL
    sent: dict[str, Any] = field(default_factory=dict)  # by idempotency key
    calls: list[str] = field(default_factory=list)

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _submit(self, what: Any, key: str) -> str:
        if self.sent.setdefault(key, what) != what:
            error = ServiceError("idempotency-key", "it came with another request", "Use another")
            error.status = 409
            raise error
        return f"job{list(self.sent).index(key)}"

    def submit_gate(self, *what: Any, idempotency_key: str) -> GateDetail:
        return self.gate(self._submit(what, idempotency_key))

    def submit_audit(self, *what: Any, idempotency_key: str) -> AuditDetail:
        return self.audit(self._submit(what, idempotency_key))

    def gate(self, job: str) -> GateDetail:
        self._require(job, "job")
        return GateDetail(id=job, findings=[], **JOB | GATE | DETAIL | self.ends)

    def audit(self, job: str) -> AuditDetail:
        self._require(job, "job", "audit")
        return AuditDetail(id=job, models=["a", "b"], **JOB | AUDIT | DETAIL | self.ends)

    def get(self, job: str) -> None:
        self._require(job)

    def cancel(self, job: str) -> None:
        self._require(job)

    def cancel_gate(self, job: str) -> GateDetail:
        self.calls.append("cancel gate")
        return self.gate(job)

    def cancel_audit(self, job: str) -> AuditDetail:
        self.calls.append("cancel audit")
        return self.audit(job)

    def _require(self, job: str, *known: str) -> None:
        if not job.startswith(known):
            error = ServiceError("id", f"there is no job {job!r}", "List them")
            error.status = 404
            raise error

    def watch_gate(self, job: str) -> Iterator[Gate]:
        yield Gate(id=job, **JOB | GATE | {"state": State.RUNNING, "verdict": None})
        yield Gate(id=job, **JOB | GATE | self.ends)

    def watch_audit(self, job: str) -> Iterator[Audit]:
        yield Audit(id=job, **JOB | AUDIT | {"state": State.RUNNING, "verdicts": None})
        yield Audit(id=job, **JOB | AUDIT | self.ends)

    def evidence(self, job: str) -> bytes:
        if self.fails is not None:
            raise self.fails
        return self.packed

    def leaderboard(self, job: str, name: str) -> bytes:
        if self.fails is not None and name == "points.parquet":
            raise self.fails
        if name not in self.boards:
            error = ServiceError("name", f"there is no {name}", "See the others")
            error.status = 404
            raise error
        return self.boards[name]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The evidence of a gate that passed."""
    return archive(decided(tmp_path_factory.mktemp("gate")))


def gate(client: FakeClient, out: Path, rules: Policy | None = None) -> dict[str, Any]:
    step, submitted = (lambda *_: None), client.calls.append
    return asked.gate(client, rules or policy(), "new", "old", out, step, submitted)  # type: ignore[arg-type]


def audit(client: FakeClient, out: Path) -> dict[str, Any]:
    step, submitted = (lambda *_: None), client.calls.append
    return asked.audit(client, policy(), ["a", "b"], None, out, step, submitted)  # type: ignore[arg-type]


def left(out: Path) -> set[str]:
    """The files of a folder, but for locks."""
    return {
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and path.name != LOCK
    }


def request(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "request.json").read_text(encoding="utf-8")))


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with ZipFile(content, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return content.getvalue()


def test_a_gate_leaves_what_its_verdict_follows_from_and_it_can_be_signed(
    packed: bytes, tmp_path: Path
) -> None:
    private, public = signing_keys(tmp_path)
    client, out = FakeClient(packed), tmp_path / "out"
    document = gate(client, out)
    assert document == json.loads((out / "decision.json").read_text(encoding="utf-8"))
    assert document["verdict"] == "pass"
    with ZipFile(io.BytesIO(packed)) as file:
        assert left(out) == {"request.json", *file.namelist()}
    [key] = client.sent
    assert request(out) == {"idempotency_key": key, "server": URL, "id": "job0"}
    assert client.calls == ["job0"], "nobody was told its id"
    seal(out, load_signer(private))
    assert not verify(out, load_key(public)).problems


def test_a_folder_is_for_one_measurement(packed: bytes, tmp_path: Path) -> None:
    client = FakeClient(packed, {"leaderboard.json": b"{}"})
    for measure, name in ((gate, "decided"), (audit, "audited")):
        measure(client, tmp_path / name)
        for again in (gate, audit):
            with pytest.raises(AskedError, match=r"^out: .*measurement already\. Use another folder"):
                again(client, tmp_path / name)
    (tmp_path / "file").write_text("")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("")
    decided(tmp_path / "here")  # without a service
    for name in ("file", "notes", "here"):
        with pytest.raises(AskedError, match="Use another folder"):
            gate(client, tmp_path / name)
    Results(tmp_path / "damaged").write_json("request.json", {})
    with pytest.raises(AskedError, match="no idempotency_key"):
        gate(client, tmp_path / "damaged")
    assert len(client.sent) == 2


def test_an_unfinished_folder_asks_for_the_same_job(packed: bytes, tmp_path: Path) -> None:
    client = FakeClient(packed, {"leaderboard.json": b"{}"}, fails=KeyboardInterrupt())
    for measure, out in ((gate, tmp_path / "gate"), (audit, tmp_path / "audit")):
        client.fails = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            measure(client, out)
        before = request(out)
        client.fails = None
        copy = tmp_path / f"copy of {out.name}"
        copy.mkdir()
        shutil.copy(out / "request.json", copy)
        measure(client, out)
        measure(client, copy)
        assert request(out) == request(copy) == before
    assert len(client.sent) == 2


def test_an_unfinished_folder_is_not_for_another_job(packed: bytes, tmp_path: Path) -> None:
    client = FakeClient(packed, fails=OSError())
    with pytest.raises(OSError):  # noqa: PT011 - the fake's own
        gate(client, tmp_path)
    other = policy().model_copy(update={"name": "another"})
    with pytest.raises(AskedError, match="something else that was asked for"):
        gate(client, tmp_path, other)


def test_one_command_at_a_time_in_a_folder(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.asked.BUSY_SECONDS", 0.1)
    with lease_of(tmp_path / "out"), pytest.raises(FolderBusyError, match="another command is at work"):
        gate(FakeClient(packed), tmp_path / "out")


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_a_job_without_an_end_is_submitted_anew(packed: bytes, tmp_path: Path, state: State) -> None:
    failure = (
        Failure(field="judge", problem="it is down", remedy="Start it") if state == State.FAILED else None
    )
    client = FakeClient(packed, ends={"state": state, "error": failure, "verdict": None, "verdicts": None})
    for measure in (gate, audit):
        for _ in range(2):
            with pytest.raises(ServiceError, match="it is down" if failure else "is cancelled") as ended:
                measure(client, tmp_path)
            assert ended.value.is_infrastructure
            assert not left(tmp_path)
    assert len(client.sent) == 4


def test_a_request_that_is_gone_meanwhile_is_no_trouble(packed: bytes, tmp_path: Path) -> None:
    client = FakeClient(packed, ends={"state": State.CANCELLED})
    told: Callable[..., None] = lambda *_: (tmp_path / "request.json").unlink(missing_ok=True)  # noqa: E731
    with pytest.raises(ServiceError, match="is cancelled"):
        asked.gate(client, policy(), "new", "old", tmp_path, told, told)  # type: ignore[arg-type]


def refused(packed: bytes, out: Path, rules: Policy | None = None) -> str:
    """What is said of evidence that is refused, of which nothing is left."""
    with pytest.raises(ServiceError) as error:
        gate(FakeClient(packed), out, rules)
    assert error.value.is_infrastructure
    assert left(out) == {"request.json"}
    assert not (out / ASIDE).exists()
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "../decision.json",
        "/tmp/decision.json",
        "model/../../decision.json",
        "model//spec.json",
        "model\\spec.json",
        "./spec.json",
        "other/points.parquet",
        "model/baseline/points.parquet",
        "model/part-x/points.parquet",
        "model/part-1/part-2/points.parquet",
        "part-1/points.parquet",
        "Model/points.parquet",
        "responses.parquet",
        "model/parts/responses_0f.parquet",
        "attestation.json",
        "request.json",
        "model/.lock",
        "model/",
        "decision.json\n",
        "spec.json\x00.txt/..",
        "\x1b[31mspec.json",
    ],
)
def test_files_that_no_evidence_has_are_refused(packed: bytes, tmp_path: Path, name: str) -> None:
    content = io.BytesIO(packed)
    with ZipFile(content, "a") as file:
        file.writestr(ZipInfo("spec.json"), b"{}")
        file.filelist[-1].filename = file.filelist[-1].orig_filename = name
    message = refused(content.getvalue(), tmp_path / "out")
    # What is after a null is not the name's, which then differs from the one beside the content.
    assert ("damaged" if "\x00" in name else "no evidence has") in message
    assert "\x1b" not in message
    assert left(tmp_path) == {"out/request.json"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_are_no_evidence_are_refused(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = io.BytesIO(packed)
    with ZipFile(twice, "a") as file:
        file.writestr("decision.json", b"{}")
    assert "a file twice" in refused(twice.getvalue(), tmp_path / "twice")
    other = io.BytesIO()
    with ZipFile(other, "w", ZIP_BZIP2) as file:
        file.writestr("decision.json", b"{}")
    assert "packed in a way of its own" in refused(other.getvalue(), tmp_path / "other")
    middle = bytearray(packed)
    middle[len(middle) // 2] ^= 1
    for number, damaged in enumerate((b"", b"no zip", packed[:-30], bytes(middle))):
        assert "damaged" in refused(damaged, tmp_path / f"damaged {number}")
    for name, bound in (("MOST_ENTRIES", 3), ("MOST_BYTES", 10_000)):
        with monkeypatch.context() as patch:
            patch.setattr(f"services.gate.evidence.{name}", bound)
            assert "it has more than" in refused(packed, tmp_path / name)


def test_a_file_that_unfolds_to_more_than_it_says_is_cut_off(tmp_path: Path) -> None:
    content = io.BytesIO()
    with ZipFile(content, "w", ZIP_DEFLATED) as file:
        file.writestr("decision.md", b"0" * 2**24)
        file.filelist[0].file_size = 10
    with pytest.raises(EvidenceError, match="damaged"):
        unpack(content.getvalue(), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10


def test_a_link_in_a_zip_is_none_once_it_is_unpacked(tmp_path: Path) -> None:
    link, content = ZipInfo("junit.xml"), io.BytesIO()
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with ZipFile(content, "w") as file:
        file.writestr(link, "/etc/hostname")
    unpack(content.getvalue(), tmp_path)
    assert not (tmp_path / "junit.xml").is_symlink()


def test_a_verdict_has_to_follow_from_the_points(tmp_path: Path) -> None:
    """The points of a model that fails, beside a decision that says otherwise."""
    folder = decided(tmp_path / "gate")
    shutil.rmtree(folder / "model")
    measured(folder / "model", "new", edge=0.1)
    assert "says pass, and the points fail" in refused(archive(folder), tmp_path / "verdict")
    decide_again(folder)
    findings = json.loads((folder / "decision.json").read_text(encoding="utf-8"))["findings"]
    decide_again(folder, findings=findings[:1])
    assert "1 findings" in refused(archive(folder), tmp_path / "findings")
    decide_again(folder)
    assert gate(FakeClient(archive(folder)), tmp_path / "failed")["verdict"] == "fail"


def test_evidence_that_lacks_something_is_refused(tmp_path: Path) -> None:
    whole = decided(tmp_path / "gate")
    for number, name in enumerate(
        ("decision.json", "environment.json", "model/spec.json", "model", "baseline")
    ):
        folder = shutil.copytree(whole, tmp_path / f"without {number}")
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        refused(archive(folder), tmp_path / f"out {number}")


@pytest.mark.parametrize(
    "changes",
    [
        {"look": None},
        {"look": {"number": "one"}},
        {"models": []},
        {"models": {"model": "new"}},
        {"inputs": {}},
        {"policy": {}},
        {"findings": None},
        {"findings": [None] * 3},
        {"verdict": {}},
    ],
)
def test_a_document_that_is_none_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = decided(tmp_path / "gate")
    decision = json.loads((folder / "decision.json").read_text(encoding="utf-8")) | changes
    Results(folder).write_json("decision.json", decision)
    refused(archive(folder), tmp_path / "out")


def test_a_decision_is_by_the_policy_that_was_asked_for(packed: bytes, tmp_path: Path) -> None:
    ours = policy()
    stricter = ours.rules[0].model_copy(update={"at_most": 10.0})
    for number, changes in enumerate(
        (
            {"name": "another"},
            {"rules": ours.rules[1:]},
            {"rules": (stricter, *ours.rules[1:])},
            {"samples": ours.samples.model_copy(update={"prompts": 1_000})},
            {"looks": 2},
            {"landscape": ours.landscape | {"prompts": [{"limit": 20}, {"source": "benign"}]}},
        )
    ):
        rules = ours.model_copy(update=changes)
        assert "by another policy" in refused(packed, tmp_path / f"{number}", rules)


def test_a_service_calls_prompts_by_names_of_its_own() -> None:
    def of(source: str, **more: Any) -> Policy:
        rule = {"measure": "asr_at_origin", "at_most": 20, "prompts": source}
        landscape = {"prompts": [{"source": "benign"}, {"source": source}], **more}
        return Policy.model_validate({"name": "made up", "landscape": landscape, "rules": [rule]})

    assert asked.is_by(of("mine.txt"), of("/srv/models/mine.txt", resources={"workers": 7}))
    elsewhere = of("/srv/models/mine.txt")
    rule = elsewhere.rules[0].model_copy(update={"prompts": "benign"})
    assert not asked.is_by(of("mine.txt"), elsewhere.model_copy(update={"rules": (rule,)}))


def test_other_files_are_not_signed_with_a_gate_s(packed: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Results(out).write_json("request.json", {"idempotency_key": "1"})
    for name in ("model/responses.parquet", "log.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"")
        with pytest.raises(AskedError, match=f"{name}.*Take it away"):
            gate(FakeClient(packed), out)
        assert not (out / "decision.json").exists()
        (out / name).unlink()
    (out / ASIDE).mkdir()
    (out / ASIDE / "decision.json").write_bytes(b"of a process that was killed")
    gate(FakeClient(packed), out)
    assert not (out / ASIDE).exists()


def test_a_decision_is_there_once_all_is(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, replace = FakeClient(packed), Path.replace
    for stopped_at in ("points.parquet", "decision.json"):

        def full(path: Path, target: Path, at: str = stopped_at) -> Path:
            if target.name == at:
                raise OSError("No space left on device")
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(OSError, match="No space"):
                gate(client, tmp_path)
        assert not (tmp_path / "decision.json").exists()
        assert not (tmp_path / ASIDE).exists()
    gate(client, tmp_path)
    assert len(client.sent) == 1


def test_a_leaderboard_is_there_once_all_is(tmp_path: Path) -> None:
    board = {"checkpoints": [], "engine_starts": 1}
    files = {
        "leaderboard.csv": b"a,b",
        "points.parquet": b"PAR1",
        "leaderboard.json": json.dumps(board).encode(),
    }
    client = FakeClient(boards=files, fails=ServiceError("server", "it does not answer", "Start it"))
    with pytest.raises(ServiceError, match="does not answer"):
        audit(client, tmp_path)
    assert left(tmp_path) == {"request.json", "leaderboard.csv"}
    client.fails = None
    assert audit(client, tmp_path) == board
    assert left(tmp_path) == {"request.json", *files}
    assert (tmp_path / "points.parquet").read_bytes() == b"PAR1"
    assert len(client.sent) == 1


# The command line


Commands = Callable[..., Any]


@pytest.fixture
def client(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """The service that commands ask."""
    row = {"verdict": "pass", "error": None}
    fake = FakeClient(packed, {"leaderboard.json": json.dumps({"checkpoints": [row]}).encode()})

    def connected(server: str, key: str | None) -> FakeClient:
        http_options(server, key)
        fake.server = server
        return fake

    monkeypatch.setattr("services.client.Client", connected)
    monkeypatch.setattr("services.cli.jobs.Client", connected)
    monkeypatch.delenv("VISAGE_API_KEY", raising=False)
    monkeypatch.delenv("VISAGE_SIGNING_KEY", raising=False)
    return fake


@pytest.fixture
def ask(client: FakeClient, here: Visage, tmp_path: Path) -> Commands:
    """`visage gate` or `visage audit` of that service, into the folder `out`."""
    file = tmp_path / "policy.json"
    file.write_text(policy().model_dump_json(), encoding="utf-8")

    def run(command: str, *more: object, server: str = URL) -> Any:
        options = ("--policy", file, "--baseline", "old", "--server", server, "--out", tmp_path / "out")
        return here(command, "new", *options, "--json", *more)

    return run


def test_the_command_line_prints_the_id_and_signs(ask: Commands, tmp_path: Path) -> None:
    private, public = signing_keys(tmp_path)
    done = ask("gate", "--sign", private)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "pass"
    assert f"job0 at {URL}" in done.stderr
    assert not verify(tmp_path / "out", load_key(public)).problems
    again = ask("gate")
    assert (again.returncode, "Use another folder" in again.stderr) == (3, True)


def test_what_cannot_be_checked_is_not_signed(ask: Commands, client: FakeClient, tmp_path: Path) -> None:
    private, _ = signing_keys(tmp_path)
    client.packed = zipped({"decision.json": b'{"verdict": "pass"}'})
    done = ask("gate", "--sign", private)
    assert (done.returncode, done.stdout) == (4, "")
    assert left(tmp_path / "out") == {"request.json"}


def unreadable() -> ValidationError:
    try:
        Names.model_validate({})
    except ValidationError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("command", ["gate", "audit"])
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        BadZipFile("no zip"),
        KeyError("verdict"),
        UnicodeEncodeError("ascii", "ä", 0, 1, "ordinal not in range"),
        unreadable(),
        RecursionError(),
        MemoryError(),
    ],
    ids=lambda error: error if isinstance(error, str) else type(error).__name__,
)
def test_what_nobody_has_foreseen_is_no_verdict(
    ask: Commands, client: FakeClient, command: str, error: Exception
) -> None:
    client.fails = error
    done = ask(command)
    assert (done.returncode, done.stdout) == (4, "")
    assert type(error).__name__ in done.stderr


@pytest.mark.parametrize(("command", "printed"), [("gate", "decision"), ("audit", "audit")])
def test_a_verdict_that_cannot_be_printed_is_none(
    ask: Commands, command: str, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("services.show.error", full)
    monkeypatch.setattr("services.show.fault", full)
    monkeypatch.setattr("json.dumps" if command == "audit" else "services.cli.gate.json.dumps", full)
    assert ask(command).returncode == 4
    assert ask(command, server="nowhere").returncode == 4, "nor can be told why there is none"
    monkeypatch.undo()


@pytest.mark.parametrize("command", ["gate", "audit"])
def test_a_url_or_a_key_that_is_none_is_bad_input(
    ask: Commands, here: Visage, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = ask(command, server="localhost:8420")
    assert (done.returncode, "error server: " in done.stderr) == (3, True), done.stderr
    monkeypatch.setenv("VISAGE_API_KEY", "vk_1_sec ret")
    done = ask(command)
    assert (done.returncode, "error key: " in done.stderr) == (3, True), done.stderr
    assert "sec" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert here("status", "--server", URL).returncode == 2
    monkeypatch.setenv("VISAGE_API_KEY", "vk_1_secret\n")
    assert ask(command).returncode == 0


@pytest.mark.parametrize("command", ["gate", "audit"])
def test_ctrl_c_says_that_the_job_goes_on(ask: Commands, client: FakeClient, command: str) -> None:
    client.fails = KeyboardInterrupt()
    done = ask(command)
    assert done.returncode == 130
    assert f"`visage cancel job0 --server {URL}` ends it" in done.stderr
    assert "Finished points" not in done.stderr
    client.fails = None
    assert ask(command).returncode == 0
    assert len(client.sent) == 1


def test_options_for_what_is_measured_here_are_refused(ask: Commands) -> None:
    done = ask("audit", "--max-concurrent", 2)
    assert (done.returncode, "error max-concurrent: " in done.stderr) == (3, True), done.stderr
    assert ask("gate", "--address", "auto").returncode == 3


def test_a_job_of_any_kind_is_found_followed_and_cancelled(client: FakeClient, here: Visage) -> None:
    for job, shown in (("job0", ("1 of 1", "new", "pass")), ("audit0", ("2 of 2", "1 pass, 1 broken"))):
        for command in ("status", "watch", "cancel"):
            done = here(command, job, "--server", URL)
            assert done.returncode == 0, done.stderr
            assert all(text in done.stdout for text in (job, "made up", "10 of 10", *shown)), done.stdout
    assert client.calls == ["cancel gate", "cancel gate", "cancel audit"]
    gone = here("status", "0", "--server", URL)
    assert (gone.returncode, "there is no job" in gone.stderr) == (2, True)


@pytest.mark.parametrize("job", ["job0", "audit0"])
def test_who_watches_a_job_without_a_verdict_is_told_by_the_status(
    client: FakeClient, here: Visage, job: str
) -> None:
    failure = Failure(field="judge", problem="it is down", remedy="Start it")
    for state, error in ((State.FAILED, failure), (State.CANCELLED, None)):
        client.ends = {"state": state, "error": error, "verdict": None, "verdicts": None}
        done = here("watch", job, "--server", URL)
        assert done.returncode == 1, done.stderr
        assert state in done.stdout
        assert ("it is down" in done.stdout) == (error is not None)
