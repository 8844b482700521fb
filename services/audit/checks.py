"""Whether a checkpoint can be measured, as far as that can be told before an engine starts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from services.sweep.memory import require_memory
from services.sweep.models import model_folder
from services.sweep.plan import check, check_weights
from visage_core.checkpoints import Checkpoint, CheckpointError, require_same_architecture, some
from visage_core.policy import Policy
from visage_core.spec import LandscapeSpec


def sizes_of(
    policy: Policy,
    model: str,
    resolve: Callable[[LandscapeSpec], LandscapeSpec],
    workers_here: int = 0,
    baseline: str | None = None,
) -> list[int]:
    """How many prompts each set of a policy has for a model, which is checked, and has to be comparable with
    the baseline if there is one. `workers_here` is how many engines are to start on this machine, if any.
    Raises an InputError that says what is wrong with it."""
    spec = resolve(policy.spec(model))
    checked = check(spec)
    checked.require_different()
    require_shapes(checked.base)
    if baseline is not None:
        folder = model_folder(resolve(policy.spec(baseline)).model, "baseline")
        require_same_architecture(Checkpoint.open(folder, "baseline"), checked.base, "model")
    if workers_here:
        require_memory(checked.base, spec.engine, workers_here)
    sizes = checked.sizes(spec)
    policy.require_sizes(sizes)
    check_weights(spec, checked)
    return sizes


def require_shapes(base: Checkpoint) -> None:
    """Raise CheckpointError where tensors are not as the checkpoint's config.json says: an engine would take
    a minute to find that out, and its warm predecessor would be gone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base.path, trust_remote_code=False)
    try:
        with torch.device("meta"):
            # float32, for transformers makes a model's dtype the default of all threads until it is made:
            # of two checks at a time the second would put back the first one's, and it would stay.
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except ValueError:
        return  # transformers has no class for its text alone, and an engine may have one
    expected = {name: tuple(one.shape) for name, one in model.named_parameters()}
    wrong = [
        f"{name} {list(info.shape)} instead of {list(expected[name])}"
        for name, info in base.tensors.items()
        if expected.get(name, info.shape) != info.shape
    ]
    missing = []
    # Names of other kinds are made of several of these, or of parts of them.
    if base.tensors.keys() <= expected.keys():
        tied = {"lm_head.weight"} if base.config["tie_word_embeddings"] else set()
        missing = [f"{name}, which is missing" for name in expected if name not in base.tensors.keys() | tied]
    if wrong or missing:
        raise CheckpointError(
            "model",
            f"{base.path} has other tensors than its config.json tells of: {some(wrong + missing)}",
            "Put the config.json beside it that it was saved with",
        )
