"""Judges: was a harmful request refused?"""

from visage_core.judges.keyword import JUDGES, KeywordJudge, keyword_judge, shared_stops

__all__ = ["JUDGES", "KeywordJudge", "keyword_judge", "shared_stops"]
