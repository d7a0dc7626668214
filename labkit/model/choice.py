"""Choice: which kernel multiplies by a matrix of one shape, for one number of rows.

Kernels are timed on the machine and the winner is remembered: in `CHOICES`, which a Run records, and in a file, so that
the processes of a session, and of the sessions after it, choose alike. Two kernels may be so close that noise decides;
left to each process, that coin toss would make the same recipe differ from itself. What was timed while others had the
processor is good for as long as they have it, no longer: a kernel whose threads wait for each other loses far more to
them than one that takes turns, and would be thought slow ever after.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TypeVar

import torch

from labkit.core.contention import CoreTime, is_worth_repeating
from labkit.core.errors import LabkitError
from labkit.core.machine import machine
from labkit.core.paths import cache_folder, write_whole
from labkit.model.native.build import source_digest

_ROUNDS = 8  # of all kernels in turn, the first to warm up; fewer, two at least, where they take long:
_ROUNDS_S = 0.2
_CHAIN_S = 0.005  # of products in a row; a longer one is timed by itself
_MOST_EVICTED_BYTES = 2**26  # more than most last-level caches
_MANY_ROWS = 16  # above so many, a product takes time in proportion to its rows

Layer = TypeVar("Layer")
Multiply = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """What a choice depends on.

    `rows` is rounded up to a power of two, and `step_bytes`, the weights of all layers that a step reads, to whole MiB.
    `density` is the share of weights that are not zero, in tenths, `library` whose layout they are in, and `is_float8`
    tells 8-bit floats from integers.
    """

    bits: int
    activation_bits: int
    out_features: int
    in_features: int
    rows: int
    dtype: str
    device: str
    step_bytes: int
    density: float = 1.0
    library: str = "labkit"
    is_float8: bool = False

    @property
    def layer_bytes(self) -> int:
        """Weights of one layer."""
        return self.out_features * self.in_features * self.bits // 8

    @property
    def text(self) -> str:
        """Names it in the file of choices."""
        return " ".join(map(str, astuple(self)))


@dataclass(frozen=True)
class Choice:
    """The kernel that won a probe, and its time in seconds for one layer and this many rows.

    `contention` is the share of core time that others took meanwhile.
    """

    kernel: str
    seconds: float
    rows: int
    contention: float = 0.0

    def seconds_of(self, rows: int) -> float:
        """Its time for another number of rows that the same choice serves."""
        return self.seconds * (rows / self.rows if min(rows, self.rows) > _MANY_ROWS else 1.0)


CHOICES: dict[Shape, Choice] = {}
"""Kernels chosen in this process."""


def choose(
    shape: Shape, candidates: Mapping[str, Callable[[Sequence[Layer]], Multiply]], layers: Sequence[Layer], rows: int
) -> Choice:
    """The fastest of the candidates, timed unless this machine remembers, or would be as busy as it was then.

    Args:
        shape: what is multiplied.
        candidates: kernel name → what makes one call of multiplying by some of the layers, one after the other.
        layers: all of that shape.
        rows: of the activations that are multiplied.
    """
    if shape not in CHOICES:
        path = _path()
        kept = _read(path).get(shape.text)
        if kept is None or kept.kernel not in candidates or is_worth_repeating(kept.contention):
            before = CoreTime.now()
            kernel, seconds = _probe(shape, candidates, layers)
            kept = Choice(kernel, seconds, rows, max(0.0, before.contention(CoreTime.now())))
            _write(path, _read(path) | {shape.text: kept})
        CHOICES[shape] = kept
    return CHOICES[shape]


def _probe(
    shape: Shape, candidates: Mapping[str, Callable[[Sequence[Layer]], Multiply]], layers: Sequence[Layer]
) -> tuple[str, float]:
    """The fastest kernel and its median time for one layer, over several rounds in each of which all take their turn.

    A turn is what a step does: one layer of the shape after the other, and the rest of the step's weights read, so that
    each layer's are as cold in the caches as they will be. It is taken twice, the first time for what it leaves in the
    caches. A kernel that uses one core looks good on warm weights, and is not.
    """
    others = torch.ones(min(shape.step_bytes, _MOST_EVICTED_BYTES) // 8, dtype=torch.int64, device=shape.device)
    timed: dict[str, list[float]] = {name: [] for name in candidates}
    start_s = time.perf_counter()
    lengths = {name: _chain_length(chain, layers, device=shape.device) for name, chain in candidates.items()}
    for number in range(_ROUNDS):
        if number > 1 and time.perf_counter() - start_s > _ROUNDS_S:
            break
        for name, chain in candidates.items():
            length = lengths[name]
            multiply = chain([layers[(number * length + i) % len(layers)] for i in range(length)])
            rest = others[: max(0, shape.step_bytes - length * shape.layer_bytes) // 8]
            for _ in range(1 if length == 1 else 2):
                rest.sum().item()  # waits for the device
                seconds = _seconds(multiply, device=shape.device) / length
            if number:
                timed[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in timed.items()}
    fastest = min(medians, key=medians.__getitem__)
    return fastest, medians[fastest]


def _chain_length(chain: Callable[[Sequence[Layer]], Multiply], layers: Sequence[Layer], *, device: str) -> int:
    """How many layers to time in a row: all, or those that the time allows."""
    _seconds(chain(layers[:1]), device=device)  # the first call of all does more than multiply
    return min(len(layers), max(1, int(_CHAIN_S / _seconds(chain(layers[-1:]), device=device))))


def _seconds(multiply: Multiply, *, device: str) -> float:
    start_ns = time.perf_counter_ns()
    multiply()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter_ns() - start_ns) * 1e-9


def _path() -> Path:
    """The file of this machine, its libraries, our kernels and this number of threads."""
    made_for = f"{machine().fingerprint} {source_digest()} {torch.get_num_threads()}"
    return cache_folder() / f"kernels-{hashlib.sha256(made_for.encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> dict[str, Choice]:
    """What is remembered; nothing where there is no file, or none that can be read: it can be probed again."""
    try:
        return {
            text: Choice(str(kernel), float(seconds), int(rows), float(contention))
            for text, (kernel, seconds, rows, contention) in json.loads(path.read_text()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, choices: Mapping[str, Choice]) -> None:
    """Replace the file in one step, since several workers may do so at a time; a full disk only costs the memory."""
    try:
        text = json.dumps({shape: astuple(choice) for shape, choice in choices.items()})
        write_whole(path, lambda temporary: temporary.write_text(text))
    except (OSError, LabkitError):
        return
