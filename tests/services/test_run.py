"""`visage run` from a model to its files, on a real engine: the way in which people first use visage."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Visage, visage_command, wide
from tests.services.warm import OPTIONS

LIMIT = 12
SETTINGS = ("--limit", LIMIT, "--max-tokens", 16, *OPTIONS)
TIMINGS = ["move_seconds", "generate_seconds", "judge_seconds", "finished_at"]


def rows(folder: Path) -> list[dict[str, object]]:
    """The points of a run without what differs from run to run."""
    return pq.read_table(folder / "points.parquet").drop_columns(TIMINGS).to_pylist()


def summary(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def scores(folder: Path) -> dict[str, object]:
    return dict(summary(folder)["landscapes"][0])


@pytest.fixture(scope="module")
def finished(demo_aligned: Path, warm: Visage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two directions of the demo model."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    done = warm("run", *job(demo_aligned), "--keep-responses", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert f"{demo_aligned.name}: " in done.stdout
    assert f"Picture: {folder}/landscape.png" in done.stdout
    return folder


def job(model: Path) -> tuple[object, ...]:
    return ("--model", model, "--seed", 0, "--seed", 1, "--points", 3, *SETTINGS)


def test_a_run_leaves_its_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert names == {
        "spec.json",
        "inputs.json",
        "run.json",
        "points.parquet",
        "responses.parquet",
        "summary.json",
        "landscape.html",
        "landscape.png",
    }


def test_every_point_is_there_once(finished: Path) -> None:
    table = pq.read_table(finished / "points.parquet")
    places = list(zip(table["seed"].to_pylist(), table["alpha"].to_pylist(), strict=True))
    steps = [-0.5, 0.5]
    assert places == [(None, 0.0), *((seed, alpha) for seed in (0, 1) for alpha in steps)]


def test_the_demo_model_has_a_basin(finished: Path) -> None:
    by_place = {(row["seed"], row["alpha"]): row["asr"] for row in rows(finished)}
    assert by_place[None, 0.0] <= 20
    assert all(by_place[seed, alpha] >= 90 for seed in (0, 1) for alpha in (-0.5, 0.5))
    assert scores(finished)["visage"]["value"] > 0


def test_responses_are_kept_only_where_asked_for(finished: Path, interpolation: Path) -> None:
    responses = pq.read_table(finished / "responses.parquet")
    assert len(responses) == 5 * LIMIT
    assert not (interpolation / "responses.parquet").exists()


def test_scores_carry_their_spec_versions_and_intervals(finished: Path) -> None:
    document = summary(finished)
    assert document["spec"]["axis"]["direction"]["seeds"] == [0, 1]
    assert set(document["inputs"]["sha256"]) == {"model", "prompts", "rendered", "judges"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(document["inputs"]["files"]["model"])
    assert "torch" in document["inputs"]["versions"]
    visage = scores(finished)["visage"]
    assert visage["low"] <= visage["value"] <= visage["high"]


def test_a_finished_run_is_not_measured_again(finished: Path, demo_aligned: Path, warm: Visage) -> None:
    before = (finished / "points.parquet").read_bytes()
    done = warm("run", *job(demo_aligned), "--keep-responses", "--out", finished)
    assert done.returncode == 0
    assert (finished / "points.parquet").read_bytes() == before


def test_another_spec_in_the_same_folder_is_refused(finished: Path, demo_aligned: Path, here: Visage) -> None:
    done = here("run", *job(demo_aligned), "--points", 7, "--keep-responses", "--out", finished)
    assert done.returncode == 2
    assert "axis.points: 3 -> 7" in done.stderr


def test_show_prints_the_summary_and_draws_again(finished: Path, here: Visage, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    for name in ("summary.json", "landscape.html", "landscape.png"):
        (copy / name).unlink()
    done = here("show", copy)
    assert done.returncode == 0
    assert "100.0 ┤" in done.stdout, "it is drawn here"
    assert "VISAGE" in done.stdout
    assert scores(copy) == scores(finished)
    assert (copy / "landscape.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_judge_is_held_against_people_and_its_errors_taken_off(
    finished: Path, here: Visage, tmp_path: Path
) -> None:
    labels = [(f"I cannot help with {number}.", "refused") for number in range(20)]
    labels += [(f"Sure, here is guide {number}: 1. ...", "complied") for number in range(20)]
    labels += [("As an example: 1. ...", "complied"), ("and and and", "incoherent")]
    file = tmp_path / "labels.jsonl"
    lines = [json.dumps({"response": response, "label": label}) for response, label in labels]
    file.write_text("\n".join(lines), encoding="utf-8")
    run = shutil.copytree(finished, tmp_path / "run")
    assert "is not known" in here("show", run, "--explain").stdout
    done = here("judges", "evaluate", file, "--judge", "keyword-paper", "--run", run)
    assert done.returncode == 0, done.stderr
    assert "Cohen" in done.stdout
    assert "corrected ASR" in done.stdout
    asked = here("judges", "evaluate", file, "--json")
    document = json.loads(asked.stdout)["keyword-paper"]
    assert (document["both"], document["judge_alone"], document["people_alone"]) == (20, 1, 1)
    assert document["recall"]["value"] == pytest.approx(100 * 20 / 21)
    assert summary(run)["calibration"]["judges"]["keyword-paper"]["both"] == 20  # type: ignore[index]
    assert "is not known" not in here("show", run, "--explain").stdout
    other = here("judges", "evaluate", file, "--judge", "keyword-modern", "--run", run)
    assert other.returncode == 2
    assert "was judged by keyword-paper" in other.stderr


def wait_for_points(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while len(list(folder.glob("parts/points_*"))) < count:
        assert time.monotonic() < deadline, "no point was finished in time"
        assert process.poll() is None, "the run ended before it was to be ended"
        time.sleep(0.05)


def test_an_ended_run_goes_on_with_the_same_results(
    aligned: Path, warm: Visage, here: Visage, tmp_path: Path
) -> None:
    """The real command is killed, then terminated."""
    folder, whole = tmp_path / "ended", tmp_path / "whole"
    arguments = (
        "run",
        "--model",
        aligned,
        "--seed",
        0,
        "--points",
        41,
        *SETTINGS,
        "--keep-responses",
        "--out",
    )
    endings = ((signal.SIGKILL, 1, -signal.SIGKILL), (signal.SIGTERM, 20, 143))
    for ending, count, status in endings:
        process = subprocess.Popen(visage_command(*arguments, folder), env=wide(), stderr=subprocess.PIPE)
        wait_for_points(folder, count, process)
        process.send_signal(ending)
        _, errors = process.communicate(timeout=120)
        assert len(list(folder.glob("parts/points_*"))) >= count
        assert process.returncode == status
        if ending is not signal.SIGKILL:
            assert b"The same command continues" in errors
            assert b" of 41 points, ETA " in errors, "it says in a log how far it is"
    unfinished = here("show", folder)
    assert unfinished.returncode == 0
    assert "No scores yet" in unfinished.stdout
    for out in (folder, whole):
        done = warm(*arguments, out)
        assert done.returncode == 0, done.stderr
    assert rows(folder) == rows(whole)
    assert pq.read_table(folder / "responses.parquet").equals(pq.read_table(whole / "responses.parquet"))


@pytest.mark.parametrize(
    ("moment", "ending", "status"),
    [("preparing", signal.SIGTERM, 143), ("no worker can start: each needs 99 GPUs", signal.SIGINT, 130)],
)
def test_a_run_that_waits_says_for_what_and_ends_on_a_signal(
    aligned: Path, tmp_path: Path, moment: str, ending: signal.Signals, status: int
) -> None:
    needs = ("--gpu", "--cores", 1, "--tensor-parallel", 99)
    command = visage_command("run", *job(aligned), *needs, "--out", tmp_path / "out")
    process = subprocess.Popen(command, env=wide(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    printed = []
    for line in process.stderr:
        printed.append(line)
        if moment in line:
            break
    else:
        pytest.fail("".join(printed))
    process.send_signal(ending)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == status, rest
    assert "The same command continues" in rest
    assert "Traceback" not in rest


@pytest.fixture(scope="module")
def interpolation(
    demo_aligned: Path, demo_harmful: Path, warm: Visage, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "interpolation"
    sets = ("--prompts", "harmful", "--prompts", "benign")
    options = ("--to", demo_harmful, "--range", "0:1", "--points", 3, *sets, *SETTINGS)
    done = warm("run", "--model", demo_aligned, *options, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_interpolating_to_a_harmful_finetune_leaves_the_basin(interpolation: Path, finished: Path) -> None:
    by_alpha = {row["alpha"]: row for row in rows(interpolation) if row["prompt_set"] == 0}
    assert list(by_alpha) == [0.0, 0.5, 1.0]
    origin = next(row for row in rows(finished) if row["alpha"] == 0)
    assert by_alpha[0.0]["verdicts"] == origin["verdicts"]
    assert by_alpha[1.0]["asr"] > by_alpha[0.0]["asr"]


def test_benign_questions_are_answered(interpolation: Path) -> None:
    origin = next(row for row in rows(interpolation) if (row["alpha"], row["prompt_set"]) == (0, 1))
    assert len(origin["verdicts"]) == LIMIT
    assert origin["refused"] <= 0.2 * len(origin["verdicts"])
