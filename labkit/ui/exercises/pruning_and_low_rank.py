"""Exercises of lesson 04: the rank and the sparsity that save anything, and a recipe that leaves less to read."""

from labkit.core.cost import csr_bytes
from labkit.core.errors import UsageError
from labkit.core.workload import WorkloadSpec
from labkit.engine.cost import DecoderCost
from labkit.model.config import ModelConfig
from labkit.optimizations import bind
from labkit.ui.exercises.replies import CORRECT, OPEN, number

_LEAST_GONE = 0.4


def largest_rank(answer: float | None, *, rows: int, columns: int) -> str:
    """The largest rank at which two factors hold fewer numbers than the matrix."""
    expected = (rows * columns - 1) // (rows + columns)

    def hint(given: float) -> str:
        held = f"two factors of rank {given:g} hold {given * (rows + columns):,.0f} numbers"
        return f"{held}, the matrix {rows * columns:,}" + ("; a larger rank saves too" if given < expected else "")

    return number(answer, expected, hint, tolerance=0)


def least_sparsity(answer: float | None, *, value_bytes: float) -> str:
    """The share of zeros from which on compressed rows take fewer bytes than the matrix."""
    expected = 1 - value_bytes / csr_bytes(1.0, value_bytes)

    def hint(given: float) -> str:
        held = csr_bytes(1 - given, value_bytes)
        return f"at {given:.0%} zeros a weight takes {held:.2f} bytes, with its index; in the matrix {value_bytes:g}"

    return number(answer, expected, hint)


def smaller_model(answer: str | None, sizes: ModelConfig) -> str:
    """A recipe of pruning that leaves at least two fifths fewer bytes of the blocks' weights to read in 16 bits."""
    if answer is None:
        return OPEN
    try:
        bound = bind(answer)
    except UsageError as error:
        return str(error)
    start = DecoderCost.baseline(sizes, WorkloadSpec("any", "single_stream", prompt_tokens=64, new_tokens=64))
    cost = bound.cost(start)
    if cost.linear_bytes != 2:
        return "16 bits are asked for: add precision(dtype='bf16')"
    gone = 1 - cost.linear_parameters / start.linear_parameters
    if gone >= _LEAST_GONE:
        return CORRECT
    zeros = "; zeros are read like any other number" if cost.density < 1 or "2:4" in answer else ""
    return f"it leaves {1 - gone:.0%} of the blocks' weights to read{zeros}"
