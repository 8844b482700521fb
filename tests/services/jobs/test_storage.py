"""Results outlive the machine: what is kept on one is there on another, whole and each point once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from services.jobs.storage import Storage, StorageError
from tests.conftest import free_port
from tests.services.jobs.test_states import together
from tests.services.served import until
from tests.visage_core.test_results import PROMPTS, SPEC, measured
from visage_core.grid import ORIGIN, Point
from visage_core.results import Results

JOB, OTHER = "0" * 32, "1" * 32
SOME = [ORIGIN, Point(0, 0.25), Point(0, -0.25), Point(0, 0.5)]
Machine = Callable[[str], Storage]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, by the options of a URL that lead to it. It has a process of its own: vLLM
    looks through all modules of its process when it starts, and stumbles over Flask's."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: server.poll() is not None or _is_made(f"http://127.0.0.1:{port}/bucket"))
            assert server.poll() is None, "the server did not start"
            yield f"endpoint_override=http://127.0.0.1:{port}&scheme=http"
        finally:
            server.terminate()


def _is_made(bucket: str) -> bool:
    try:
        return httpx.put(bucket, trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(s3: str, tmp_path: Path, credentials: None) -> Machine:
    """A machine by its name: its own folder, and a bucket that it shares with the others of the test."""
    return lambda name: Storage(tmp_path / name, f"s3://bucket/{tmp_path.name}/results?{s3}")


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, without names that begin with a dot."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if "/." not in f"/{name}"}


def measure(folder: Path, points: list[Point], responses: bool = True) -> Results:
    """Some more finished points."""
    results = Results(folder)
    for point in points:
        results.add(SPEC, [measured(point, 3)], [PROMPTS] if responses else None)
    return results


def places(folder: Path) -> list[Point]:
    """The points of a folder, as often as they are there."""
    rows = Results(folder).points().select(["seed", "alpha", "beta"]).to_pylist()
    return [Point(**row) for row in rows]


def expect(folder: Path, points: list[Point]) -> None:
    """Just these points, each once, with its responses."""
    found = places(folder)
    assert len(found) == len(points)
    assert set(found) == set(points)


# In a folder alone


def test_without_a_bucket_results_lie_in_their_folder(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "a" / "b")
    folder = storage.fetch(JOB)
    assert folder == tmp_path / "a" / "b" / JOB
    measure(folder, SOME)
    before = files(folder)
    storage.keep(JOB)
    assert storage.fetch(JOB) == folder
    assert files(folder) == before


def test_results_are_removed_from_their_folder(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for job in (JOB, OTHER):
        measure(storage.fetch(job), SOME[:1])
    storage.remove(JOB)
    assert [path.name for path in tmp_path.iterdir()] == [OTHER]
    storage.remove(JOB)  # nothing is left to do
    assert files(storage.fetch(JOB)) == {}


# In a bucket


def test_another_machine_gets_the_same_files(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    folder = here.fetch(JOB)
    measure(folder, SOME).write_json("spec.json", {"model": "m"})
    here.keep(JOB)
    found = there.fetch(JOB)
    assert found != folder
    assert files(found) == files(folder)
    assert len(files(found)) == 2 * len(SOME) + 1
    expect(found, SOME)
    assert Results(found).read_json("spec.json") == {"model": "m"}


def test_a_job_that_has_nothing_yet(machine: Machine) -> None:
    storage = machine("here")
    storage.keep(JOB)
    assert files(storage.fetch(JOB)) == {}
    assert places(storage.fetch(JOB)) == []
    storage.remove(JOB)


def test_what_comes_later_is_fetched_too(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    for number in range(1, 4):
        measure(here.fetch(JOB), [SOME[number]])
        here.keep(JOB)
        expect(there.fetch(JOB), SOME[1 : number + 1])


def test_another_machine_goes_on_with_it(machine: Machine) -> None:
    """And the first one, when it gets the job back."""
    here, there = machine("here"), machine("there")
    measure(here.fetch(JOB), SOME[:2])
    here.keep(JOB)
    measure(there.fetch(JOB), SOME[2:3]).write_json("run.json", {"tokens": 1})
    there.keep(JOB)
    measure(here.fetch(JOB), SOME[3:]).merge()
    here.keep(JOB)
    expect(here.fetch(JOB), SOME)
    expect(there.fetch(JOB), SOME)
    expect(machine("a third").fetch(JOB), SOME)


def test_after_a_merge_the_parts_are_gone_everywhere(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    results = measure(here.fetch(JOB), SOME)
    here.keep(JOB)
    expect(there.fetch(JOB), SOME)
    results.merge()
    here.keep(JOB)
    for storage in (there, machine("a third")):
        folder = storage.fetch(JOB)
        assert files(folder).keys() == {"points.parquet", "responses.parquet"}
        expect(folder, SOME)
        assert pq.read_table(folder / "responses.parquet").num_rows == len(SOME) * len(PROMPTS)


def test_a_document_that_changed_and_kept_its_size_is_fetched_anew(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    results = Results(here.fetch(JOB))
    for value in ("one", "two"):
        results.write_json("summary.json", {"value": value})
        here.keep(JOB)
        assert Results(there.fetch(JOB)).read_json("summary.json") == {"value": value}


def test_what_is_unfinished_stays_at_home(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    folder = here.fetch(JOB)
    measure(folder, SOME[:1])
    for name in (".lock", ".merged-parts/points_0.parquet", "parts/.points_1.parquet.123"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"PAR1")
    here.keep(JOB)
    found = there.fetch(JOB)
    assert not [path for path in found.rglob("*") if path.name.startswith(".")]
    expect(found, SOME[:1])
    here.tidy(JOB)
    assert [path.name for path in folder.rglob(".*")] == [".lock"]
    expect(folder, SOME[:1])


def test_results_are_removed_everywhere_and_no_others(machine: Machine) -> None:
    here = machine("here")
    for job in (JOB, OTHER):
        measure(here.fetch(job), SOME[:1])
        here.keep(job)
    here.remove(JOB)
    here.remove(JOB)  # nothing is left to do
    there = machine("there")
    assert files(there.fetch(JOB)) == files(here.fetch(JOB)) == {}
    expect(there.fetch(OTHER), SOME[:1])


def test_a_gates_landscapes_are_kept_each_in_its_folder(machine: Machine) -> None:
    """One is merged while the other is under way, and one of its stages lies deeper."""
    here, there = machine("here"), machine("there")
    folder = here.fetch(JOB)
    whole = measure(folder / "model", SOME)
    measure(folder / "model" / "part-1", SOME[:1]).merge()
    measure(folder / "baseline", SOME[:2])
    here.keep(JOB)
    expect(there.fetch(JOB) / "model", SOME)
    whole.merge()
    here.keep(JOB)
    for storage in (there, machine("a third")):
        found = storage.fetch(JOB)
        assert files(found) == files(folder)
        expect(found / "model", SOME)
        expect(found / "model" / "part-1", SOME[:1])
        expect(found / "baseline", SOME[:2])
    measure(there.fetch(JOB) / "baseline", SOME[2:]).merge()
    there.keep(JOB)
    expect(here.fetch(JOB) / "baseline", SOME)
    here.remove(JOB)
    assert files(machine("a fourth").fetch(JOB)) == {}


def test_a_table_that_was_made_anew_and_kept_its_size_is_fetched_anew(machine: Machine) -> None:
    """A gate makes one at each look."""
    here, there = machine("here"), machine("there")
    folder = here.fetch(JOB) / "model"
    sizes = set()
    for point in (Point(0, 0.25), Point(0, 0.5)):
        shutil.rmtree(folder, ignore_errors=True)
        measure(folder, [point], responses=False).merge()
        sizes.add((folder / "points.parquet").stat().st_size)
        time.sleep(1)  # buckets know times to the second only
        here.keep(JOB)
        expect(there.fetch(JOB) / "model", [point])
        time.sleep(1)
    assert len(sizes) == 1, "the tables differ in their size: nothing was tested"


def test_a_report_that_changed_and_kept_its_size_is_fetched_anew(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    folder = here.fetch(JOB)
    folder.mkdir()
    for text in ("pass", "fail"):
        for name in ("decision.md", "decision.html", "junit.xml"):
            (folder / name).write_text(text)
        here.keep(JOB)
        assert set(files(there.fetch(JOB)).values()) == {text.encode()}


class PowerCut(Exception):  # noqa: N818 - it ends a test's copying, nothing else
    """The machine is gone."""


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the machine go down after so many copied files."""
    copy = fs.copy_files

    def cut(count: int) -> None:
        left = [count]

        def copy_files(*arguments: Any, **options: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise PowerCut
            copy(*arguments, **options)

        monkeypatch.setattr("services.jobs.storage.fs.copy_files", copy_files)

    return cut


@pytest.mark.parametrize("count", range(5))
def test_points_that_are_there_have_their_responses(
    machine: Machine, cut_after: Callable[[int], None], count: int
) -> None:
    """Whenever the machine goes down while it keeps them."""
    here = machine("here")
    measure(here.fetch(JOB), SOME[:2])
    cut_after(count)
    if count < 4:
        with pytest.raises(PowerCut):
            here.keep(JOB)
    else:
        here.keep(JOB)
    cut_after(1000)
    folder = machine("there").fetch(JOB)
    points = places(folder)
    assert len(points) == max(0, count - 2)
    parts = (folder / "parts").glob("responses_*.parquet")
    answered = [row["alpha"] for part in parts for row in pq.read_table(part).to_pylist()]
    for point in points:
        assert answered.count(point.alpha) == len(PROMPTS)


@pytest.mark.parametrize("count", range(4))
def test_a_machine_that_goes_down_while_it_keeps_a_merge_loses_no_point(
    machine: Machine, cut_after: Callable[[int], None], count: int
) -> None:
    here = machine("here")
    results = measure(here.fetch(JOB), SOME)
    here.keep(JOB)
    results.merge()
    results.write_json("summary.json", {})
    cut_after(count)
    if count < 3:
        with pytest.raises(PowerCut):
            here.keep(JOB)
    else:
        here.keep(JOB)
    cut_after(1000)
    expect(machine("there").fetch(JOB), SOME)


@pytest.mark.parametrize("count", range(3))
def test_a_fetch_that_is_cut_is_begun_again(
    machine: Machine, cut_after: Callable[[int], None], count: int
) -> None:
    here, there = machine("here"), machine("there")
    measure(here.fetch(JOB), SOME).merge()
    here.keep(JOB)
    cut_after(count)
    if count < 2:
        with pytest.raises(PowerCut):
            there.fetch(JOB)
    cut_after(1000)
    expect(there.fetch(JOB), SOME)


def test_many_may_fetch_a_job_at_the_same_time(machine: Machine) -> None:
    """As requests for its results do."""
    here, there = machine("here"), machine("there")
    measure(here.fetch(JOB), SOME).merge()
    here.keep(JOB)
    for folder in together(8, lambda _: there.fetch(JOB)):
        expect(folder, SOME)


def test_a_merge_in_the_middle_of_a_fetch_is_no_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts that were listed are gone when they are asked for."""
    here, there = machine("here"), machine("there")
    results = measure(here.fetch(JOB), SOME)
    here.keep(JOB)
    listing = there._stored

    def stored(job: str) -> dict[str, fs.FileInfo]:
        found = listing(job)
        if (results.folder / "parts").exists():
            results.merge()
            here.keep(job)
        return found

    monkeypatch.setattr(there, "_stored", stored)
    expect(there.fetch(JOB), SOME)


def test_points_that_could_not_be_kept_yet_outlive_a_fetch(machine: Machine) -> None:
    """A machine measures on in a folder that was merged before, and dies before it keeps that: when it has
    the job again, the new points are still there."""
    here = machine("here")
    measure(here.fetch(JOB), SOME[:2]).merge()
    here.keep(JOB)
    measure(here.fetch(JOB), SOME[2:])
    expect(here.fetch(JOB), SOME)


# What cannot be used


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "relative/path",
        "ftp://host/path",
        "https://host/path",
        "nosuch://bucket/prefix",
        "s3://bucket/prefix?nosuch=1",
        "s3://",
    ],
)
def test_what_is_no_url_of_a_bucket(tmp_path: Path, credentials: None, url: str) -> None:
    with pytest.raises(StorageError, match=r"it cannot be used: \w") as refused:
        Storage(tmp_path, url)
    assert refused.value.field == "storage-url"


def test_a_bucket_that_is_not_there_is_told_at_the_start(tmp_path: Path, s3: str, credentials: None) -> None:
    """Not when the first job's results are to be kept."""
    with pytest.raises(StorageError):
        Storage(tmp_path, f"s3://nosuch/prefix?{s3}")


def test_an_error_shows_no_credentials(tmp_path: Path) -> None:
    for url in ("s3://key:hunter22@buc ket/prefix", "s3://key:hunter22@bucket/prefix?nosuch=1"):
        with pytest.raises(StorageError) as refused:
            Storage(tmp_path, url)
        assert "hunter22" not in str(refused.value)


def test_a_file_is_fetched_without_the_others(machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    for name in ("leaderboard.csv", "checkpoints/a/decision.html"):
        path = one.fetch(JOB) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    one.keep(JOB)
    for text in ("before", "after!"):
        (one.fetch(JOB) / "leaderboard.csv").write_text(text)
        one.keep(JOB)
        file = other.file(JOB, "leaderboard.csv")
        assert files(file.parent) == {"leaderboard.csv": text.encode()}
    assert not other.file(JOB, "leaderboard.png").exists()
    assert not other.file(OTHER, "leaderboard.csv").exists()


def test_a_document_that_is_there_is_not_sent_again(machine: Machine) -> None:
    """Of an audit there are thousands, and it is kept every second."""
    one, other = machine("one"), machine("other")
    here = one.fetch(JOB)
    here.mkdir(parents=True)
    for name in ("a.json", "b.json"):
        (here / name).write_text("mine")
    one.keep(JOB)
    there = other.fetch(JOB)
    for name in ("a.json", "b.json"):
        (there / name).write_text("sent")
    other.keep(JOB)  # so that it can be seen what is sent after that
    (here / "b.json").write_text("more")
    one.keep(JOB)
    assert files(machine("third").fetch(JOB)) == {"a.json": b"sent", "b.json": b"more"}
