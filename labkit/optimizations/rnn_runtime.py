"""RNN runtime: who walks through the steps.

Idea: a plain RNN of 64 units has 8,000 multiplications a word, a microsecond of work. Keras' `predict` prepares data
sets and callbacks for each call, a call of the model dispatches every operation of every step, `tf.function` walks a
recorded graph of them, XLA compiles the graph, torch's own layer (`torch_layer`) walks the steps in C++. Our twin in
torch makes all steps in one call of a native kernel.
Price: a graph is traced and a compiled one compiled for every shape; the twin holds a second copy of the weights.
No gain: for large batches of wide states, where the products take the time: compilers and kernels meet there.
Reference: Chollet et al., Keras; Sabne 2020, XLA: compiling machine learning for peak performance.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from labkit.optimizations.base import Need, Optimization, Slot, knob

if TYPE_CHECKING:
    from labkit.text.classifier import ClassifierSettings


def _missing_tensorflow() -> str:
    return "" if find_spec("tensorflow") else "it is not installed; remedy: pip install 'labkit[tensorflow]'"


TENSORFLOW = Need("tensorflow", _missing_tensorflow)


@dataclass(frozen=True)
class RnnRuntime(Optimization):
    """Compute with this runtime (default of every Recipe without it: keras_predict)."""

    name: ClassVar[str] = "rnn_runtime"
    title: ClassVar[str] = "RNN runtime"
    slot: ClassVar[Slot] = Slot.EXECUTOR
    exact: ClassVar[bool] = True
    systems: ClassVar[tuple[str, ...]] = ("classifier",)

    kind: str = knob(
        "torch",
        "who computes",
        choices=("keras_predict", "keras_call", "tf_function", "xla", "torch_layer", "torch"),
    )

    @property
    def required(self) -> tuple[Need, ...]:
        """Keras needs TensorFlow."""
        return () if self.kind.startswith("torch") else (TENSORFLOW,)

    def settle(self, settings: "ClassifierSettings") -> "ClassifierSettings":
        """Set it."""
        return replace(settings, runtime=self.kind)
