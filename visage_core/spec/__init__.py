"""`LandscapeSpec`: the one description of a landscape job, as JSON or YAML."""

from visage_core.spec.axes import (
    AdapterDirection,
    Axis,
    CombinationDirection,
    DifferenceDirection,
    FileDirection,
    InterpolationDirection,
    Norm,
    RandomDirection,
    SecondAxis,
    kind_of,
)
from visage_core.spec.judges import (
    EndpointJudgeSpec,
    JudgeSpec,
    KeywordJudgeSpec,
    ModelJudgeSpec,
    PythonJudgeSpec,
)
from visage_core.spec.landscape import EngineSpec, GenerationSpec, LandscapeSpec, ResourcesSpec
from visage_core.spec.part import Part, SpecError
from visage_core.spec.prompts import LONGEST_ATTACK, REQUEST, AskSpec, ChoiceSpec, PromptSpec, TextSpec
from visage_core.spec.reading import (
    differences,
    field_path,
    load_spec,
    parse_experiment,
    parse_spec,
    read_spec,
    spec_error,
)

# fmt: off
__all__ = [
    "LONGEST_ATTACK", "REQUEST", "AdapterDirection", "AskSpec", "Axis", "ChoiceSpec",
    "CombinationDirection", "DifferenceDirection", "EndpointJudgeSpec", "EngineSpec", "FileDirection",
    "GenerationSpec", "InterpolationDirection", "JudgeSpec", "KeywordJudgeSpec", "LandscapeSpec",
    "ModelJudgeSpec", "Norm", "Part", "PromptSpec", "PythonJudgeSpec", "RandomDirection", "ResourcesSpec",
    "SecondAxis", "SpecError", "TextSpec", "differences", "field_path", "kind_of", "load_spec",
    "parse_experiment", "parse_spec", "read_spec", "spec_error",
]
# fmt: on
