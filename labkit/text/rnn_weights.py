"""RnnWeights: the arrays of an RNN text classifier in the layout of Keras, whoever computes with them."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labkit.core.errors import CheckpointError, UsageError
from labkit.model.cells import GATES, Cell

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RnnWeights:
    """Embedding, one recurrent layer, a dense layer. G gates, H units, V ids, E values of an embedding, C classes.

    Attributes:
        embedding: [V, E].
        kernel: [E, G · H], of the input. bias: [G · H].
        recurrent: [H, G · H], of the state. recurrent_bias: [G · H], zeros but for a GRU, which has two.
        dense: [H, C]. dense_bias: [C].
    """

    cell: Cell
    embedding: Array
    kernel: Array
    bias: Array
    recurrent: Array
    recurrent_bias: Array
    dense: Array
    dense_bias: Array

    def __post_init__(self) -> None:
        if self.cell not in GATES:
            raise UsageError.unknown("cell", self.cell, GATES)
        width, (hidden, classes) = GATES[self.cell] * self.units, self.dense.shape
        shapes = {
            "kernel": (self.embedding.shape[1], width),
            "bias": (width,),
            "recurrent": (hidden, width),
            "recurrent_bias": (width,),
            "dense_bias": (classes,),
        }
        for name, shape in shapes.items():
            if (seen := getattr(self, name).shape) != shape:
                raise CheckpointError(f"weights of a {self.cell} RNN: {name} is {seen}; expected {shape}")
        for name, array in self.arrays.items():
            if not np.isfinite(array).all():
                raise CheckpointError(f"weights of a {self.cell} RNN: {name} holds values that are not finite")

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "cell"}

    @property
    def units(self) -> int:
        """Width of the state."""
        return len(self.recurrent)

    @property
    def num_classes(self) -> int:
        """Classes that are told apart."""
        return len(self.dense_bias)

    @property
    def num_parameters(self) -> int:
        """As Keras counts them."""
        is_counted = {"recurrent_bias": self.cell == "gru"}
        return sum(array.size for name, array in self.arrays.items() if is_counted.get(name, True))

    @cached_property
    def table(self) -> Array:
        """[V, G · H]: what each word adds to the gates, embedding · kernel + bias. No step depends on more of it."""
        table: Array = self.embedding @ self.kernel + self.bias
        return table

    def pruned(self, units: int) -> "RnnWeights":
        """With just the units whose outgoing weights, to the other states and the classes, are largest in norm.

        Raises:
            UsageError: it has fewer.
        """
        if not 1 <= units <= self.units:
            raise UsageError(f"{units} units were to be left; this RNN has {self.units}; allowed: 1 to that many")
        norms = np.linalg.norm(self.recurrent, axis=1) + np.linalg.norm(self.dense, axis=1)
        kept = np.sort(np.argsort(-norms, kind="stable")[:units])
        columns = np.concatenate([kept + gate * self.units for gate in range(GATES[self.cell])])
        return replace(
            self,
            kernel=self.kernel[:, columns],
            bias=self.bias[columns],
            recurrent=self.recurrent[np.ix_(kept, columns)],
            recurrent_bias=self.recurrent_bias[columns],
            dense=self.dense[kept],
        )

    def save(self, path: Path, **metadata: str) -> None:
        """Write safetensors; metadata are texts to keep beside."""
        from safetensors.numpy import save_file

        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        save_file(arrays, path, metadata={"cell": self.cell, **metadata})

    @classmethod
    def load(cls, path: Path) -> "tuple[RnnWeights, dict[str, str]]":
        """What `save` wrote, with its metadata.

        Raises:
            CheckpointError: the file is none of these, or was cut short.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                metadata = dict(file.metadata() or {})
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return cls(cell=metadata.pop("cell"), **arrays), metadata
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"weights {str(path)!r} cannot be read: {error}; remedy: delete the file") from None


def random_weights(
    cell: Cell, *, vocabulary: int = 10_000, embedding: int = 64, units: int = 64, classes: int = 10, seed: int = 0
) -> RnnWeights:
    """Weights in the size of trained ones, for tests and for timings, which do not depend on what they say."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float) -> Array:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    width = GATES[cell] * units
    return RnnWeights(
        cell=cell,
        embedding=draw(vocabulary, embedding, scale=0.3),
        kernel=draw(embedding, width, scale=embedding**-0.5),
        bias=draw(width, scale=0.1),
        recurrent=draw(units, width, scale=0.5 * units**-0.5),
        recurrent_bias=draw(width, scale=0.1 if cell == "gru" else 0.0),
        dense=draw(units, classes, scale=units**-0.5),
        dense_bias=draw(classes, scale=0.1),
    )
