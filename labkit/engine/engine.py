"""Engine: a decoder model, its cache, scheduler, executor and sampler, advanced by `step()`; a System of the bench."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labkit.bench.limit import Kernels
from labkit.bench.loadgen import Load, load_of
from labkit.core.cost import Cost
from labkit.core.errors import UsageError
from labkit.core.machine import emulated_dtypes, machine
from labkit.core.trace import Trace
from labkit.core.workload import Request, Scenario, Workload, WorkloadSpec
from labkit.engine.config import EngineConfig
from labkit.engine.cost import DecoderCost
from labkit.engine.decoding import OneToken
from labkit.engine.prefix import PrefixCache
from labkit.engine.probe import probe
from labkit.engine.scheduler import Plan
from labkit.engine.sequence import Sequence
from labkit.engine.shard import linear_parameters
from labkit.model.choice import CHOICES
from labkit.model.dtypes import DTYPES
from labkit.model.linear import KernelLayer, Linear, relocate
from labkit.model.source import ModelSource
from labkit.model.tokenizer import prompt_ids
from labkit.model.transformer import Transformer

_MOST_MOVED_BYTES = 2**29


@dataclass(frozen=True)
class Prepared:
    """Requests as token ids, checked to fit."""

    scenario: Scenario
    requests: tuple[tuple[Request, list[int]], ...]
    concurrency: int = 1


class Engine:
    """Serves requests with one model.

    Args:
        model: finished weights, on their device.
        source: where they come from; its tokenizer turns prompts into ids.
        config: the mechanisms.
        weight_steps: text of the Recipe's steps that changed the weights.
        adjust_cost: what the Recipe changes in the baseline's cost.
        cache_folder: where the reference for quality lies.
    """

    def __init__(
        self,
        model: Transformer,
        source: ModelSource,
        config: EngineConfig,
        *,
        device: str = "cpu",
        weight_steps: str = "",
        adjust_cost: Callable[[DecoderCost], DecoderCost] = lambda cost: cost,
        cache_folder: Path | None = None,
    ) -> None:
        self.model, self.source, self.config, self.device = model, source, config, device
        self.cache_folder, self.adjust_cost = cache_folder, adjust_cost
        self.cache = config.cache(model.config, model.dtype, device) if config.cache else None
        if self.cache is not None and config.prefixes is not None:
            origin = {"model": source.hash, "weight steps": weight_steps}
            self.cache.prefixes = config.prefixes(self.cache, origin, cache_folder)
        self.executor = config.executor(model, self.cache)
        self.prefill = OneToken(self.executor, config.sampler)
        self.decoding = config.decoding(model, source, self.executor, config) if config.decoding else self.prefill
        if self.cache is not None:
            self.cache.lookahead = self.decoding.lookahead
        self.scheduler = config.scheduler(self.cache)
        self.num_steps = self.num_decoding_steps = self.num_decoded = 0
        self.scheduling_s = 0.0
        for warm in config.warm:
            warm(model)

    @torch.inference_mode()
    def step(self, *, is_more_coming: bool, now_s: Callable[[], float]) -> Plan:
        """Schedule, execute, sample, retire. Returns what was planned: which sequences moved, if any."""
        started_s = now_s()
        plan = self.scheduler.schedule(is_more_coming=is_more_coming, now_s=started_s)
        planned_s = now_s()
        if plan.preempted:
            self.decoding.release(plan.preempted)
        moved = plan.sequences
        for sequence in moved:
            if sequence.scheduled_s is None:
                sequence.scheduled_s = started_s
        if plan.new:
            self._append(plan.new, self.prefill.advance(plan.new), now_s())
        decoding = plan.decoding
        if plan.chunks:
            along = decoding if self.decoding.joins_chunks else []
            decoding = decoding if not along else []
            ending = [chunk.sequence for chunk in plan.chunks if chunk.is_last]
            self._append([*ending, *along], self.prefill.advance_mixed(plan.chunks, along), now_s())
        if decoding:
            self._append(decoding, self.decoding.advance(decoding), now_s())
        self.num_decoding_steps += bool(plan.decoding)
        self.num_decoded += len(plan.decoding)
        retiring_s = now_s()
        finished = self.scheduler.retire()
        if finished:
            self._release(finished)
        if moved:
            self.scheduling_s += planned_s - started_s + now_s() - retiring_s
        return plan

    def _append(self, sequences: list[Sequence], outputs: list[list[int]], at_s: float) -> None:
        """Give sequences the tokens of one pass of the model, which are there at the same time."""
        for sequence, tokens in zip(sequences, outputs, strict=True):
            for token in tokens:
                sequence.append(token, at_s)
        self.num_steps += 1

    def prepare(self, workload: Workload) -> Prepared:
        """Tokenize every prompt and cut it to length.

        Raises:
            UsageError: a request needs more positions than the model has, or more memory than the cache may take.
        """
        prepared = []
        for request in workload.requests:
            ids = prompt_ids(request, self.source.tokenizer)
            self.source.check_positions(len(ids), request.max_new_tokens)
            self._check_room(len(ids) + request.max_new_tokens)
            prepared.append((request, ids))
        return Prepared(workload.scenario, tuple(prepared), workload.concurrency)

    def _check_room(self, num_tokens: int) -> None:
        cache = self.cache
        if cache is not None and (num_blocks := cache.blocks_for(num_tokens)) > cache.max_blocks:
            raise UsageError(
                f"a request of {num_tokens} tokens was asked for; its keys and values take "
                f"{num_blocks * cache.block_bytes:,} bytes, kv_cache may take {cache.budget_bytes:,}; raise its "
                "budget_bytes, or lower --prompt-tokens or --new-tokens"
            )

    @property
    def prefixes(self) -> PrefixCache | None:
        """What earlier prompts left for later ones, where the Recipe keeps it."""
        return self.cache.prefixes if self.cache is not None else None

    @property
    def reusable_tokens(self) -> int:
        """Tokens that a prompt must have before it leaves something for later ones; 0 where nothing is kept."""
        return self.cache.block_size if self.cache is not None and self.prefixes is not None else 0

    def relocate(self) -> None:
        """Move the weights; a model that no cache holds has so many pages that their luck evens out, and stays."""
        models = self._models()
        if self.device == "cpu" and weights_bytes(models) <= _MOST_MOVED_BYTES:
            relocate(models)
            self.executor.relocate()

    def drop_caches(self) -> None:
        """Drop stored prefixes, preloaded ones too. Weights stay: the engine has no file to read them from again."""
        if self.prefixes is not None:
            self.prefixes.clear()

    def save_prefix(self, name: str, request: Request) -> Path:
        """Serve a request and save the keys and values of its prompt, for `preload`; returns the file.

        Raises:
            UsageError: nothing keeps them, the prompt does not fit, or see `PrefixCache.save`.
        """
        if self.prefixes is None:
            raise UsageError("a prefix was to be saved, the recipe keeps none; add prefix_cache to it")
        prepared = self.prepare(Workload("prefix", "single_stream", (request,)))
        self.serve(prepared)
        return self.prefixes.save(name, prepared.requests[0][1])

    def serve(self, prepared: Prepared) -> Trace:
        """Serve the requests to their last token; the clock runs from the call."""
        sequences = [
            Sequence(index, list(ids), request.max_new_tokens, request.arrival_s)
            for index, (request, ids) in enumerate(prepared.requests)
        ]
        before = self.counters()
        start_ns = time.perf_counter_ns()

        def now_s() -> float:
            return (time.perf_counter_ns() - start_ns) * 1e-9

        try:
            requests = [request for request, _ in prepared.requests]
            load = load_of(prepared.scenario, requests, concurrency=prepared.concurrency, start_ns=start_ns)
            self._serve_load(load, sequences, now_s)
            duration_s = now_s()
        except BaseException:
            self._forget(sequences)
            raise
        counters = {name: count - before[name] for name, count in self.counters().items()}
        if self.prefixes is not None:
            counters["prefix_bytes"] = float(self.prefixes.num_bytes)
        return Trace(tuple(sequence.trace() for sequence in sequences), duration_s, counters)

    def _serve_load(self, load: Load, sequences: list[Sequence], now_s: Callable[[], float]) -> None:
        num_left = len(sequences)
        with load:
            while num_left:
                for index, sent_s in load.due():
                    sequences[index].arrival_s, sequences[index].sent_s = load.arrival_s(index), sent_s
                    self.scheduler.add(sequences[index])
                plan = self.step(is_more_coming=load.is_more_coming, now_s=now_s)
                for sequence in plan.sequences:
                    if sequence.is_finished:
                        num_left -= 1
                        load.done(sequence.index, now_s())
                if not plan.sequences and num_left:
                    load.wait(timeout=1.0 if (wait_s := plan.wait_s(now_s())) is None else wait_s)

    def _forget(self, sequences: list[Sequence]) -> None:
        """Leave no trace of a pass that broke off."""
        self.scheduler = self.config.scheduler(self.cache)
        self._release(sequences)

    def _release(self, sequences: list[Sequence]) -> None:
        self.decoding.release(sequences)
        if self.cache is not None:
            self.cache.release(sequences)

    def counters(self) -> dict[str, float]:
        """What was counted since it was built; what passes say of it is the difference."""
        prefixes = self.prefixes.counters if self.prefixes is not None else {}
        return {
            "steps": float(self.num_steps),
            "decoding_steps": float(self.num_decoding_steps),
            "decoded": float(self.num_decoded),
            "scheduling_s": self.scheduling_s,
            **self.executor.counters,
            **self.scheduler.counters,
            **prefixes,
            **self.decoding.counters,
        }

    def _models(self) -> nn.ModuleList:
        """All models that it computes with."""
        return nn.ModuleList((self.model, *(executor.model for executor in self.decoding.executors)))

    def quality(self, effort: str) -> Mapping[str, float]:
        """Quality against the fp32 reference; {} for random weights, whose text means nothing."""
        from labkit.engine.quality import evaluate

        return evaluate(self, effort)

    def cost(self, spec: WorkloadSpec) -> Cost:
        """What one pass should need."""
        spec = spec.sized(lambda text: len(self.source.tokenizer.encode(text)))
        cost = DecoderCost.baseline(self.source.config, spec)  # techniques change the sizes
        cost = replace(cost, decode_launches=self.executor.launches_per_layer)
        num_parameters, density = linear_parameters(self.model)
        cost = replace(self.adjust_cost(cost), num_linear_parameters=num_parameters, density=density)
        return self.decoding.refine_cost(cost).phases()

    def facts(self) -> Mapping[str, Any]:
        """Weights in bytes, threads, dtype of activations, kernels chosen so far and their seconds per step."""
        emulated = self._emulated()
        facts = {
            "weights_bytes": weights_bytes(self._models()),
            "kv_cache_bytes": self.cache.num_bytes if self.cache is not None else 0,
            "threads": torch.get_num_threads(),
            "activations": str(self.model.dtype).removeprefix("torch."),
            "kernels": {
                f"{shape.bits} bits {shape.out_features}x{shape.in_features}, {shape.rows} rows": choice.kernel
                for shape, choice in CHOICES.items()
            },
            "kernels_by_phase": self._kernels_by_phase(emulated),
            "emulated": emulated,
            "notes": ["random weights: speed only"] if self.source.has_random_weights else [],
            **self.config.facts(),
        }
        return self.executor.complete(facts, self.cache_folder)

    def _emulated(self) -> list[str]:
        """Dtypes of float weights that the processor has no arithmetic for."""
        if self.device != "cpu":
            return []
        used = {module.weight.dtype for module in self.model.modules() if isinstance(module, Linear)}
        return [dtype for dtype in emulated_dtypes(machine("cpu").isa) if DTYPES[dtype] in used]

    def _kernels_by_phase(self, emulated: list[str]) -> dict[str, Kernels]:
        """What the steps of each phase that were met so far take by their parts."""
        return {
            phase: probe(executor, shapes, sampler=self.config.sampler, emulated=emulated)
            for executor in (self.executor, *self.decoding.executors)
            for phase, shapes in executor.shapes.items()
            if shapes
        }

    def close(self) -> None:
        """Give the memory back."""
        self.executor.close()
        del self.model, self.executor, self.cache, self.prefill, self.decoding


def weights_bytes(model: nn.Module) -> int:
    """Memory of all weights, in bytes, shared ones counted once."""
    parameters = {parameter.data_ptr(): parameter.nbytes for parameter in model.parameters()}
    layers = [module for module in model.modules() if isinstance(module, KernelLayer)]
    # float weights are parameters, of which kernels may hold another layout beside
    packed = sum(layer.num_bytes if layer.is_quantized else layer.packed_bytes for layer in layers)
    return sum(parameters.values()) + packed
