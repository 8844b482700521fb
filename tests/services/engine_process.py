"""A vLLM engine in a process of its own: started on a checkpoint, moved, asked. For tests."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from services.engine.engine import Engine
from visage_core.selection import Selection
from visage_core.sources import TensorSource
from visage_core.spec import EngineSpec, GenerationSpec


def answers(
    model: Path,
    prompts: list[list[int]],
    engine: EngineSpec,
    generation: GenerationSpec,
    steps: list[tuple[TensorSource, float]] | None = None,
) -> list[str]:
    """The responses of a new engine on a checkpoint, after a move where there are `steps`."""
    request = {
        "model": str(model),
        "prompts": prompts,
        "engine": engine.model_dump(),
        "generation": generation.model_dump(),
        "steps": [(asdict(source), coefficient) for source, coefficient in steps or []],
    }
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, "-m", "tests.services.engine_process", file.name]
        root = Path(__file__).parents[2]
        subprocess.run(command, input=json.dumps(request), text=True, check=True, cwd=root)
        return list(json.load(file))


def _answer(request: dict[str, object], answers: Path) -> None:
    origin = TensorSource(str(request["model"]), "checkpoint")
    engine = Engine(origin, EngineSpec.model_validate(request["engine"]))
    steps = [(_source(**source), coefficient) for source, coefficient in request["steps"]]
    engine.move(origin, steps)
    generation = GenerationSpec.model_validate(request["generation"])
    responses = engine.generate(request["prompts"], generation, [])
    answers.write_text(json.dumps([response.text for response in responses]), encoding="utf-8")


def _source(selection: dict[str, list[str]], **rest: str) -> TensorSource:
    return TensorSource(
        **rest, selection=Selection(**{name: tuple(parts) for name, parts in selection.items()})
    )


if __name__ == "__main__":
    _answer(json.load(sys.stdin), Path(sys.argv[1]))
