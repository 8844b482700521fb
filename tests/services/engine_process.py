"""A vLLM engine in a process of its own: started on a checkpoint, moved, asked. For tests."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.engine.engine import Engine
from visage_core.queries import Request
from visage_core.selection import Selection
from visage_core.sources import TensorSource
from visage_core.spec import EngineSpec, GenerationSpec

Steps = list[tuple[TensorSource, float]]
Place = tuple[Path, Steps]


def answers(
    walks: list[list[Place]], prompts: list[list[int]], engine: EngineSpec, generation: GenerationSpec
) -> list[list[list[str]]]:
    """The responses at each place of each walk. A place is a checkpoint and steps away from it. For each walk
    an engine is started on its first checkpoint, and moves from there."""
    request = {
        "walks": [
            [(str(model), [(asdict(source), value) for source, value in steps]) for model, steps in walk]
            for walk in walks
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
    spec = EngineSpec.model_validate(request["engine"])
    generation = GenerationSpec.model_validate(request["generation"])
    found = []
    for walk in request["walks"]:
        places = [
            (TensorSource(model, "checkpoint"), [(_source(**source), value) for source, value in steps])
            for model, steps in walk
        ]
        engine = Engine(places[0][0], spec)
        found.append([_at(engine, *place, request["prompts"], generation) for place in places])
        end(engine)
    answers.write_text(json.dumps(found), encoding="utf-8")


def _at(
    engine: Engine, origin: TensorSource, steps: Steps, prompts: list[list[int]], generation: GenerationSpec
) -> list[str]:
    engine.move(origin, steps)
    assert not engine.differences(origin, steps)
    return [
        response.text for response in engine.generate([Request(tokens) for tokens in prompts], generation, [])
    ]


def end(engine: Engine) -> None:
    """Leave the process as it was before the engine, for the next one."""
    from vllm.distributed import cleanup_dist_env_and_memory

    del engine._llm
    gc.collect()
    cleanup_dist_env_and_memory()


def _source(selection: dict[str, list[str]], **rest: str) -> TensorSource:
    return TensorSource(
        **rest, selection=Selection(**{name: tuple(parts) for name, parts in selection.items()})
    )


if __name__ == "__main__":
    _answer(json.load(sys.stdin), Path(sys.argv[1]))
