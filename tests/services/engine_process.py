"""A vLLM engine in a process of its own: started on a checkpoint, moved, asked. For tests."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.engine.engine import Engine
from visage_core.selection import Selection
from visage_core.sources import TensorSource
from visage_core.spec import EngineSpec, GenerationSpec

Steps = list[tuple[TensorSource, float]]


def answers(
    places: list[tuple[Path, Steps]], prompts: list[list[int]], engine: EngineSpec, generation: GenerationSpec
) -> list[list[str]]:
    """The responses at each place: a checkpoint and steps away from it. The engine starts on the first one's
    checkpoint, and moves from there."""
    request = {
        "places": [
            (str(model), [(asdict(source), coefficient) for source, coefficient in steps])
            for model, steps in places
        ],
        "prompts": prompts,
        "engine": engine.model_dump(),
        "generation": generation.model_dump(),
    }
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, "-m", "tests.services.engine_process", file.name]
        root = Path(__file__).parents[2]
        subprocess.run(command, input=json.dumps(request), text=True, check=True, cwd=root)
        return list(json.load(file))


def _answer(request: dict[str, Any], answers: Path) -> None:
    places = [
        (TensorSource(model, "checkpoint"), [(_source(**source), value) for source, value in steps])
        for model, steps in request["places"]
    ]
    engine = Engine(places[0][0], EngineSpec.model_validate(request["engine"]))
    generation = GenerationSpec.model_validate(request["generation"])
    found = []
    for origin, steps in places:
        engine.move(origin, steps)
        found.append([response.text for response in engine.generate(request["prompts"], generation, [])])
    answers.write_text(json.dumps(found), encoding="utf-8")


def _source(selection: dict[str, list[str]], **rest: str) -> TensorSource:
    return TensorSource(
        **rest, selection=Selection(**{name: tuple(parts) for name, parts in selection.items()})
    )


if __name__ == "__main__":
    _answer(json.load(sys.stdin), Path(sys.argv[1]))
