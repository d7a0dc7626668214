"""Cost: what a Recipe should need, by phase. The limit and the prediction of a Run come from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_INDEX_BYTES = 4


@dataclass(frozen=True)
class Phase:
    """Work of one step of a phase, and how often the step runs in a pass.

    Attributes:
        num_steps: times the step runs in a pass.
        num_outputs: output tokens that all its steps together yield.
        bytes_by_kind: memory traffic of one step, in bytes: `weights`, `kv_cache`, `activations`.
        flops_by_dtype: arithmetic of one step, in FLOPs, by the dtype it runs in.
        kernel_launches: operations dispatched in one step.
        communication_bytes: bytes that a rank sends in one step, the mean over ranks.
        num_messages: messages between ranks, one after another, in one step.
        transfer_bytes: bytes that cross the link between CPU and GPU in one step.
        is_overlapped: whether they do so while the step computes.
        device: where the step is computed; '' for the device of the Run.
        told_as: the one term that all of its predicted time goes under; '' for a term of each kind.
    """

    num_steps: float
    num_outputs: float
    bytes_by_kind: Mapping[str, float] = field(default_factory=dict)
    flops_by_dtype: Mapping[str, float] = field(default_factory=dict)
    kernel_launches: float = 0.0
    communication_bytes: float = 0.0
    num_messages: float = 0.0
    transfer_bytes: float = 0.0
    is_overlapped: bool = False
    device: str = ""
    told_as: str = ""

    @property
    def step_bytes(self) -> float:
        """All memory traffic of one step: also the working set that repeats from step to step."""
        return sum(self.bytes_by_kind.values())


@dataclass(frozen=True)
class Cost:
    """Phases of a pass by name, in the order they run (for a decoder: `prefill`, `decode`)."""

    phases: Mapping[str, Phase]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Cost":
        """The inverse of `to_dict`."""
        return cls({name: Phase(**phase) for name, phase in fields["phases"].items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def csr_bytes(density: float, value_bytes: float) -> float:
    """Bytes a weight of a matrix in compressed rows: the share that is not zero, each with the index of its column."""
    return density * (value_bytes + _INDEX_BYTES)
