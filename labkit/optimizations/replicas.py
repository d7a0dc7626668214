"""Replicas: several processes, each with the whole model, serve one queue of requests.

Idea: what a process computes in Python holds its interpreter's lock, and every operation waits for its slowest thread.
Processes share neither: the cores are divided among them, each replica is pinned to its share, and a request goes to
the replica that is free, of several to the one with the least work before it. Throughput grows with the replicas until
memory delivers no more.
Price: each replica holds its own copy of the weights and its own cache, so memory grows with their number, and all of
them read it through the same bus. One request runs on the cores of one replica only, so its latency grows. A prompt
that one replica has seen is new to the others: a prefix cache finds less. Requests cross a pipe.
No gain: with one request at a time; with a batch that already keeps all cores busy, whose weights one process reads
once for all; where memory bandwidth is the bound.
Reference: Yu et al. 2022, Orca, and Li et al. 2023, AlpaServe (replicas against parallel models); Beazley 2010 on the
interpreter's lock.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from labkit.core.errors import UsageError
from labkit.core.machine import usable_cores
from labkit.optimizations.base import Blueprint, Need, Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.engine.cost import DecoderCost
    from labkit.engine.quality import Provable

TWO_CORES = Need("two cores", lambda: "" if usable_cores() > 1 else "this process may use one; run it with more")


@dataclass(frozen=True)
class Replicas(Optimization):
    """Serve requests with this many processes that divide the cores among them."""

    name: ClassVar[str] = "replicas"
    title: ClassVar[str] = "Replicas"
    slot: ClassVar[Slot] = Slot.RUNTIME
    exact: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (TWO_CORES,)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)  # it divides cores

    num: int = knob(2, "processes that hold the model", low=1, high=256)
    oversubscribe: bool = knob(False, "allow more processes than cores", choices=(False, True))

    @property
    def required(self) -> tuple[Need, ...]:
        """One core is enough for one replica, and for any number of them that is asked for nevertheless."""
        return () if self.num == 1 or self.oversubscribe else self.needs

    @contextmanager
    def process(self) -> Iterator[Mapping[str, Any]]:
        """Nothing to set here: the parent only hands out requests.

        Raises:
            UsageError: more replicas than this process may use cores.
        """
        if self.num > usable_cores() and not self.oversubscribe:
            raise UsageError(
                f"{self.step.text} was asked for; this process may use {usable_cores()} cores; "
                "allowed: 1 to that many, or more with oversubscribe=True"
            )
        yield {}

    def wrap(self, build: "Callable[[], Provable]", blueprint: Blueprint) -> "Provable":
        """Start the replicas, each of which builds the Engine by itself, and put their queue before them."""
        from labkit.engine.replicated import Replicated

        return Replicated(asdict(blueprint), partition(sorted(os.sched_getaffinity(0)), self.num))

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """As many steps at a time as there are requests for."""
        return replace(cost, replicas=self.num)


def partition(cores: list[int], num: int) -> list[list[int]]:
    """Neighbouring cores for each of `num` replicas, as even as can be; where they are too few, one each in turn."""
    if num > len(cores):
        return [[cores[index % len(cores)]] for index in range(num)]
    return [cores[index * len(cores) // num : (index + 1) * len(cores) // num] for index in range(num)]
