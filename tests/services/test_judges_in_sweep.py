"""Several judges in one pass: each has its own verdicts, and one that is down loses nothing."""

from __future__ import annotations

import importlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import Visage
from tests.services.judging.fake_judge import FakeJudge, fake_judge
from tests.services.judging.handmade import CHAT, by_hand, tokenizer
from tests.services.warm import ENGINE, WARM
from visage_core.judges import JUDGES

OPINION = {"text": "{prompt} {response} Is it?", "complied": ["Yes"], "refused": ["No"]}


@pytest.fixture
def endpoint() -> Iterator[FakeJudge]:
    """A fake of a hosted model: it says No to what is sorry, and Yes to all else."""
    with fake_judge() as judge:
        judge.says = lambda body: "No" if "sorry" in json.dumps(body) else "Yes"
        yield judge


@pytest.fixture
def plugin(warm: Visage) -> None:
    """An installed package with a judge, which looks for one word."""
    WARM.start()
    folder = WARM.packages
    (folder / "shortness.py").write_text("def judge(prompt, response):\n    return 'sorry' not in response\n")
    metadata = folder / "shortness-1.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shortness\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[visage.judges]\nshortness = shortness:judge\n")
    importlib.invalidate_caches()


def written(spec: dict[str, Any], file: Path) -> Path:
    file.write_text(json.dumps(spec), encoding="utf-8")
    return file


def spec_of(model: Path, judges: list[Any]) -> dict[str, Any]:
    return {
        "model": str(model),
        "axis": {"points": 3, "direction": {"seeds": [0]}},
        "prompts": [{"limit": 12}, {"kind": "choices", "limit": 4}],
        "judges": judges,
        "generation": {"max_tokens": 16},
        "engine": ENGINE,
        "coherence": "statistics",
        "resources": {"cores": 1},
    }


def test_judges_of_every_kind_in_one_pass(
    aligned: Path, endpoint: FakeJudge, plugin: None, warm: Visage, tmp_path: Path
) -> None:
    judge = by_hand(tokenizer(tmp_path / "judge", CHAT), good="guide", bad="sorry")
    model = {"kind": "model", "template": "harmbench-llama-2-13b", "model": str(judge), "max_model_len": 512}
    hosted = {"kind": "endpoint", "url": endpoint.url, "model": "hosted", "template": OPINION}
    spec = spec_of(aligned, ["keyword-paper", model, hosted, "python:shortness"])
    file = written(spec | {"keep_responses": True}, tmp_path / "spec.json")
    done = warm("run", "--spec", file, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    kept = pq.read_table(tmp_path / "out" / "responses.parquet").to_pylist()
    rows = pq.read_table(tmp_path / "out" / "points.parquet").to_pylist()
    for row in rows:
        if row["prompt_set"] == 1:
            assert (row["opinions"], row["complied"]) == ([], None)
            continue
        texts = [one["response"] for one in kept if (one["alpha"], one["prompt_set"]) == (row["alpha"], 0)]
        by_model, by_endpoint, by_plugin = row["opinions"]
        assert row["verdicts"] == [not JUDGES["keyword-paper"].refused(text) for text in texts]
        assert by_endpoint == by_plugin == ["sorry" not in text for text in texts]
        # It knows one word, and has no verdict on the rest.
        assert all(
            one is None or one is not ("sorry" in text) for one, text in zip(by_model, texts, strict=True)
        )
    origin = next(row for row in rows if row["alpha"] == 0 and row["prompt_set"] == 0)
    assert False in origin["opinions"][0], "the judge model has judged"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["landscapes"][0]
    names = ["harmbench-llama-2-13b (judge)", "custom (hosted)", "shortness"]
    assert [one["judge"] for one in summary["judges"]] == names
    assert summary["judges"][1]["visage"] == summary["judges"][2]["visage"] is not None
    costs = json.loads((tmp_path / "out" / "run.json").read_text())["judge_costs"]
    assert costs["custom (hosted)"]["requests"] == 36


def test_a_judge_that_is_down_loses_no_point(
    aligned: Path, endpoint: FakeJudge, warm: Visage, tmp_path: Path
) -> None:
    hosted = {"kind": "endpoint", "url": endpoint.url, "model": "hosted", "template": OPINION, "tries": 1}
    command = ("run", "--spec", written(spec_of(aligned, [hosted]), tmp_path / "spec.json"))
    says = endpoint.says

    def breaks_down(body: Any) -> str:
        if says(body) == "Yes":  # there is no such response at the origin, and next to no other at the ends
            time.sleep(2)  # the origin's point is written before the first of these fails
            raise RuntimeError("the service is down")
        return says(body)

    endpoint.says = breaks_down
    done = warm(*command, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    # What it has judged before is kept, in another point too.
    assert re.search(r"gave no answer to \d+ of 12 requests", " ".join(done.stderr.split()))
    assert not (tmp_path / "out" / "points.parquet").exists()
    parts = list((tmp_path / "out" / "parts").glob("points_*.parquet"))
    assert len(parts) == 1
    endpoint.says = says
    done = warm(*command, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "out" / "points.parquet").to_pylist()
    assert len(rows) == 6
    assert all(None not in row["verdicts"] for row in rows)
    assert not (tmp_path / "out" / "responses.parquet").exists()
    assert pq.read_table(tmp_path / "out" / "points.parquet")["complied"].to_pylist() != [None] * 6
