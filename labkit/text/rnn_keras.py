"""The RNN classifier in Keras 3 on TensorFlow, and the ways in which Keras lets it be called.

TensorFlow is imported by the functions that need it: a process that measures it holds no torch beside it.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from labkit.core.errors import Unavailable, UsageError
from labkit.core.machine import usable_cores
from labkit.model.cells import GATES, Cell
from labkit.text.rnn_weights import Array, RnnWeights
from labkit.text.vocabulary import Ids

KERAS_RUNTIMES: tuple[str, ...] = ("keras_predict", "keras_call", "tf_function", "xla")

_LAYERS: dict[Cell, str] = {"simple": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}


def create_rnn_model(
    input_shape: tuple[int | None, ...],
    num_classes: int,
    *,
    cell: Cell = "simple",
    units: int = 64,
    vocabulary: int = 10_000,
    embedding: int = 64,
) -> Any:
    """A compiled and built Keras model: ids of words → probabilities of classes; id 0 is padding, and masked.

    `create_rnn_model((100,), 10)` has 640,000 + 8,256 + 650 = 648,906 parameters.

    Args:
        input_shape: (words,) of a text; (None,) takes any number.
        num_classes: two or more.

    Raises:
        UsageError: a shape, number or cell that cannot be. Unavailable: TensorFlow is not installed.
    """
    if len(input_shape) != 1 or not (input_shape[0] is None or input_shape[0] >= 1):
        raise UsageError(f"input_shape is {input_shape!r}; allowed: (words of a text,) as in (100,), or (None,)")
    if num_classes < 2:
        raise UsageError(f"num_classes is {num_classes!r}; allowed: 2 or more, one class leaves nothing to tell apart")
    if cell not in GATES:
        raise UsageError.unknown("cell", cell, GATES)
    keras = _tensorflow().keras
    model = keras.Sequential(
        [
            keras.Input(shape=input_shape, dtype="int32"),
            keras.layers.Embedding(input_dim=vocabulary, output_dim=embedding, mask_zero=True),
            getattr(keras.layers, _LAYERS[cell])(units=units),
            keras.layers.Dense(units=num_classes, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def model_of(weights: RnnWeights, *, length: int | None = None) -> Any:
    """A Keras model with these weights, for texts of so many words; None: any number."""
    vocabulary, embedding = weights.embedding.shape
    sizes = {"units": weights.units, "vocabulary": vocabulary, "embedding": embedding}
    model = create_rnn_model((length,), weights.num_classes, cell=weights.cell, **sizes)
    bias = np.stack([weights.bias, weights.recurrent_bias]) if weights.cell == "gru" else weights.bias
    model.set_weights([weights.embedding, weights.kernel, weights.recurrent, bias, weights.dense, weights.dense_bias])
    return model


def weights_of(model: Any) -> RnnWeights:
    """The weights of a model that `create_rnn_model` made."""
    embedding, kernel, recurrent, bias, dense, dense_bias = (np.asarray(array) for array in model.get_weights())
    cell = next(cell for cell, layer in _LAYERS.items() if layer == type(model.layers[-2]).__name__)
    bias, own = bias if cell == "gru" else (bias, np.zeros_like(bias))
    return RnnWeights(cell, embedding, kernel, bias, recurrent, own, dense, dense_bias)


class KerasClassifier:
    """Probabilities by Keras, in one of `KERAS_RUNTIMES`.

    keras_predict: `model.predict`, made for data sets: callbacks and a data pipeline for each call. keras_call: the
    model as a function, operation by operation. tf_function: traced once into a graph. xla: the graph compiled, for
    one shape; another shape compiles anew, so batches are filled up to `batch`, but for texts that come alone.
    """

    def __init__(self, weights: RnnWeights, *, runtime: str, batch: int = 1) -> None:
        tf = _tensorflow()
        self._batch = batch if runtime == "xla" else 1
        self._call = _caller(tf, model_of(weights), runtime)
        self._num_parameters = weights.num_parameters
        self.threads = tf.config.threading.get_intra_op_parallelism_threads() or usable_cores()
        self.notes = f"TensorFlow {tf.__version__}, Keras {tf.keras.__version__}, {runtime}"

    @property
    def weights_bytes(self) -> int:
        """Keras holds everything in fp32."""
        return 4 * self._num_parameters

    def probabilities(self, ids: Ids) -> Array:
        """[B, T] → [B, C]."""
        missing = -len(ids) % self._batch if len(ids) > 1 else 0
        filled = np.pad(ids, ((0, missing), (0, 0))) if missing else ids
        return np.asarray(self._call(filled))[: len(ids)]


def _caller(tf: Any, model: Any, runtime: str) -> Callable[[Ids], Any]:
    if runtime == "keras_predict":
        return lambda ids: model.predict(ids, batch_size=len(ids), verbose=0)
    if runtime == "keras_call":
        return lambda ids: model(ids, training=False)
    signature = None if runtime == "xla" else [tf.TensorSpec((None, None), tf.int32)]

    def forward(ids: Any) -> Any:
        return model(ids, training=False)

    function = tf.function(forward, input_signature=signature, jit_compile=runtime == "xla")
    return lambda ids: function(tf.constant(ids))


def set_threads(num: int) -> dict[str, int]:
    """Have TensorFlow use so many threads inside an operation and read it back; a process can do so once, at first."""
    tf = _tensorflow()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(num)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        seen = tf.config.threading.get_intra_op_parallelism_threads()
        raise Unavailable(
            f"{num} threads were asked for; TensorFlow has started with {seen or 'as many as cores'} in this process; "
            "measure it in a fresh one, as `labkit bench` does"
        ) from None
    return {"threads": tf.config.threading.get_intra_op_parallelism_threads()}


def _tensorflow() -> Any:
    """TensorFlow with Keras 3.

    Raises:
        Unavailable: it is missing, or Keras was told to use another backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        with nullcontext() if "tensorflow" in sys.modules else _quiet():
            tf = importlib.import_module("tensorflow")
            backend = tf.keras.backend.backend()
    except (ImportError, AttributeError) as error:
        raise Unavailable(f"an RNN in Keras was asked for; {error}; remedy: pip install 'labkit[tensorflow]'") from None
    if backend != "tensorflow":
        raise Unavailable(f"Keras runs on {backend} here; remedy: unset KERAS_BACKEND and start anew")
    return tf


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing reaches stderr, not from C++ either: as TensorFlow starts it logs before its own level counts."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
