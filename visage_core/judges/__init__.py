"""Judges: was a harmful request refused?"""

from visage_core.judges.keyword import JUDGES, KeywordJudge

__all__ = ["JUDGES", "KeywordJudge"]
