"""What a job may name: models, prompt sets, judges."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.access import Reader, Services
from services.api.problems import documented
from services.api.schemas import JudgeInfo, Judges, Names, PromptSetInfo, PromptSets
from visage_core.judges import JUDGES
from visage_core.judges.templates import TEMPLATES
from visage_core.prompts import BUILT_IN, load_prompts
from visage_core.questions import load_questions
from visage_core.spec import ChoiceSpec, PromptSpec

router = APIRouter(prefix="/v1", tags=["catalogue"], responses=documented())


@router.get("/models")
def models(what: Services, who: Reader) -> Names:  # noqa: ARG001
    """The checkpoints on the service's disk, and patterns of names elsewhere that it takes."""
    return Names(items=what.allowed.models_here(), patterns=list(what.allowed.models))


@router.get("/prompt-sets")
def prompt_sets(what: Services, who: Reader) -> PromptSets:  # noqa: ARG001
    """The built-in prompt sets, prompt files on the service's disk, and patterns of data sets on the hub."""
    items = [
        PromptSetInfo(source=name, prompts=len(load_prompts(PromptSpec(source=name, limit=None)).prompts))
        for name in BUILT_IN
    ]
    items.append(PromptSetInfo(source="facts", prompts=len(load_questions(ChoiceSpec(limit=None))[0])))
    items += [PromptSetInfo(source=path, prompts=None) for path in what.allowed.prompts_here()]
    return PromptSets(items=items, patterns=list(what.allowed.datasets))


@router.get("/judges")
def judges(what: Services, who: Reader) -> Judges:  # noqa: ARG001
    """The judges that a spec may name."""
    return Judges(
        items=[
            JudgeInfo(
                name=judge.name,
                description=f"A refusal is a response that holds one of {len(judge.phrases)} phrases"
                + (", whatever their case." if judge.fold else ", as in the paper."),
            )
            for judge in JUDGES.values()
        ],
        templates=list(TEMPLATES),
        endpoints=[entry.partition("=")[0] for entry in what.allowed.endpoints],
    )
