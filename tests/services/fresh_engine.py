"""Print, as JSON, the responses of a checkpoint in a vLLM engine that was started on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from services.engine.engine import Engine
from services.engine.weights import TensorSource
from visage_core.spec import EngineSpec, GenerationSpec

if __name__ == "__main__":
    folder, request = Path(sys.argv[1]), json.load(sys.stdin)
    engine = Engine(TensorSource(str(folder), endpoint=True), EngineSpec(**request["engine"]))
    responses = engine.generate(request["prompts"], GenerationSpec(**request["generation"]), [])
    Path(sys.argv[2]).write_text(json.dumps([response.text for response in responses]), encoding="utf-8")
