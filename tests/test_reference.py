"""The reference is that of the code as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def test_the_reference_is_not_older_than_the_code() -> None:
    made = runpy.run_path(str(REFERENCE / "generate.py"))["pages"]()
    there = {file.name: file.read_text(encoding="utf-8") for file in REFERENCE.glob("*.md")}
    assert there == made, "run `make reference`"
