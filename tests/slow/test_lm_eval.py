"""Tasks of lm-eval, which takes half a minute to read the list of all its tasks."""

from __future__ import annotations

import pytest

from visage_core.questions import QuestionsError, load_questions
from visage_core.spec import ChoiceSpec


def test_an_unknown_task_of_lm_eval_is_an_error() -> None:
    with pytest.raises(QuestionsError, match="no_such_task"):
        load_questions(ChoiceSpec(source="lm-eval:no_such_task"))
