"""Print which of the installed packages some requirements do not need, one a line.

python unneeded.py 'visage[cpu,postgresql]'
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

KEPT = ("pip",)  # goes last, by itself


def needed(wanted: list[str]) -> set[str]:
    """The canonical names of all that some requirements need here, themselves included."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(one) for one in wanted]
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        for extra in one.extras or {""}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                parts = [Requirement(part) for part in requires(name) or ()]
            except PackageNotFoundError:
                continue  # left out on purpose: constraints/cpu-overrides.txt
            todo += [part for part in parts if part.marker is None or part.marker.evaluate({"extra": extra})]
        if one.extras:
            todo.append(Requirement(one.name))
    return {name for name, _ in found}


if __name__ == "__main__":
    installed = {canonicalize_name(one.metadata["Name"]) for one in distributions()}
    print("\n".join(sorted(installed - needed(sys.argv[1:]) - set(KEPT))))
