"""A gate's decision where the model is kept: at its version in MLflow's registry, or as a tag on the hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from services.gate.evidence import DECISION, MODEL, policy_digest, read
from visage_core.digests import file_digests
from visage_core.errors import InputError
from visage_core.results import Results


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
        "visage.verdict": decision["verdict"],
    }


def tag_mlflow(out: Path, place: str) -> None:
    """Tag a version of a registered model, NAME/VERSION, with the decision. Raises an InputError."""
    name, _, version = place.rpartition("/")
    if not (name and version.isdecimal()):
        raise PublishError("mlflow", f"{place!r} names no version of a model", "Give NAME/VERSION, as chat/3")
    told = labels(out)
    if importlib.util.find_spec("mlflow") is None:
        raise PublishError("mlflow", "MLflow is not installed", "pip install 'visage[mlflow]'")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        for key, value in told.items():
            client.set_model_version_tag(name, version, key, value)
    except MlflowException as error:
        raise PublishError(
            "mlflow",
            f"{place} cannot be tagged: {str(error).splitlines()[0]}",
            "Check the name, and MLFLOW_TRACKING_URI",
        ) from None


def tag_hub(out: Path, place: str) -> str:
    """Tag a commit of a model on the hub, REPO or REPO@REVISION, with the decision; gives the tag's name.
    Raises an InputError, also where the weights there are not those that were measured."""
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repo, _, revision = place.partition("@")
    told = labels(out)
    measured = read(out, f"{MODEL}/inputs.json")["files"]["model"]
    name = f"visage-{told['visage.verdict']}-{told['visage.decision_sha256'][:12]}"
    message = "\n".join(f"{key}: {value}" for key, value in told.items())
    api = HfApi()
    try:
        found = api.model_info(repo, revision=revision or None, files_metadata=True)
        kept = {one.rfilename: one.lfs.sha256 for one in found.siblings or [] if one.lfs is not None}
        weights = [file for file in measured if file.endswith(".safetensors")]
        if others := [file for file in weights if kept.get(file) != measured[file]]:
            raise PublishError(
                "hub",
                f"{place} has not the weights that were measured: {', '.join(others)}",
                "Name the revision",
            )
        # By its commit: a branch may have moved meanwhile.
        api.create_tag(repo, tag=name, tag_message=message, revision=found.sha, exist_ok=True)
    except (HfHubHTTPError, HFValidationError, HTTPError) as error:
        raise PublishError(
            "hub",
            f"{place} cannot be tagged: {str(error).splitlines()[0]}",
            "Check the name, and log in with `hf auth login` where a token may write there",
        ) from None
    return name


def _visage(out: Path) -> float | None:
    """VISAGE of the first prompt set that has one."""
    summary = Results(out / MODEL).read_json("summary.json") or {"landscapes": []}
    scores = [one["visage"]["value"] for one in summary["landscapes"] if one["visage"] is not None]
    return scores[0] if scores else None
