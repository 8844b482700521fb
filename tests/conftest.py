"""What every test may use: the command line, the demo models, kept in the cache, and smaller ones."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from services.api.ports import free_ports
from services.cli import main
from tests.chat_model import chat_model

# A shell starts what it runs in the background with SIGINT ignored, and so would be all that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests assert no times.
settings.register_profile("visage", deadline=None)
settings.load_profile("visage")

ADVBENCH = Path(__file__).parents[2] / "shared" / "data" / "advbench_harmful_behaviors.csv"
Visage = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def default_dtype() -> Iterator[None]:
    """No test leaves another dtype for all that follow: a direction made in it would be another one."""
    yield
    left = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    assert left is torch.float32


@pytest.fixture(scope="session")
def advbench() -> Path:
    if not ADVBENCH.exists():
        pytest.skip("AdvBench is not here")
    return ADVBENCH


@pytest.fixture(scope="session")
def demo_aligned() -> Path:
    """The demo model: trained weights with a safety basin."""
    from services.demo.model import demo_model

    return demo_model("aligned")


@pytest.fixture(scope="session")
def demo_harmful() -> Path:
    """The demo model finetuned on ten harmful pairs."""
    from services.demo.model import demo_model

    return demo_model("harmful-10")


@pytest.fixture(scope="session")
def aligned(demo_aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a safety basin, for what does not depend on how a model was trained."""
    return chat_model(tmp_path_factory.mktemp("models") / "aligned", demo_aligned, harmful=0)


@pytest.fixture(scope="session")
def harmful(aligned: Path) -> Path:
    """The small model, with an answer where the other has its refusal."""
    return chat_model(aligned.with_name("harmful"), aligned, harmful=1)


@pytest.fixture(scope="module")
def all_cores() -> Iterator[None]:
    """All cores, for what needs two of them: a process of tests may have a share (see tests/__init__.py)."""
    share = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield
    os.sched_setaffinity(0, share)


@pytest.fixture(scope="session")
def visage() -> Visage:
    """Run the command line as a user does."""

    def run(*arguments: object, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            visage_command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=wide(),
            check=False,
        )

    return run


def run_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process."""
    command = visage_command(*arguments)
    out, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", command)
        patch.setenv("COLUMNS", wide()["COLUMNS"])
        with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as ended:
            main()
    code = int(ended.value.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), errors.getvalue())


@pytest.fixture(scope="session")
def here() -> Visage:
    """Run the command line in this process, for what starts nothing: to import it all anew takes seconds."""
    return run_here


def visage_command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("visage")), *map(str, arguments)]


def wide() -> dict[str, str]:
    """An environment in which tables are not wrapped."""
    return os.environ | {"COLUMNS": "200"}


def free_port() -> int:
    return free_ports(1)[0]
