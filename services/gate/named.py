"""The files that a policy or a command names, compared with those that a landscape was measured with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from services.sweep.inputs import PROMPTS, former, is_complete
from services.sweep.models import HUB_ID
from visage_core.digests import file_digests
from visage_core.errors import InputError
from visage_core.judges import keyword_judge
from visage_core.model_files import model_files
from visage_core.prompts import PromptSet, load_prompts
from visage_core.questions import load_questions
from visage_core.readings import samples_of
from visage_core.spec import (
    ChoiceSpec,
    KeywordJudgeSpec,
    LandscapeSpec,
    ModelJudgeSpec,
    PromptSpec,
    TextSpec,
)

Named = Iterator[tuple[str, str]]  # a file or a field, and what is wrong with it
REMOTE = ("hf:", "lm-eval:")


def changed_since(spec: LandscapeSpec, inputs: dict[str, Any]) -> Named:
    """What a landscape's spec names and is not any more what it was measured with: prompts, phrases,
    directions, judges. What is on a hub is not fetched again: its digest is all that is known of it."""
    digests = inputs.get("sha256", {})
    for number, part in enumerate(spec.prompts):
        if isinstance(part, TextSpec):
            yield from folder_changes(Path(part.source).parent, inputs, f"prompts.{number}", whole=False)
        elif not part.source.startswith(REMOTE):
            measured = dict(enumerate(digests.get(PROMPTS, []))).get(number)
            yield from _unless_alike(part.source, partial(_digest, spec, part), measured)
    for number, judge in enumerate(spec.judges):
        if isinstance(judge, KeywordJudgeSpec):
            measured = digests.get("judges", {}).get(str(number))
            yield from _unless_alike(judge.phrases, partial(_phrases_digest, judge), measured)
        elif isinstance(judge, ModelJudgeSpec) and not is_remote(judge.model):
            yield from folder_changes(Path(judge.model).expanduser(), inputs, f"judges.{number}")
    for field, name in spec.files().items():
        if not is_remote(name):
            path = Path(name).expanduser()
            folder = path.parent if field.endswith(".file") else path
            yield from folder_changes(folder, inputs, field, whole=False)


def folder_changes(folder: Path, inputs: dict[str, Any], field: str, whole: bool = True) -> Named:
    """The files of a folder that are not as they were measured, by what was recorded of a field; of a `whole`
    model those too that are new."""
    measured = inputs.get("files", {}).get(field, {})
    here = file_digests(folder, [name for name in measured if (folder / name).is_file()])
    for name in measured:
        if here.get(name) != measured[name]:
            yield name, f"it is not in {folder} as it was measured"
    if whole and folder.is_dir():
        for name in model_files(folder):
            # Earlier versions recorded fewer kinds of files.
            if name not in measured and (is_complete(inputs) or former(name)):
                yield name, f"it is in {folder}, and was not when it was measured"


def is_remote(name: str) -> bool:
    """Whether a model's name means one that is not on this machine."""
    here = Path(name).expanduser().exists()
    return "://" in name or (not here and HUB_ID.fullmatch(name.partition("@")[0]) is not None)


def _unless_alike(name: str, digest: Callable[[], str], measured: str | None) -> Named:
    try:
        if digest() != measured:
            yield name, "it is not as it was when it was measured with"
    except InputError as error:
        yield name, error.problem


def _digest(spec: LandscapeSpec, part: PromptSpec | ChoiceSpec) -> str:
    if isinstance(part, PromptSpec):
        return load_prompts(part).repeated(samples_of(spec, part)).digest()
    return PromptSet(part.source, tuple(question.text for question in load_questions(part)[0])).digest()


def _phrases_digest(judge: KeywordJudgeSpec) -> str:
    return keyword_judge(judge.name, judge.phrases).digest()
