"""The examples for CI systems are of this command line."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from services import cli
from services.cli.gate import INFRASTRUCTURE
from visage_core.policy import load_policy

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "deploy" / "ci").glob("*.yml"))


def scripts(part: Any) -> Iterator[str]:
    """Every shell script in a document, by the keys under which the two systems have them."""
    for name, value in part.items() if isinstance(part, dict) else enumerate(part):
        if name in ("run", "script"):
            yield from [value] if isinstance(value, str) else value
        elif isinstance(value, dict | list):
            yield from scripts(value)


def commands(path: Path) -> list[list[str]]:
    """The calls of visage in an example, as lists of words."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    lines = [line.strip() for script in scripts(document) for line in script.splitlines()]
    calls = [line.partition("||")[0] for line in lines if line.startswith("visage ")]
    return [shlex.split(call)[1:] for call in calls]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_its_commands_and_options_exist(path: Path) -> None:
    root: Any = typer.main.get_command(cli.app)
    found = commands(path)
    assert [name for name, *_ in found] == ["gate", "verify"]
    for name, *words in found:
        root.commands[name].make_context(name, words)  # raises where it does not fit
        if "--policy" in words:
            load_policy(ROOT / words[words.index("--policy") + 1])


@pytest.mark.parametrize(
    ("statuses", "ends", "calls"),
    [([0], 0, 1), ([1], 1, 1), ([2], 2, 1), ([3], 3, 1), ([4, 4, 0], 0, 3), ([4, 1], 1, 2), ([4] * 4, 4, 3)],
)
def test_github_tries_again_what_is_the_infrastructure_s(
    statuses: list[int], ends: int, calls: int, tmp_path: Path
) -> None:
    """The script itself, with a visage that ends with one status after another."""
    document = yaml.safe_load((ROOT / "deploy/ci/github-actions.yml").read_text(encoding="utf-8"))
    [script] = [one for one in scripts(document) if "visage gate" in one]
    fake = "#!/bin/sh\necho called >> calls\nread status < statuses\nsed -i 1d statuses\nexit $status\n"
    for name, text in (("visage", fake), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "statuses").write_text("\n".join(map(str, statuses)) + "\n", encoding="utf-8")
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "RUNNER_TEMP": str(tmp_path),
        "KEY": "a key",
        "MODEL": "new",
        "BASELINE": "old",
    }
    done = subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == ends
    assert (tmp_path / "calls").read_text(encoding="utf-8").count("called") == calls
    assert not list(tmp_path.glob("*.pem"))


@pytest.mark.parametrize("umask", ["022", "077"])
def test_github_keeps_the_key_private_and_lets_the_runner_read_the_results(
    umask: str, tmp_path: Path
) -> None:
    document = yaml.safe_load((ROOT / "deploy/ci/github-actions.yml").read_text(encoding="utf-8"))
    [script] = [one for one in scripts(document) if "visage gate" in one]
    fake = """#!/bin/sh
stat -c %a "$VISAGE_SIGNING_KEY" > key-mode
cat "$VISAGE_SIGNING_KEY" > key
printf %s "$KEY" > key-in-environment
mkdir -p gate/model && echo done > gate/decision.md
"""
    (tmp_path / "visage").write_text(fake, encoding="utf-8")
    (tmp_path / "visage").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUNNER_TEMP": str(tmp_path), "KEY": "a key"}
    environment |= {"MODEL": "new", "BASELINE": "old"}
    command = ["sh", "-e", "-c", f"umask {umask}\n{script}"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "key").read_text(encoding="utf-8") == "a key\n"
    assert (tmp_path / "key-mode").read_text(encoding="utf-8") == "600\n"
    assert (tmp_path / "key-in-environment").read_text(encoding="utf-8") == ""
    for path, mode in (("gate", 0o755), ("gate/model", 0o755), ("gate/decision.md", 0o644)):
        assert (tmp_path / path).stat().st_mode & 0o777 == mode
    assert not list(tmp_path.glob("*.pem"))


def test_gitlab_tries_again_what_is_the_infrastructure_s() -> None:
    job = yaml.safe_load((ROOT / "deploy/ci/gitlab-ci.yml").read_text(encoding="utf-8"))["gate"]
    assert job["retry"]["exit_codes"] == INFRASTRUCTURE
    assert "allow_failure" not in job


def test_the_image_is_started_as_each_system_does_it() -> None:
    """GitLab's runner gives the entrypoint a shell as arguments; GitHub's has folders of another user."""
    image = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["visage"]' in image
    assert re.search(r"^USER (?!root)", image, re.MULTILINE)
    github, gitlab = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in EXAMPLES)
    assert gitlab["gate"]["image"]["entrypoint"] == [""]
    assert "--user root" in github["jobs"]["gate"]["container"]["options"]


def test_there_are_two() -> None:
    assert [path.stem for path in EXAMPLES] == ["github-actions", "gitlab-ci"]
