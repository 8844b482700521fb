"""A warm vLLM engine whose weights move."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from visage_core.queries import Passage, Request
from visage_core.questions import first_token
from visage_core.results import Response
from visage_core.sources import TensorSource
from visage_core.spec import EngineSpec, GenerationSpec

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams
    from vllm.outputs import CompletionOutput, RequestOutput

    from services.engine.device import About

COMPANION = "companion"
# The files that visage has read itself. By default vLLM prefers others where a folder has them: Mistral's
# params.json, consolidated.safetensors and tekken.json would be another model, with another tokenizer.
FORMATS: dict[str, Any] = {"config_format": "hf", "load_format": "safetensors", "tokenizer_mode": "hf"}


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Generation was ended before all responses were there."""


class Engine:
    """One vLLM engine, started once. Nothing here knows of jobs, points or judges.

    With `batch_invariant`, a response does not depend on what else is in the batch. Else a response that
    ends early, or a point that is split over workers, could change another response by a rounding.
    `cores` are the CPU cores to run on, None for all.
    """

    def __init__(self, model: TensorSource, spec: EngineSpec, cores: list[int] | None = None) -> None:
        _set_environment(spec, cores)
        self._threads = _threads()
        self._llm = _start(model.path, spec)
        # Nowhere yet: what vLLM has loaded by itself is not measured, not even at the origin.
        self._place: tuple[TensorSource, list[tuple[TensorSource, float]]] | None = None

        from vllm.platforms import current_platform

        self._company = spec.batch_invariant and current_platform.is_cpu()
        self._max_model_len = spec.max_model_len

    def move(self, model: TensorSource, steps: list[tuple[TensorSource, float]]) -> None:
        """Put the weights at coefficients along directions from the checkpoint `model`, which has the
        architecture and the tokenizer of the one that the engine was started on."""
        if self._place == (model, steps):
            return
        self._llm.collective_rpc("visage_move", args=(model, steps))
        # What is cached was computed with other weights.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not drop the keys and values of the weights before")
        self._place = (model, steps)

    def differences(self, model: TensorSource, steps: list[tuple[TensorSource, float]]) -> list[str]:
        """The names of the tensors whose values are not those of a place, by what the engine's own kernels
        give: of other values, or nowhere to be found."""
        found = self._llm.collective_rpc("visage_differences", args=(model, steps, self._threads))
        return sorted({name for rank in found for name in rank})

    def device(self) -> About:
        """What it computes on: its own processes know, for that of a worker with several GPUs has none."""
        from services.engine.device import together

        return together(self._llm.collective_rpc("visage_device"))

    def generate(
        self,
        requests: Sequence[Request],
        spec: GenerationSpec,
        stops: list[str],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> list[Response]:
        """Responses to requests, in their order. With `stops`, a response ends right after the first of these
        strings. Raises Interrupted soon after `interrupted` says so."""
        params = {"max_tokens": spec.max_tokens, "stop": stops, "temperature": spec.temperature}
        asked = [(request.tokens, params | {"seed": request.seed}) for request in requests]
        return [
            _response(output.outputs[0], len(tokens))
            for (tokens, _), output in zip(asked, self._run(asked, interrupted), strict=True)
        ]

    def log_likelihoods(
        self, passages: Sequence[Passage], interrupted: Callable[[], bool] = lambda: False
    ) -> list[float]:
        """The log-likelihood in nats of each passage's tokens from `begin` on, after those before them.
        Raises Interrupted soon after `interrupted` says so."""
        # vLLM generates at least one token.
        params = {"max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
        asked = [(passage.tokens, params) for passage in passages]
        return [
            _log_likelihood(output, passage)
            for passage, output in zip(passages, self._run(asked, interrupted), strict=True)
        ]

    def encode(self, text: str) -> list[int]:
        """A text's tokens, with what begins any text before them."""
        tokenizer = self._llm.get_tokenizer()
        return [first_token(tokenizer), *tokenizer.encode(text, add_special_tokens=False)][
            : self._max_model_len - 1
        ]

    def _run(
        self,
        asked: Sequence[tuple[list[int], dict[str, Any]]],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> list[RequestOutput]:
        """What vLLM gives for prompts of token ids, each with its sampling parameters, in their order."""
        if not asked:
            return []
        engine = self._llm.llm_engine
        found: dict[int, RequestOutput] = {}
        try:
            for index, (tokens, params) in enumerate(asked):
                self._add(str(index), tokens, **params)
            if self._company:
                self._add_companion(asked[0][0])
            while len(found) < len(asked):
                if interrupted():
                    raise Interrupted
                for output in engine.step():
                    if output.request_id == COMPANION:
                        self._add_companion(asked[0][0])  # it came to an end; the others are not done
                    else:
                        found[int(output.request_id)] = output
        finally:
            unfinished = [str(index) for index in range(len(asked)) if index not in found]
            engine.abort_request([*unfinished, COMPANION])
        return [found[index] for index in range(len(asked))]

    def _add_companion(self, prompt: list[int]) -> None:
        """Add a request that only keeps the batch from shrinking to one row: vLLM's CPU kernels sum in
        another order for a single row, and in one order for any more."""
        self._add(COMPANION, prompt[:1], max_tokens=self._max_model_len - 1, ignore_eos=True)

    def _add(self, name: str, prompt: list[int], **params: Any) -> None:
        from vllm import TokensPrompt

        request = TokensPrompt(prompt_token_ids=prompt)
        self._llm.llm_engine.add_request(name, request, _sampling(**params))


def _sampling(temperature: float = 0.0, **params: Any) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=temperature,
        include_stop_str_in_output=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **params,
    )


def _log_likelihood(output: RequestOutput, passage: Passage) -> float:
    chosen = zip(output.prompt_logprobs or [], passage.tokens, strict=True)
    return math.fsum(found[token].logprob for found, token in list(chosen)[passage.begin :] if found)


def _response(output: CompletionOutput, prompt_tokens: int) -> Response:
    if output.finish_reason == "length":
        finish = "length"
    else:
        # stop_reason is the string that stopped it, and no string where the model ended by itself.
        finish = "verdict" if isinstance(output.stop_reason, str) else "end"
    return Response(output.text, len(output.token_ids), finish, prompt_tokens)


def _set_environment(spec: EngineSpec, cores: list[int] | None) -> None:
    """Settings that vLLM reads from the environment while it is imported."""
    os.environ |= {
        # A process of its own for the engine would only copy prompts and texts around.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(spec.kv_cache_gib),
        # Attention that splits a sequence over threads sums in an order that depends on the batch.
        "VLLM_CPU_ATTN_SPLIT_KV": "0" if spec.batch_invariant else "1",
        # Reports of use would name the models that are measured.
        "VLLM_NO_USAGE_STATS": "1",
    }
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if cores is not None:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = _core_lists(cores, spec.tensor_parallel)
    import torch

    # vLLM takes this for CUDA devices alone; elsewhere it would refuse to start.
    if spec.batch_invariant and torch.cuda.is_available():
        os.environ["VLLM_BATCH_INVARIANT"] = "1"


def _threads() -> int:
    """Those that torch has before vLLM starts, which leaves it one on a GPU: for all cores, or an actor's."""
    import torch

    return torch.get_num_threads()


def _core_lists(cores: list[int], ranks: int) -> str:
    """The cores of each tensor-parallel rank, as vLLM reads them: "0,1|2,3"."""
    each = len(cores) // ranks
    return "|".join(",".join(map(str, cores[rank * each : (rank + 1) * each])) for rank in range(ranks))


def _start(model: str, spec: EngineSpec) -> LLM:
    from vllm import LLM

    return LLM(
        model,
        **FORMATS,
        dtype=spec.dtype,
        seed=0,
        max_model_len=spec.max_model_len,
        max_num_seqs=spec.max_num_seqs + 1,  # and the companion
        tensor_parallel_size=spec.tensor_parallel,
        enforce_eager=spec.enforce_eager,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        worker_extension_cls="services.engine.weights.MovableWeights",
        trust_remote_code=False,
    )
