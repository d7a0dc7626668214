"""Exercises of lesson 10: what an RNN holds, when a folded embedding repays itself, and the fold."""

import math
from collections.abc import Callable

import numpy as np

from labkit.model.cells import GATES, Cell
from labkit.text.rnn_weights import Array, random_weights
from labkit.ui.exercises.replies import CORRECT, OPEN, number


def num_parameters(
    answer: float | None, *, cell: Cell, vocabulary: int, embedding: int, units: int, classes: int
) -> str:
    """The parameters of a classifier with this cell, as Keras counts them."""
    sizes = {"vocabulary": vocabulary, "embedding": embedding, "units": units, "classes": classes}
    expected = random_weights(cell, **sizes).num_parameters
    gates = GATES[cell]

    def hint(given: float) -> str:
        forgotten = {
            expected - vocabulary * embedding: "the embedding holds a row for each word of the vocabulary",
            random_weights("simple", **sizes).num_parameters: f"a {cell} cell has {gates} gates, each with its weights",
            expected - (units + 1) * classes: "the dense layer has weights and a bias, too",
            expected - gates * units: "each gate has a bias; in Keras those of a GRU have two",
        }
        return forgotten.get(int(given), "vocabulary · embedding + gates · units · (embedding + units + biases)")

    return number(answer, expected, hint, tolerance=0)


def texts_that_repay_a_fold(answer: float | None, *, vocabulary: int, words: int) -> str:
    """How many texts of so many words save the products that folding takes once for each word of the vocabulary."""
    expected = vocabulary / words

    def hint(given: float) -> str:
        if math.isclose(given, vocabulary, rel_tol=0.01):
            return f"a text saves a product for each of its {words:,} words"
        return f"{given:g} texts save {given * words:,.0f} products; {vocabulary:,} were spent"

    return number(answer, expected, hint)


def folded(answer: Callable[[Array, Array, Array], Array] | None) -> str:
    """A function of embedding [V, E], kernel [E, G · H] and bias [G · H] to what each word adds to the gates."""
    if answer is None:
        return OPEN
    weights = random_weights("gru", vocabulary=50, embedding=8, units=16)
    expected, given = weights.table, np.asarray(answer(weights.embedding, weights.kernel, weights.bias))
    if given.shape != expected.shape:
        return f"50 words and 3 gates of 16 units make a table of {expected.shape}; yours is {given.shape}"
    if np.allclose(given + weights.bias, expected, atol=1e-5):
        return "the bias is added to every word's row, too: so no step has to"
    if not np.allclose(given, expected, atol=1e-5):
        return f"rows differ from embedding · kernel + bias by up to {np.abs(given - expected).max():.2g}"
    return CORRECT
