"""Which tensors of a model move: by groups such as attention, by layers, or by patterns of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from visage_core.errors import InputError

# Segments of the names that transformers gives to the tensors of decoders.
GROUPS = {
    "attention": re.compile(r"(^|\.)(self_attn|attn|attention|self_attention)\."),
    "biases": re.compile(r"\.bias$"),
    "embeddings": re.compile(r"(^|\.)(embed_tokens|wte|wpe|word_embeddings|embed_in)\."),
    "lm_head": re.compile(r"(^|\.)(lm_head|embed_out)\."),
    "mlp": re.compile(r"(^|\.)(mlp|feed_forward|ffn|block_sparse_moe)\."),
    "norms": re.compile("norm", re.IGNORECASE),  # as the paper's code tells them
}
LAYERS = re.compile(r"layers:(\d+)(?:-(\d+))?")
_LAYER_OF = re.compile(r"\.(?:layers|h|blocks|layer)\.(\d+)\.")


class SelectionError(InputError):
    """A selection that names no tensor of the model."""


@dataclass(frozen=True)
class Selection:
    """The tensors that one part of `only` names (all, where it is empty) and no part of `leave_out`.

    A part is a group, `layers:FIRST-LAST`, or a pattern such as `*.q_proj.*`.
    """

    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        wanted = not self.only or any(_names(part, name) for part in self.only)
        return wanted and not any(_names(part, name) for part in self.leave_out)

    def of(self, names: Iterable[str]) -> list[str]:
        """Those of some names that it selects."""
        return [name for name in names if name in self]

    def require_use(self, names: Iterable[str], field: str) -> None:
        """Raise SelectionError where a part names no tensor: a slip of the pen would move other tensors
        than was meant. Only a group may be left out of a model that has none of it."""
        names = list(names)
        for label, parts in (("only", self.only), ("leave_out", self.leave_out)):
            for part in parts:
                needless = label == "leave_out" and part in GROUPS
                if not needless and not any(_names(part, name) for name in names):
                    tied = " (it shares the embedding's weights)" if part == "lm_head" else ""
                    raise SelectionError(
                        f"{field}.{label}",
                        f"{part!r} names no tensor of the model{tied}",
                        f"Use {', '.join(GROUPS)}, layers:FIRST-LAST, or a pattern such as *.q_proj.*",
                    )
        if not self.of(names):
            raise SelectionError(
                field, "only and leave_out together leave no tensor that moves", "Leave out less"
            )


EVERYTHING = Selection()


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to, counted from 0; None for those of no layer."""
    found = _LAYER_OF.search(name)
    return None if found is None else int(found[1])


def _names(part: str, name: str) -> bool:
    if part in GROUPS:
        return GROUPS[part].search(name) is not None
    if layers := LAYERS.fullmatch(part):
        found = layer_of(name)
        return found is not None and int(layers[1]) <= found <= int(layers[2] or layers[1])
    return fnmatchcase(name, part)
