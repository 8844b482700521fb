"""Several models in one run, and `visage compare`: a real engine on the demo models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import Visage
from tests.services.warm import OPTIONS

SETTINGS = (
    "--seed",
    0,
    "--points",
    3,
    "--coherence",
    "statistics",
    "--limit",
    12,
    "--max-tokens",
    16,
    *OPTIONS,
)
SYSTEMS = ("--system", "none", "--system", "helpful-and-safe")


@pytest.fixture(scope="module")
def measured(aligned: Path, harmful: Path, warm: Visage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models under two system prompts."""
    out = tmp_path_factory.mktemp("runs") / "experiment"
    done = warm("run", "--model", aligned, "--model", harmful, *SETTINGS, *SYSTEMS, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"{harmful.name} - {aligned.name}" in done.stdout
    return out


def comparison(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "comparison.json").read_text(encoding="utf-8")))


def test_each_model_has_a_folder_and_every_system_prompt_its_landscape(
    measured: Path, aligned: Path, harmful: Path
) -> None:
    for model in (aligned, harmful):
        table = pq.read_table(measured / model.name / "points.parquet")
        assert len(table) == 3 * 2
        assert (measured / model.name / "landscape-2.png").exists()
    assert {path.name for path in measured.glob("comparison*")} == {
        f"comparison{number}.{kind}" for number in ("", "-2") for kind in ("png", "html")
    } | {"comparison.json"}


def test_a_model_finetuned_on_harmful_pairs_is_less_safe(measured: Path) -> None:
    [model] = comparison(measured)["models"]
    none, safe = (one["differences"] for one in model["landscapes"])
    assert none["asr_at_origin"]["value"] > 0
    assert none["mean_safety"]["value"] < 0
    for found in (none, safe):
        for name, apart in found.items():
            if apart is not None and apart["low"] is not None:
                assert apart["low"] <= apart["value"] <= apart["high"], name
                assert 0 <= apart["p_value"] <= 1


def test_compare_says_the_same_again(
    measured: Path, aligned: Path, harmful: Path, here: Visage, tmp_path: Path
) -> None:
    done = here("compare", measured / aligned.name, measured / harmful.name, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert comparison(tmp_path) == comparison(measured)


def test_what_was_measured_in_another_way_is_not_compared(
    measured: Path, aligned: Path, harmful: Path, here: Visage, tmp_path: Path
) -> None:
    other = shutil.copytree(measured / harmful.name, tmp_path / "other")
    spec = json.loads((other / "spec.json").read_text(encoding="utf-8"))
    (other / "spec.json").write_text(json.dumps(spec | {"judges": ["keyword-modern"]}), encoding="utf-8")
    done = here("compare", measured / aligned.name, other)
    assert done.returncode == 2
    assert '"phrases": "modern"' in done.stderr
    missing = here("compare", measured / aligned.name, tmp_path / "nothing")
    assert missing.returncode == 2
    assert "holds no landscape" in missing.stderr
