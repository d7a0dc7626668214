"""Choice: which kernel multiplies by a matrix of one shape, for one number of rows.

Kernels are timed on the machine and the winner is remembered: in `CHOICES`, which a Run records, and in a file, so that
the processes of a session, and of the sessions after it, choose alike. Two kernels may be so close that noise decides;
left to each process, that coin toss would make the same recipe differ from itself.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch

from labkit.core.errors import LabkitError
from labkit.core.machine import machine
from labkit.core.paths import cache_folder, write_whole
from labkit.model.native.build import source_digest

_ROUNDS = 8  # of all kernels in turn, the first to warm up; fewer, two at least, where they take long:
_ROUNDS_S = 0.2
_MOST_EVICTED_BYTES = 2**26  # more than most last-level caches

Multiply = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """What a choice depends on.

    `rows` is rounded up to a power of two; so is `step_bytes`, the weights that a step reads before it comes to the
    same layer again. `density` is the share of weights that are not zero, in tenths, and
    `library` whose layout they are in.
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

    @property
    def text(self) -> str:
        """Names it in the file of choices."""
        return " ".join(map(str, astuple(self)))


@dataclass(frozen=True)
class Choice:
    """The kernel that won a probe, and its time for one layer in seconds."""

    kernel: str
    seconds: float


CHOICES: dict[Shape, Choice] = {}
"""Kernels chosen in this process."""


def choose(shape: Shape, candidates: Mapping[str, Sequence[Multiply]]) -> Choice:
    """The fastest of the candidates, timed unless this machine remembers.

    Args:
        shape: what is multiplied.
        candidates: kernel name → one call for each layer of that shape.
    """
    if shape not in CHOICES:
        path = _path()
        kept = _read(path).get(shape.text)
        if kept is None or kept.kernel not in candidates:
            kept = _probe(shape, candidates)
            _write(path, _read(path) | {shape.text: kept})
        CHOICES[shape] = kept
    return CHOICES[shape]


def _probe(shape: Shape, candidates: Mapping[str, Sequence[Multiply]]) -> Choice:
    """Median time of several rounds, in each of which every kernel multiplies by one of the layers in turn.

    Before each product as much memory is read as a step reads between two uses of a layer, so that its weights are as
    cold in the caches as they will be. A kernel that uses one core looks good on warm weights, and is not.
    """
    others = torch.ones(min(shape.step_bytes, _MOST_EVICTED_BYTES) // 4, device=shape.device)
    timed: dict[str, list[float]] = {name: [] for name in candidates}
    start_s = time.perf_counter()
    for number in range(_ROUNDS):
        if number > 1 and time.perf_counter() - start_s > _ROUNDS_S:
            break
        for name, calls in candidates.items():
            others.sum().item()  # waits for the device
            seconds = _seconds(calls[number % len(calls)], device=shape.device)
            if number:
                timed[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in timed.items()}
    fastest = min(medians, key=medians.__getitem__)
    return Choice(fastest, medians[fastest])


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
            text: Choice(str(kernel), float(seconds))
            for text, (kernel, seconds) in json.loads(path.read_text()).items()
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
