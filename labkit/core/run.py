"""Run: one Recipe measured on one Workload and device, with everything needed to judge it. Immutable."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from labkit.core.errors import StoreError
from labkit.core.shape import RUN
from labkit.core.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


@dataclass(frozen=True)
class Fault:
    """One reason why a Run's figures may not be used: a code, what was seen, what is allowed, what helps."""

    code: str
    observed: str
    limit: str
    remedy: str

    @property
    def text(self) -> str:
        """The fault as one line."""
        return f"INVALID({self.code}): {self.observed}; allowed: {self.limit}; {self.remedy}"


@dataclass(frozen=True)
class Pass:
    """One measured pass: the block of the interleaved session it stood in, its raw Trace, its share of alien work.

    `contention` is the share of the machine's core time that other processes or the hypervisor took meanwhile (0 … 1).
    `process` numbers the fresh processes that the session's recipes had at the time, one for each recipe.
    """

    block: int
    trace: Trace
    contention: float = 0.0
    process: int = 0


@dataclass(frozen=True)
class Run:
    """A measured Recipe.

    Attributes:
        id: unique; letters, digits, _ and -. group: the session it was interleaved in; Runs compare only within one.
        created_utc: ISO 8601, a label only.
        recipe: canonical text. workload, workload_hash: the WorkloadSpec's fields and hash.
        model: name, hash, num_parameters, has_random_weights, source.
        device: "cpu" or "cuda". machine: fields of Machine. effort: "glance", "quick", "standard" or "rigorous".
        passes: the raw samples, in block order. token_share: part of the new tokens that a pass ran (1 = all).
            repeats: how often a pass went through the requests of a single stream, each time with other prompts.
        metrics: name → {value, low, high, level, num_samples}, {value} for what was counted, or None where withheld.
        build: weights_bytes, peak_memory_bytes, load_s, warmup_s, is_steady, threads, kernels, notes.
        quality: metric → value, {} where not applicable. proof: outcome of the proof of equal
            output, None without exact parts.
        cost, limit, prediction: what the pass should need; see `bench.limit`.
        sweep: name of the sweep that it is a cell of, "" for none.
        faults: empty for a valid Run. status: "done", "interrupted" or "failed"; a failed Run has its `error`.
    """

    id: str
    group: str
    created_utc: str
    recipe: str
    workload: Mapping[str, Any]
    workload_hash: str
    model: Mapping[str, Any]
    device: str
    machine: Mapping[str, Any]
    effort: str
    status: str = "done"
    error: str = ""
    passes: tuple[Pass, ...] = ()
    token_share: float = 1.0
    repeats: int = 1
    metrics: Mapping[str, Any] = field(default_factory=dict)
    build: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    proof: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] | None = None
    limit: Mapping[str, Any] | None = None
    prediction: Mapping[str, Any] | None = None
    faults: tuple[Fault, ...] = ()
    sweep: str = ""
    schema: int = SCHEMA

    @property
    def is_valid(self) -> bool:
        """Whether its figures may be charted and compared."""
        return self.status == "done" and not self.faults

    @property
    def label(self) -> str:
        """What a table or a chart calls it."""
        return self.recipe or "baseline"

    def to_json(self) -> str:
        """One line of JSON; `Run.from_json` gives an equal Run back."""
        return json.dumps(asdict(self), allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """Read a stored Run.

        Raises:
            StoreError: the text is of a newer schema or no Run; what is wrong in it is named.
        """
        try:
            fields = json.loads(text, parse_constant=_refuse)
            if "\\" in text:
                json.dumps(fields, ensure_ascii=False).encode()  # half a character could not be written anywhere
            if fields["schema"] > SCHEMA:
                raise StoreError(
                    f"a Run of schema {fields['schema']} was asked for; "
                    f"this labkit reads up to {SCHEMA}; upgrade labkit"
                )
            for name, check in RUN.items():
                if name in fields and (wrong := check(fields[name])):
                    raise StoreError(f"a stored Run cannot be read: {name}{wrong}")
            fields["passes"] = tuple(
                Pass(item["block"], Trace.of(item["trace"]), item["contention"], item.get("process", 0))
                for item in fields["passes"]
            )
            fields["faults"] = tuple(Fault(**fault) for fault in fields["faults"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise StoreError(f"a stored Run cannot be read: {type(error).__name__}: {error}") from None

    def frame(self) -> "pd.DataFrame":
        """Raw samples, one row an output: block, request, output, arrival_s, output_s, latency_s, token id."""
        import pandas as pd

        rows = [
            (p.block, i, k, request.arrival_s, at, at - (request.output_s[k - 1] if k else request.arrival_s), token)
            for p in self.passes
            for i, request in enumerate(p.trace.requests)
            for k, (at, token) in enumerate(zip(request.output_s, request.output_ids, strict=True))
        ]
        columns = ["block", "request", "output", "arrival_s", "output_s", "latency_s", "token"]
        return pd.DataFrame(rows, columns=columns)


def _refuse(constant: str) -> None:
    raise StoreError(f"a stored Run cannot be read: it holds {constant}; allowed: finite numbers")
