"""What the bench measures: anything that serves a Workload and can answer for its output."""

from collections.abc import Mapping
from typing import Any, Protocol

from labkit.core.cost import Cost
from labkit.core.trace import Trace
from labkit.core.workload import Workload, WorkloadSpec


class System(Protocol):
    """A program under test. Built before it is measured, closed after; all its methods run in one process."""

    def prepare(self, workload: Workload) -> Any:
        """Everything that is not timed: tokenize the prompts, check that they fit. `serve` takes the result.

        Raises:
            UsageError: a request that this System cannot serve.
        """

    def relocate(self) -> None:
        """Move what is read over and over to other memory, where that is possible; not timed.

        Which pages a process happened to get makes it faster or slower than its twin by some percent for as long as it
        lives. Moved before every pass, they are noise that intervals account for, and no bias.
        """

    def drop_caches(self) -> None:
        """Drop what requests left that later ones could profit from; not timed, and only for `cold` workloads."""

    def serve(self, prepared: Any) -> Trace:
        """Serve the prepared requests, the clock running from the call; ignores end-of-sequence so work is equal."""

    def quality(self, effort: str) -> Mapping[str, float]:
        """Quality of the output against the System's own naive reference; {} where that has no meaning."""

    def cost(self, spec: WorkloadSpec) -> Cost:
        """What one pass should need."""

    def facts(self) -> Mapping[str, Any]:
        """What a Run records of the build: weights_bytes, threads, kernels, notes."""

    def close(self) -> None:
        """Give back memory, files and processes."""
