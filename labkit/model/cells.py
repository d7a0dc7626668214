"""Cells of a recurrent layer, by name; known without torch."""

from typing import Literal

Cell = Literal["simple", "gru", "lstm"]

GATES: dict[Cell, int] = {"simple": 1, "gru": 3, "lstm": 4}
"""Gates of a cell: its weights are so many times as wide as its state. Keras orders them z, r, h and i, f, c, o."""
