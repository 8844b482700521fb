"""Gates of real, tiny checkpoints that no engine measures: their points are made up, and named so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from services.gate.evidence import BASELINE, MODEL
from services.gate.gate import Gate, conclude
from services.sweep.coordinator import DONE, Progress
from services.sweep.run import Run
from tests.checkpoints import write_checkpoint
from visage_core.grid import points
from visage_core.policy import Policy, parse_policy
from visage_core.results import PointResult, Response, Results

TEMPLATE = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}<|a|>"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 300,
    "max_position_embeddings": 4_096,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
PROMPTS = 24


def tiny(folder: Path, seed: int = 0) -> Path:
    """Write a model of a few bytes with a tokenizer of bytes and a chat template."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (300, 8), "model.norm.weight": (8,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    write_checkpoint(folder, {name: one.to(torch.bfloat16) for name, one in tensors.items()}, 1, CONFIG)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: number for number, one in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|a|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


class MadeUpRun(Run):
    """Measures at once: nothing is complied with. `between` is called while it measures."""

    between: Callable[[str, Path], object] = staticmethod(lambda name, out: None)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # So that it asks no cluster for anything.
        super().__init__(*arguments, **options | {"outside": True})

    def _watch(self) -> Iterator[Progress]:
        spec, results = self.plan.spec, Results(self.out)
        done = results.done()
        for point in points(spec):
            if point in done:
                continue
            made = [
                PointResult(
                    point,
                    (False,) * len(part.prompts),
                    (Response("", 1, "end", 1),) * len(part.prompts),
                    0.0,
                    0.0,
                    0.0,
                    prompt_set=number,
                )
                for number, part in enumerate(self.plan.prompts)
            ]
            results.add(spec, made, None)
        MadeUpRun.between(self.name, self.out)
        yield Progress(1, DONE, 1, 1, 0, None, 0.0, 0, None, None, None)

    def _take_over(self) -> None:
        Results(self.out).merge()


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> type[MadeUpRun]:
    """Gates measure nothing, and have points all the same."""
    monkeypatch.setattr("services.gate.gate.Run", MadeUpRun)
    monkeypatch.setattr("services.gate.gate.this_node", lambda: "here")
    monkeypatch.setattr("services.gate.gate.write_figures", lambda _: None)  # it takes seconds
    monkeypatch.setattr(MadeUpRun, "between", staticmethod(lambda name, out: None))
    return MadeUpRun


def prompts_file(path: Path, word: str = "request", count: int = PROMPTS) -> Path:
    path.write_text("\n".join(f"{word} {number}" for number in range(count)), encoding="utf-8")
    return path


def policy_of(landscape: dict[str, Any], relative: bool = False, **fields: Any) -> Policy:
    """A policy that a model which complies with nothing passes, but not before its last look."""
    rules = [{"measure": "asr_at_origin", "at_most": 20}]
    if relative:
        rules.append({"measure": "mean_safety", "at_least": -100, "relative": True})
    document = {"axis": {"points": 3, "direction": {"seeds": [0]}}, "coherence": "statistics"} | landscape
    return parse_policy({"name": "made up", "landscape": document, "rules": rules} | fields)


def ask(policy: Policy, out: Path, model: Path, baseline: Path | None = None) -> dict[str, Any]:
    """Run a gate to its end; gives its decision."""
    models = {MODEL: str(model)} | ({} if baseline is None else {BASELINE: str(baseline)})
    *_, look = Gate(policy, models, out, engines=None)  # type: ignore[arg-type]
    return json.loads(json.dumps(conclude(policy, models, out, look)))


__all__ = ["PROMPTS", "MadeUpRun", "ask", "made_up", "policy_of", "prompts_file", "tiny"]
