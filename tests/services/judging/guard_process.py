"""Guards in a process of their own, one after another, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from services.judging import guard
from visage_core.judges.templates import TEMPLATES, Template, custom_template
from visage_core.sources import TensorSource
from visage_core.spec import EngineSpec

# Two words: more than one token, so the judge writes them.
WRITTEN = replace(custom_template("{prompt} {response} ?", ["Yes Yes"], ["No No"]), max_tokens=2)
Item = tuple[str, str]


def verdicts(
    folder: Path, batches: dict[str, list[list[Item]]], max_model_len: int = 512
) -> dict[str, list[list[bool | None]]]:
    """For each template's name the verdicts of batches of items."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, "-m", "tests.services.judging.guard_process", str(folder), file.name]
        command.append(str(max_model_len))
        root = Path(__file__).parents[3]
        subprocess.run(command, input=json.dumps(batches), text=True, check=True, cwd=root)
        return dict(json.load(file))


def template_of(name: str) -> Template:
    return WRITTEN if name == "written" else TEMPLATES[name]


def _judge(folder: Path, batches: dict[str, list[list[Item]]], verdicts: Path, max_model_len: int) -> None:
    engine = EngineSpec(dtype="float32", max_model_len=max_model_len, max_num_seqs=8, kv_cache_gib=1)
    # All templates share an engine, which takes longer to start than all of them to judge.
    shared = guard._JudgeEngine(TensorSource(str(folder), "checkpoint"), engine)
    guard._JudgeEngine = lambda *_: shared  # type: ignore[assignment, misc]
    found = {}
    for name, items in batches.items():
        judge = guard.Guard(folder, template_of(name), engine)
        found[name] = [judge.judge([(prompt, response) for prompt, response in batch]) for batch in items]
    verdicts.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _judge(Path(sys.argv[1]), json.load(sys.stdin), Path(sys.argv[2]), int(sys.argv[3]))
