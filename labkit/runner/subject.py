"""Subject: one entry of a session while it is measured, and the Run it becomes."""

import math
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from labkit.bench.limit import residual, share
from labkit.bench.measure import shortened
from labkit.bench.validity import Calibrations, faults
from labkit.core.effort import EFFORTS
from labkit.core.errors import LabkitError, UsageError, WorkerDied
from labkit.core.metrics import summarize
from labkit.core.run import Fault, Pass, Run
from labkit.core.workload import WorkloadSpec
from labkit.processes.process import Event
from labkit.runner.plan import Entry


def new_id() -> str:
    """A name that no other Run or group has."""
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What all Runs of a session have in common."""

    model: Mapping[str, Any]
    machine: Mapping[str, Any]
    spec: WorkloadSpec
    effort: str
    sweep: str = ""
    group: str = field(default_factory=new_id)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(eq=False)
class Subject:
    """An entry and all that is known of it so far."""

    entry: Entry
    position: int
    id: str = field(default_factory=new_id)
    status: Literal["measuring", "done", "interrupted", "failed"] = "measuring"
    error: str = ""
    ready: Event = field(default_factory=dict)
    proof: Mapping[str, Any] | None = None
    token_share: float = 1.0
    repeats: int = 1
    passes: list[Pass] = field(default_factory=list)
    calibrations: list[Calibrations] = field(default_factory=list)
    machine_noise: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def is_measuring(self) -> bool:
        """Whether more passes are expected of it."""
        return self.status == "measuring"

    @property
    def pass_s(self) -> float:
        """Seconds that a measured pass should take, from the warm-up of its first process."""
        return float(self.ready["pass_s"] * self.token_share * self.repeats)

    def stop(self, status: Literal["done", "interrupted", "failed"], error: str = "") -> None:
        """No more passes will come; only the first reason counts."""
        if self.is_measuring:
            self.status, self.error = status, error

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Let the death or failure of this subject's worker stop this subject only; a UsageError stops all."""
        try:
            yield
        except WorkerDied as error:
            self.stop("interrupted", str(error))
        except UsageError:
            raise
        except LabkitError as error:
            self.stop("failed", str(error))

    def warm(self, answer: Event) -> None:
        """Note what its worker says; of several processes the first one's, which alone is watched until steady."""
        if not self.ready:
            self.ready, self.token_share, self.repeats = answer, answer["token_share"], answer["repeats"]

    def keep(self, measured: Pass, calibrations: Calibrations, *, machine_noise: float, peak_memory_bytes: int) -> None:
        """Add a pass and the calibrations around its block."""
        self.passes.append(measured)
        self.calibrations.append(calibrations)
        self.machine_noise = max(self.machine_noise, machine_noise)
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes)

    def run(self, header: Header) -> Run:
        """The Run as far as it is known; while it is measured that is an interrupted one."""
        ready = self.ready
        metrics = self._metrics(header)
        limit, prediction = ready.get("limit"), ready.get("prediction")
        reached = share(limit, metrics) if limit else None
        return Run(
            id=self.id,
            group=header.group,
            # a microsecond apart, so that the history keeps the order of the plan
            created_utc=(header.created + timedelta(microseconds=self.position)).isoformat(),
            recipe=self.entry.recipe,
            workload=header.spec.to_dict(),
            workload_hash=header.spec.hash,
            model=header.model,
            device=self.entry.device,
            machine=header.machine,
            effort=header.effort,
            sweep=header.sweep,
            status="interrupted" if self.is_measuring else self.status,
            error="the session ended before this Run was complete" if self.is_measuring else self.error,
            passes=tuple(self.passes),
            token_share=self.token_share,
            repeats=self.repeats,
            metrics=metrics,
            build={**ready.get("build", {}), "peak_memory_bytes": self.peak_memory_bytes or None},
            quality={name: value for name, value in ready.get("quality", {}).items() if math.isfinite(value)},
            proof=self.proof,
            cost=ready.get("cost"),
            limit={**limit, "share": reached} if limit else None,
            prediction={**prediction, "residual": residual(prediction, metrics)} if prediction else None,
            faults=self._faults(header, reached if limit and limit["is_calm"] else None)
            if self.status == "done"
            else (),
        )

    def _metrics(self, header: Header) -> dict[str, Any]:
        traces = [measured.trace for measured in self.passes]
        return summarize(traces, scenario=header.spec.scenario) if traces else {}

    def _faults(self, header: Header, limit_share: float | None) -> tuple[Fault, ...]:
        ready = self.ready
        return faults(
            self.passes,
            # a single block has neither a speed to drift from nor a place among others
            calibrations=self.calibrations if EFFORTS[header.effort].can_compare else (),
            is_compared=EFFORTS[header.effort].can_compare,
            machine_noise=self.machine_noise,
            limit_share=limit_share,
            is_steady=ready["build"]["is_steady"],
            proof=self.proof,
            quality=ready["quality"],
            num_expected_outputs=[each.new_tokens for each in shortened(header.spec, self.token_share).lengths],
        )
