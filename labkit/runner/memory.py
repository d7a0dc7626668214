"""Memory: what a recipe will need, what the machine has, what a process has held."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.errors import Unavailable
from labkit.core.recipe import Recipe
from labkit.core.workload import WorkloadSpec

if TYPE_CHECKING:
    from labkit.engine.cost import DecoderCost
    from labkit.model.config import ModelConfig

PROCESS_BYTES = 400 * 2**20
"""Of a worker that has imported torch and nothing else."""

_SHARE = 0.9  # of what is free; the rest is for everyone else on the machine


@dataclass(frozen=True)
class Need:
    """Memory one entry takes: bytes it holds once built, and more bytes only while it is built."""

    label: str
    device: str
    held_bytes: int
    building_bytes: int = 0


def plan_rounds(needs: Sequence[Need], free_bytes: Mapping[str, int]) -> list[list[int]]:
    """Which entries are alive together: all where they fit, else each with the baseline (index 0).

    Raises:
        Unavailable: not even a pair, or a single one, fits; both figures are named.
    """
    everyone = list(range(len(needs)))
    rounds = [everyone]
    if len(everyone) > 2 and any(_is_overfull(needs, device, free) for device, free in free_bytes.items()):
        rounds = [[0, index] for index in everyone[1:]]
    for indices in rounds:
        for device, free in free_bytes.items():
            members = [needs[index] for index in indices if needs[index].device == device]
            if _is_overfull(members, device, free):
                raise Unavailable(
                    f"{' beside '.join(repr(need.label) for need in members)} needs {_gib(_peak_bytes(members))} of "
                    f"memory; {_gib(free)} are free on {device}, of which labkit takes up to {_SHARE:.0%}; "
                    "choose a smaller model, or measure fewer recipes at a time"
                )
    return rounds


def recipe_need(recipe: Recipe, config: "ModelConfig", spec: WorkloadSpec, *, device: str) -> Need:
    """Memory of our engine under a recipe, its draft model, caches and process included; fp32 while it is built."""
    from labkit.engine.cost import DecoderCost
    from labkit.optimizations import bind

    cost = bind(recipe).cost(DecoderCost.baseline(config, spec.uniform()))
    held, cache = _weights_bytes(cost), _cache_bytes(replace(cost, num_ranks=1))
    if cost.draft is not None:
        held += _weights_bytes(cost.draft) if cost.draft.has_weights else 0
        cache += _cache_bytes(cost.draft)
    building = max(0, int(4 * config.num_parameters * cost.num_build_copies) - held)
    held += cache + cost.prefix_bytes + cost.num_ranks * PROCESS_BYTES
    if cost.replicas > 1:  # and the process that hands out their requests
        held, building = cost.replicas * held + PROCESS_BYTES, cost.replicas * building
    return Need(recipe.text or "baseline", device, held, building)


def _weights_bytes(cost: "DecoderCost") -> int:
    """Weights of a model, an embedding that is not also its head included.

    Of ranks that share every layer each holds the embedding; in a pipeline embedding and head are on different ones.
    """
    num_embeddings = int(cost.num_ranks > 1 or not cost.config.is_tied)
    if cost.num_ranks > 1 and not cost.num_microbatches:
        num_embeddings = cost.num_ranks
    return int(cost.held_bytes + num_embeddings * cost.config.num_head_parameters * cost.activation_bytes)


def _cache_bytes(cost: "DecoderCost") -> int:
    most = max(phase.bytes_by_kind.get("kv_cache", 0.0) for phase in cost.phases().phases.values())
    return int(min(most, cost.kv_budget_bytes))


def peer_need(peer: Recipe, config: "ModelConfig", *, device: str) -> Need:
    """Memory of a peer, which labkit only knows roughly: 16-bit weights unless it is told to use fp32."""
    knobs = dict(peer.steps[0].knobs)
    weights = config.num_parameters * (4 if knobs.get("dtype") == "fp32" else 2)
    return Need(peer.text, device, weights + PROCESS_BYTES)


def forget_peak_memory(device: str) -> None:
    """Count the peak anew from what is held now, where the system lets a process do that."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    for process in _own_processes():
        with suppress(OSError):  # no Linux, or a sandbox that forbids it: the peak then includes the building
            Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_memory_bytes(device: str) -> int:
    """Most memory this process has held: resident on the CPU, allocated by torch on CUDA.

    On the CPU the peaks of the processes that it started are added, pages that they share counted in each.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    if Path("/proc/self/status").exists():  # not ru_maxrss, which a child inherits from the process that started it
        return sum(map(_peak_of, _own_processes()))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _own_processes() -> list[int]:
    """Ids of this process and of all that it started."""
    import psutil

    return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


def _peak_of(process: int) -> int:
    """Most memory that a process has held, in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]  # none in a zombie
    return 1024 * sum(peaks)


def _is_overfull(needs: Sequence[Need], device: str, free_bytes: int) -> bool:
    return _peak_bytes([need for need in needs if need.device == device]) > _SHARE * free_bytes


def _peak_bytes(needs: Sequence[Need]) -> int:
    """All of them held, while the hungriest is built: they are built one after another."""
    return sum(need.held_bytes for need in needs) + max((need.building_bytes for need in needs), default=0)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
