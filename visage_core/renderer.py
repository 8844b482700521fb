"""`python -m visage_core.renderer`: kaleido, which ends together with the thread that started it.

By itself it ends with its input, but hears of nothing while it starts: where its process is killed then, it
could wait for good.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from visage_core.processes import end_with_parent


def command(arguments: list[str]) -> list[str]:
    """The command for kaleido's own, whose first word is its program."""
    return [sys.executable, "-m", __name__, *arguments[1:]] if sys.platform == "linux" else arguments


def main() -> None:
    """Become kaleido, as its own script would start it."""
    parent = os.getppid()
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        return
    found = find_spec("kaleido")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "executable"
    libraries = f"{folder / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    fonts, shared = str(folder / "etc" / "fonts"), str(folder / "xdg")
    os.environ |= {"LD_LIBRARY_PATH": libraries, "FONTCONFIG_PATH": fonts, "XDG_DATA_HOME": shared}
    os.environ.pop("LD_PRELOAD", None)
    os.chdir(folder)
    program = "./bin/kaleido"
    os.execv(program, [program, *sys.argv[1:]])  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
