"""Scaling: what throughput over the number of cores says about the part of the work that does not divide.

Amdahl's law (1967) leaves a serial part α of one core's time; the Universal Scalability Law (Gunther, Guerrilla
Capacity Planning, 2007) adds what all pairs of cores cost each other, β:

    X(n) = X(1) · n / (1 + α (n - 1) + β n (n - 1))

n / X(n) is linear in its three coefficients, so that both laws are fitted by least squares without any start value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from labkit.core.stats import FloatArray

Law = Literal["Amdahl", "USL"]

NUM_PARAMETERS: dict[Law, int] = {"Amdahl": 2, "USL": 3}
"""What a law has to be told by as many different core counts at least."""

_FULL = 4  # up to here every number of cores is measured


@dataclass(frozen=True)
class Fit:
    """A law with its coefficients.

    Attributes:
        per_s: rate of one core, as fitted. serial: α, the part that does not divide. crosstalk: β, 0 under Amdahl.
        num_points: core counts it was fitted to. error: root mean square of the relative residuals; None where there
            are no more points than parameters, so that any law would pass through them.
    """

    law: Law
    per_s: float
    serial: float
    crosstalk: float
    num_points: int
    error: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the knee."""
        return asdict(self) | {"knee": self.knee}

    def rate(self, num: float) -> float:
        """Throughput of `num` cores."""
        return self.per_s * num / (1 + self.serial * (num - 1) + self.crosstalk * num * (num - 1))

    @property
    def knee(self) -> float | None:
        """Cores beyond which adding some does not pay; None where the law sees no end.

        Under crosstalk it is the peak, after which throughput falls: sqrt((1 - α) / β). Without, it is where
        all cores are half as useful as one alone: 1 + 1 / α.
        """
        if self.crosstalk > 0:
            return max(1.0, math.sqrt(max(0.0, 1 - self.serial) / self.crosstalk))
        return 1 + 1 / self.serial if self.serial > 0 else None


def fit(law: Law, rates: Mapping[int, float]) -> Fit | None:
    """Fit a law to throughput by number of cores; None where there are fewer points than parameters.

    Relative errors are what is made small. A coefficient that would be negative is 0: work that grows faster than the
    cores has no serial part to find. Raises ValueError for core counts below 1 and rates that are not positive.
    """
    if not all(num >= 1 and rate > 0 for num, rate in rates.items()):
        raise ValueError(f"rates: expected positive ones of 1 core or more, got {dict(rates)}")
    num_parameters = NUM_PARAMETERS[law]
    if len(rates) < num_parameters:
        return None
    cores = np.array(sorted(rates), dtype=np.float64)
    times = cores / np.array([rates[int(num)] for num in cores])  # of one core for one core's share of the work
    columns = np.stack((np.ones_like(cores), cores - 1, cores * (cores - 1)))[:num_parameters]
    first, *rest = _non_negative(columns / times)
    serial, crosstalk = (*(float(value / first) for value in rest), 0.0)[:2]
    residuals = first * (1 + serial * (cores - 1) + crosstalk * cores * (cores - 1)) / times - 1
    error = float(np.sqrt(np.mean(residuals**2))) if len(rates) > num_parameters else None
    return Fit(law, float(1 / first), serial, crosstalk, len(rates), error)


def _non_negative(columns: FloatArray) -> list[float]:
    """Coefficients [k] of columns [k, n] whose sum comes closest to 1; those below 0 are left out in turn."""
    kept = list(range(len(columns)))
    while True:
        found, *_ = np.linalg.lstsq(columns[kept].T, np.ones(columns.shape[1]), rcond=None)
        lowest = int(np.argmin(found[1:])) + 1 if len(kept) > 1 else 0
        if lowest == 0 or found[lowest] >= 0:
            values = dict(zip(kept, found, strict=True))
            return [float(values.get(index, 0.0)) for index in range(len(columns))]
        del kept[lowest]


def core_counts(num_cores: int) -> tuple[int, ...]:
    """Numbers of cores to measure: all of few, then one and a half and two times as many in turn, and all cores."""
    counts = set(range(1, min(num_cores, _FULL) + 1)) | {num_cores}
    size = _FULL
    while size < num_cores:
        counts |= {count for count in (size, size * 3 // 2) if count < num_cores}
        size *= 2
    return tuple(sorted(counts))
