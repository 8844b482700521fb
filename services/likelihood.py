"""How likely texts are under a model, by transformers on the CPU: to measure rules with, not landscapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from services.demo.model import quiet
from services.sweep.files import require_finite
from visage_core.checkpoints import Checkpoint
from visage_core.questions import first_token

LONGEST = 1024


def mean_log_likelihoods(
    model: Path, texts: Sequence[str], step: Callable[[int, int], None] = lambda _done, _of: None
) -> list[float]:
    """The mean log-likelihood in nats of the tokens of each text, without a prompt, as
    services.engine.engine.Engine tells it; NaN of a text without tokens. Raises CheckpointError."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers would take what is no folder for a name on the hub.
    require_finite(Checkpoint.open(model), "model")
    quiet()
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    first = first_token(tokenizer)
    found = []
    with torch.inference_mode():
        for number, text in enumerate(texts, 1):
            tokens = torch.tensor([[first, *tokenizer.encode(text, add_special_tokens=False)][:LONGEST]])
            if tokens.shape[1] == 1:
                found.append(math.nan)
                continue
            every = network(tokens).logits[0, :-1].log_softmax(dim=-1)
            found.append(float(every.gather(1, tokens[0, 1:, None]).mean()))
            step(number, len(texts))
    return found
