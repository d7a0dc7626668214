"""Exercises of lesson 07: the part that does not divide, the part under the lock, and the peak."""

import math
from collections.abc import Callable, Mapping

from labkit.bench.gil import GilShare
from labkit.bench.scaling import Fit, fit
from labkit.ui.exercises.replies import CORRECT, OPEN, number


def serial_part(answer: float | None, *, rates: Mapping[int, float]) -> str:
    """Amdahl's α of throughput by number of cores."""
    found = fit("Amdahl", rates)
    assert found is not None  # the lesson gives two points
    (_, one), (num, many) = sorted(rates.items())
    return number(
        answer,
        found.serial,
        lambda given: (
            f"with {given:.0%} that do not divide, {num} cores would do {num / (1 + given * (num - 1)):.2f} times what "
            f"one does; they do {many / one:.2f}: solve n / (1 + α (n - 1)) for α"
        ),
        tolerance=0.02,
    )


def lock_share(answer: float | None, *, threads_over_processes: float) -> str:
    """The share g of a step under the lock, where two threads reach this part of two processes."""
    expected = GilShare(1.0, threads_over_processes, 1.0, (1 / threads_over_processes,)).share
    return number(
        answer,
        expected,
        lambda given: (
            f"a share of {given:.0%} would leave two threads 1 / (1 + g²) = {1 / (1 + given**2):.2f} of two processes, "
            f"and they have {threads_over_processes:.2f}"
        ),
        tolerance=0.02,
    )


def peak(answer: Callable[[float, float], float] | None) -> str:
    """A function from α and β of the Universal Scalability Law to the number of cores with the highest throughput."""
    if answer is None:
        return OPEN
    for serial, crosstalk in ((0.05, 0.001), (0.2, 0.01), (0.0, 0.0004)):
        law = Fit("USL", 1.0, serial, crosstalk, num_points=8, error=None)
        given = answer(serial, crosstalk)
        if not math.isclose(given, law.knee or 0.0, rel_tol=0.01):
            return (
                f"with α = {serial} and β = {crosstalk} you say {given:.1f} cores, which reach {law.rate(given):.2f} "
                f"times one; {law.knee:.1f} reach {law.rate(law.knee or 1.0):.2f}: where does the slope of X(n) end?"
            )
    return CORRECT
