"""Reader: the figures that numeric questions are made of, from this machine, its ceilings and the latest Run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from labkit.bench.ceilings import Ceilings
from labkit.core.cost import Cost
from labkit.core.machine import Machine
from labkit.core.run import Run
from labkit.model.config import ModelConfig

COMMAND = "labkit bench --recipe kv_cache --effort quick"
"""What makes a Run, and with it the ceilings, that every numeric question can be asked of."""

MACHINE_FIGURES = ("machine_name", "num_cores", "memory_bytes", "cache_bytes")
CEILING_FIGURES = ("read_bytes_per_s", "flops_per_s", "dispatch_s")
MODEL_FIGURES = (
    "num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size", "intermediate_size",
)  # fmt: skip
RUN_FIGURES = (
    "model", "recipe", "dtype", "num_parameters", "weights_bytes", "prompt_tokens", "new_tokens", "num_requests",
    "num_launches", "step_weights_bytes", "step_kv_bytes", "step_bytes",
)  # fmt: skip
MEASURED_FIGURES = ("ttft_s", "tpot_s", "e2e_s", "output_tok_per_s", "prefill_tok_per_s", "step_s")
FIGURES = (*MACHINE_FIGURES, *CEILING_FIGURES, *MODEL_FIGURES, *RUN_FIGURES, *MEASURED_FIGURES)
"""Every figure that a question may name."""

Figures = Mapping[str, float | str]


@dataclass(frozen=True)
class Reader:
    """Figures by name, and why a measured one may be missing: "" where nothing is wrong with the Run."""

    figures: Figures
    problem: str = ""

    @classmethod
    def of(
        cls, here: Machine, run: Run | None = None, ceilings: Ceilings | None = None, sizes: ModelConfig | None = None
    ) -> Reader:
        """What is known of a machine, of a Run on it, of the machine's ceilings and of the sizes of the Run's model.

        Of an invalid Run only what was counted is taken, none of what was timed.
        """
        figures = dict(_of_machine(here, run.device if run else "cpu"))
        if ceilings is not None:
            figures |= _of_ceilings(ceilings, run)
        if run is None:
            return cls(figures)
        figures |= _of_sizes(sizes) | dict(_of_run(run))
        if run.is_valid:
            figures |= dict(_of_metrics(run))
            return cls(figures)
        return cls(figures, ", ".join(fault.code for fault in run.faults) or run.status)


def _of_machine(here: Machine, device: str) -> Iterator[tuple[str, float | str]]:
    is_gpu = device == "cuda" and here.gpu is not None
    yield "machine_name", str(here.gpu) if is_gpu else here.cpu
    yield "num_cores", here.num_cores
    yield "memory_bytes", (is_gpu and here.gpu_memory_bytes) or here.memory_bytes
    if here.caches_bytes:
        yield "cache_bytes", max(here.caches_bytes.values())


def _of_ceilings(ceilings: Ceilings, run: Run | None) -> dict[str, float | str]:
    """Rates that hold for the working set and the dtype of the Run; for main memory and the best dtype without one."""
    phase = _decode(run) if run else {}
    working_set_bytes = sum(phase.get("bytes_by_kind", {}).values()) or ceilings.read_bytes_per_s[-1][0]
    dtype = next(iter(phase.get("flops_by_dtype", {})), "")
    figures: dict[str, float | str] = {
        "read_bytes_per_s": ceilings.bandwidth(working_set_bytes),
        "flops_per_s": ceilings.flops(dtype),
    }
    return figures | ({} if ceilings.dispatch_s is None else {"dispatch_s": ceilings.dispatch_s})


def _of_sizes(sizes: ModelConfig | None) -> dict[str, float | str]:
    return {} if sizes is None else {name: getattr(sizes, name) for name in MODEL_FIGURES}


def _of_run(run: Run) -> Iterator[tuple[str, float | str]]:
    yield "model", str(run.model.get("name", ""))
    yield "recipe", run.label
    for name, value in (
        ("num_parameters", run.model.get("num_parameters")),
        ("weights_bytes", run.build.get("weights_bytes")),
        ("num_requests", run.workload.get("num_requests")),
    ):
        if value:
            yield name, float(value)
    for name in ("prompt_tokens", "new_tokens"):
        if run.workload.get(f"min_{name}") is None and not run.workload.get("replay"):
            yield name, float(run.workload[name])
    phase = _decode(run)
    if phase:
        kinds = phase["bytes_by_kind"]
        yield "dtype", next(iter(phase["flops_by_dtype"]))
        yield "num_launches", phase["kernel_launches"]
        yield "step_weights_bytes", kinds["weights"]
        yield "step_bytes", sum(kinds.values())
        if kinds.get("kv_cache"):
            yield "step_kv_bytes", kinds["kv_cache"]


def _of_metrics(run: Run) -> Iterator[tuple[str, float]]:
    for name in ("ttft_s", "tpot_s", "e2e_s", "output_tok_per_s", "prefill_tok_per_s"):
        if run.metrics.get(name):
            yield name, float(run.metrics[name]["value"])
    is_alone = run.workload.get("scenario") == "single_stream" and "acceptance_rate" not in run.metrics
    if is_alone and run.metrics.get("tpot_s") and not _is_shared(run):  # else a token and a step are two things
        yield "step_s", float(run.metrics["tpot_s"]["value"])


def _decode(run: Run) -> dict[str, Any]:
    """The phase of decoding as plain data, {} for a System without one."""
    phase = Cost.of(run.cost).phases.get("decode") if run.cost else None
    return {} if phase is None else vars(phase)


def _is_shared(run: Run) -> bool:
    return bool(run.metrics.get("communication_share")) or "replicas" in run.build
