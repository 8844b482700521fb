"""A gate's decision where the model is kept: at its version in MLflow's registry, or as a tag on the hub."""

from __future__ import annotations

import importlib.util
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from securesystemslib.signer import SSlibKey

from services.gate.evidence import DECISION, MODEL, claims, policy_digest, read
from services.gate.verification import differences, of_another_policy, verify
from services.sweep.models import FILES
from services.sweep.report import load_landscapes
from visage_core.digests import file_digests
from visage_core.errors import InputError
from visage_core.model_files import is_model_file
from visage_core.policy import Policy

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

OURS, VERDICT = "visage.", "visage.verdict"
TAG = re.compile(r"visage-(pass|fail|inconclusive)-[0-9a-f]{12}")


class PublishError(InputError):
    """A decision that cannot be told where it was to be told."""


def labels(out: Path) -> dict[str, str]:
    """What is told of the decision in a gate's folder. Raises an InputError where there is none."""
    decision = read(out, DECISION)
    score = _visage(out)
    return {
        "visage.decision_sha256": file_digests(out, [DECISION])[DECISION],
        "visage.policy": decision["policy"]["name"],
        "visage.policy_sha256": policy_digest(decision["policy"]),
        **({} if score is None else {"visage.score": f"{score:.2f}"}),
        # The last one: where it is, the others are.
        VERDICT: decision["verdict"],
    }


def require_sound(out: Path, key: SSlibKey | None = None, policy: Policy | None = None) -> None:
    """Raise PublishError unless the decision in a gate's folder follows from its points, is signed by a key
    where one is given, and is by a policy where one is given."""
    if key is not None:
        problems = list(verify(out, key, policy).problems)
    else:
        claims(out)  # raises where something is missing
        problems = differences(out) + of_another_policy(out, policy)
    if problems:
        first = problems[0]
        raise PublishError(
            "out",
            f"the decision in {out} is not published, for it does not verify: {first.file}: {first.problem}",
            "Run `visage gate` again, and publish what it leaves",
        )


def tag_mlflow(out: Path, place: str) -> None:
    """Tag a version of a registered model, NAME/VERSION, with a sound decision, and remove the tags of
    others. Raises an InputError."""
    name, _, version = place.rpartition("/")
    if not (name and version.isdecimal()):
        raise PublishError("mlflow", f"{place!r} names no version of a model", "Give NAME/VERSION, as chat/3")
    require_sound(out)
    told = labels(out)
    if importlib.util.find_spec("mlflow") is None:
        raise PublishError("mlflow", "MLflow is not installed", "pip install 'visage[mlflow]'")
    try:
        from mlflow import MlflowClient

        client = MlflowClient()
        before = client.get_model_version(name, version).tags
        # The verdict first: it must not stand among the tags of another decision at any time.
        for tag in sorted((tag for tag in before if tag.startswith(OURS)), key=lambda tag: tag != VERDICT):
            client.delete_model_version_tag(name, version, tag)
        for tag, value in told.items():
            client.set_model_version_tag(name, version, tag, value)
    except Exception as error:  # an address that it cannot use raises anything, of its own and of its drivers
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise PublishError(
            "mlflow",
            f"{place} cannot be tagged: {reason}",
            "Check the name, and MLFLOW_TRACKING_URI",
        ) from None


def tag_hub(out: Path, place: str) -> str:
    """Tag a commit of a model on the hub, REPO or REPO@REVISION, with a sound decision, and remove the tags
    of others from it; gives the tag's name. Raises an InputError, also where the weights there are not those
    that were measured."""
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repo, _, revision = place.partition("@")
    require_sound(out)
    told = labels(out)
    name = f"visage-{told[VERDICT]}-{told['visage.decision_sha256'][:12]}"
    message = "\n".join(f"{key}: {value}" for key, value in told.items())
    api = HfApi()
    try:
        found = api.model_info(repo, revision=revision or None, files_metadata=True)
        _require_measured(out, place, found)
        tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo).tags}
        if tags.get(name, found.sha) != found.sha:
            raise PublishError(
                "hub",
                f"{repo} has the tag {name} at another commit, {tags[name]}",
                "Delete it there, where that commit is not the one that was measured",
            )
        for tag, commit in tags.items():
            if TAG.fullmatch(tag) and tag != name and commit == found.sha:
                api.delete_tag(repo, tag=tag)
        # By its commit: a branch may have moved meanwhile.
        api.create_tag(repo, tag=name, tag_message=message, revision=found.sha, exist_ok=True)
    except (HfHubHTTPError, HFValidationError, HTTPError) as error:
        raise PublishError(
            "hub",
            f"{place} cannot be tagged: {str(error).splitlines()[0]}",
            "Check the name, and log in with `hf auth login` where a token may write there",
        ) from None
    return name


def _require_measured(out: Path, place: str, found: ModelInfo) -> None:
    """Raise PublishError unless a model on the hub has the weights that were measured, and no file that may
    change what it does and was not there."""
    measured = read(out, f"{MODEL}/inputs.json")["files"]["model"]
    siblings = found.siblings or []
    kept = {one.rfilename: one.lfs.sha256 for one in siblings if one.lfs is not None}
    weights = [file for file in measured if file.endswith(".safetensors")]
    if others := [file for file in weights if kept.get(file) != measured[file]]:
        raise PublishError(
            "hub", f"{place} has not the weights that were measured: {', '.join(others)}", "Name the revision"
        )
    names = [one.rfilename for one in siblings]
    fetched = [name for name in names if any(fnmatch(name, pattern) for pattern in FILES)]
    if more := sorted(name for name in fetched if is_model_file(name) and name not in measured):
        raise PublishError(
            "hub", f"{place} has files that were not measured: {', '.join(more)}", "Name the revision"
        )


def _visage(out: Path) -> float | None:
    """VISAGE of the first prompt set that has one, by the points."""
    found = (landscape.summary()["visage"] for landscape in load_landscapes(out / MODEL))
    scores = [one["value"] for one in found if one is not None]
    return scores[0] if scores else None
