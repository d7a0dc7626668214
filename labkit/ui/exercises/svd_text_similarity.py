"""Exercises of lesson 09: the article's decomposition repaired, what vectors take, and the rank that keeps enough."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from labkit.ui.exercises.replies import CORRECT, OPEN, number

Decomposition = Callable[[npt.NDArray[np.float64], int], npt.NDArray[np.float64]]

_X = np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]])
_Y = np.array([[5.0, 6.0, 1.0], [7.0, 8.0, 2.0], [1.0, 0.0, 4.0]])
_SPARSE_BYTES = 4 + 8  # of a weight in fp32, and of the number of its column
_FP32_BYTES = 4


def repaired(answer: Decomposition | None) -> str:
    """A function of a matrix and k that gives the best approximation of rank k, in the matrix's own shape."""
    from labkit.text.similarity import text_similarity

    if answer is None:
        return OPEN
    for k in (1, 2):
        try:
            near_x, near_y = (np.asarray(answer(matrix, k)) for matrix in (_X, _Y))
        except ValueError as error:
            return f"k = {k} and a matrix of 2 × 3 raise ValueError: {error}; are the last factor's rows the first k?"
        if near_x.shape != _X.shape or near_y.shape != _Y.shape:
            return f"a matrix of 2 × 3 became one of {near_x.shape}; the columns of X and of Y must stay the same terms"
        if not np.allclose(near_x @ near_y.T, text_similarity(_X, _Y, k)):
            return f"with k = {k} the inner products are off; numpy gives the last factor transposed already"
    return CORRECT


def break_even_rank(answer: float | None, *, terms_per_text: int) -> str:
    """The rank at which vectors in fp32 take as many bytes as compressed rows of so many weights a text."""
    expected = terms_per_text * _SPARSE_BYTES / _FP32_BYTES

    def hint(given: float) -> str:
        if given == terms_per_text:
            return "beside each weight the number of its column is stored, in 8 bytes"
        dense, sparse = given * _FP32_BYTES, terms_per_text * _SPARSE_BYTES
        return f"rank {given:g} takes {dense:,.0f} bytes a text in fp32, compressed rows take {sparse:,}"

    return number(answer, expected, hint, tolerance=0)


def least_rank(answer: int | None, singular_values: Sequence[float], *, share: float) -> str:
    """The least rank whose approximation keeps this share of the squared norm."""
    kept = list(accumulate(value * value for value in singular_values))
    expected = next(rank for rank, sum_ in enumerate(kept, 1) if sum_ >= share * kept[-1])

    def hint(given: float) -> str:
        if given not in range(1, len(kept) + 1):
            return f"a rank is a whole number from 1 to {len(kept)} here"
        part = f"rank {given} keeps {kept[int(given) - 1] / kept[-1]:.1%} of the squared norm"
        return f"{part}, {share:.0%} are wanted" if given < expected else f"{part}; a smaller one keeps enough"

    return number(answer, expected, hint, tolerance=0)
