"""Is a text gibberish? Told by its statistics alone, or by these and how likely a model finds it.

Gibberish far from the origin is of two kinds: loops, which compress well and which a model finds likely, and
soups of words and marks, which do not compress and which it finds unlikely. No single number sees both, so a
few are added up. Each counts something that texts of all languages have little of, however long they are:
what goes by length tells models apart that stop early, not texts.

docs/coherence.md says what this is worth; `visage judges coherence` measures it, and fits the weights.
"""

from __future__ import annotations

import lzma
import math
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

# A phrase of at most 60 characters, at least four times in a row; 1,000,000 and a ruled line are no loops.
_LOOP = re.compile(r"(.{1,60}?)\1{3,}", re.DOTALL)
_SHORTEST_LOOP = 16
# Marks of a sentence between two letters without a space, and marks that do not follow each other in prose.
_STRAY = re.compile(r"[^\W\d_][,;:!?][^\W\d_]|[,;:][(;,]|[,(@]{2}")
_MARKS = ",;:.!?\"'"
# Scripts that do not part words by spaces: from Thai to Burmese, Khmer, kana and ideographs.
_UNSPACED = (("\u0e00", "\u109f"), ("\u1780", "\u17ff"), ("\u3040", "\u9fff"), ("\U00020000", "\U0003ffff"))
# Written together: kana, ideographs, and what looks like them.
_TOGETHER = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "IDEOGRAPHIC", "HALFWIDTH", "FULLWIDTH")
_RAW = [{"id": lzma.FILTER_LZMA2}]


@dataclass(frozen=True)
class Statistic:
    """A number for a text; the higher, the more like gibberish."""

    name: str
    of: Callable[[str], float]


def loops(text: str) -> float:
    """Share of a text that is its longest loop: one phrase over and over."""
    longest = max((len(found.group()) for found in _LOOP.finditer(text)), default=0)
    return longest / len(text) if longest >= _SHORTEST_LOOP else 0.0


def long_words(text: str) -> float:
    """Share of the letters that are in words of more than 40: longer than any compound of daily use."""
    sizes = [len(word) for word in _units(text)]
    return sum(size for size in sizes if size > 40) / max(1, sum(sizes))


def single_letters(text: str) -> float:
    """Share of the words that are a single letter among other words: not beside an operator, as in code and
    formulas, and of a script that has words of more."""
    pieces = text.split()
    words = [any(map(str.isalpha, piece)) for piece in pieces]
    alone = [
        at
        for at, piece in enumerate(pieces)
        if len(letter := piece.strip(_MARKS)) == 1 and letter.isalpha() and not _unspaced(letter)
    ]
    lost = [at for at in alone if all(words[max(0, at - 1) : at + 2])]
    return len(lost) / max(1, len(_units(text)))


def echoes(text: str) -> float:
    """Share of the words that are one of the two before them."""
    found = _words(text)
    return sum(word in found[max(0, at - 2) : at] for at, word in enumerate(found)) / max(1, len(found))


def stray_marks(text: str) -> float:
    """Marks where prose has none, for each word; at most 1."""
    return min(1.0, sum(1 for _ in _STRAY.finditer(text)) / max(1, len(_units(text))))


def same_words(text: str) -> float:
    """Share of the words that came before: one minus the type-token ratio."""
    found = _words(text)
    return 1 - len(set(found)) / max(1, len(found))


def symbols(text: str) -> float:
    """Share of the characters but spaces that are no letters or digits."""
    seen = [unicodedata.category(one)[0] for one in text if not one.isspace()]
    return sum(kind not in "LMN" for kind in seen) / max(1, len(seen))


def script_changes(text: str) -> float:
    """Share of the letters that are of another script than the letter before."""
    scripts = [_script(one) for one in text if unicodedata.category(one)[0] == "L"]
    return sum(one != other for one, other in pairwise(scripts)) / max(1, len(scripts))


def broken(text: str) -> float:
    """Share of the characters that no text has: unassigned or private ones, controls, and what stands for
    bytes that are no UTF-8."""
    kinds = [unicodedata.category(one) in ("Cc", "Cn", "Co", "Cs") or one == "\ufffd" for one in text]
    spaces = sum(text.count(one) for one in "\n\r\t")
    return (sum(kinds) - spaces) / max(1, len(text))


def deflated(text: str) -> float:
    """How far zlib compresses a text: one minus the ratio of sizes, below 0 where it grows."""
    size = len(text.encode("utf-8", "replace"))
    return 1 - len(zlib.compress(text.encode("utf-8", "replace"), 9)) / max(1, size)


def lzma_deflated(text: str) -> float:
    """The same by LZMA, without headers."""
    data = text.encode("utf-8", "replace")
    return 1 - len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=_RAW)) / max(1, len(data))


STATISTICS: tuple[Statistic, ...] = (
    Statistic("loops", loops),
    Statistic("echoes", echoes),
    Statistic("single letters", single_letters),
    Statistic("stray marks", stray_marks),
    Statistic("long words", long_words),
    Statistic("words seen before", same_words),
    Statistic("symbols", symbols),
    Statistic("script changes", script_changes),
    Statistic("broken characters", broken),
    Statistic("zlib", deflated),
    Statistic("LZMA", lzma_deflated),
    Statistic("length", len),
)
ADDED = STATISTICS[:4]


@dataclass(frozen=True)
class Rule:
    """A weighted sum of features, and the score above which a text is gibberish."""

    intercept: float
    weights: tuple[float, ...]
    threshold: float

    def score(self, features: Sequence[float]) -> float:
        """Logarithm of the odds, among texts as those that it was fitted to."""
        return self.intercept + sum(one * weight for one, weight in zip(features, self.weights, strict=True))


# Fitted to visage_core/data/coherence.jsonl; `visage judges coherence --json` fits them again. Either
# threshold calls 4 % of its coherent texts gibberish, the first 1 % of ordinary texts (docs/coherence.md).
BY_TEXT = Rule(-1.08, (5.66, 8.73, 5.37, 5.3), 0.4)
BY_LIKELIHOOD = Rule(-6.23, (7.4, 6.07, 3.88, 2.89, 1.28), 0.5)
# Nats per token that a text without its prompt loses by its first words, times its length in characters: the
# slope of the mean log-likelihoods of the coherent texts alone, so that it says nothing of gibberish.
BEGINNING = 70.0
SHORTEST = 20
# Set by hand: the texts that the weights are fitted to are of a model that writes one script.
MOST_BROKEN = MOST_CHANGES = 0.3


def is_gibberish(text: str) -> bool:
    """Whether a text is neither an answer nor a refusal, by its statistics, in any language.

    Takes less than a millisecond for a hundred words. Finds 6 in 10 of the incoherent texts that it was
    fitted to: loops and soups of letters and marks, but not words of one language in no order.
    """
    return text_score(text) > BY_TEXT.threshold


def is_unlikely(text: str, mean_log_likelihood: float) -> bool:
    """The same, told by its statistics and its mean log-likelihood per token in nats under the unperturbed
    model, without its prompt. Finds 9 in 10."""
    return likelihood_score(text, mean_log_likelihood) > BY_LIKELIHOOD.threshold


def is_surely_unlikely(text: str) -> bool:
    """Whether `is_unlikely` says so however likely a model finds the text, so that none need be asked."""
    return is_unlikely(text, 0.0)


def text_score(text: str) -> float:
    """What `is_gibberish` holds against its threshold."""
    return math.inf if _is_no_text(text) else BY_TEXT.score(features(text))


def likelihood_score(text: str, mean_log_likelihood: float) -> float:
    """What `is_unlikely` holds against its threshold."""
    if _is_no_text(text) or math.isnan(mean_log_likelihood):
        return math.inf
    return BY_LIKELIHOOD.score(likelihood_features(text, mean_log_likelihood))


def features(text: str) -> list[float]:
    """What BY_TEXT adds up."""
    return [one.of(text) for one in ADDED]


def likelihood_features(text: str, mean_log_likelihood: float) -> list[float]:
    """What BY_LIKELIHOOD adds up."""
    return [*features(text), surprise(text, mean_log_likelihood)]


def surprise(text: str, mean_log_likelihood: float) -> float:
    """How unlikely a text is in nats a token, beyond what its beginning costs."""
    return -mean_log_likelihood - BEGINNING / max(SHORTEST, len(text))


def _is_no_text(text: str) -> bool:
    return not text.strip() or broken(text) > MOST_BROKEN or script_changes(text) > MOST_CHANGES


def _words(text: str) -> list[str]:
    """Runs of letters with their marks: `\\w` would part words of Indic scripts at their vowels."""
    kept = [one if unicodedata.category(one)[0] in "LM" else " " for one in text]
    return "".join(kept).lower().split()


def _units(text: str) -> list[str]:
    """Words, and each letter of a script that does not part them by spaces."""
    found: list[str] = []
    for word in _words(text):
        found += word if _unspaced(word[0]) else [word]
    return found


def _unspaced(letter: str) -> bool:
    return any(low <= letter <= high for low, high in _UNSPACED)


@lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ")[0]
    return "CJK" if name in _TOGETHER else name
