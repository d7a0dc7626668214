"""Which runtime answers an RNN's texts soonest: by length, batch and width of the state.

    python -m tests.benches.classifier [--cell simple] [--lengths 25,100,400] [--batches 1,64] [--hidden 64,256]

Every point is measured by two processes in turn, one with TensorFlow and one with torch, on random ids and weights,
in blocks; a figure is the median over blocks of the least time of a call in each. Printed in Markdown: the times, how
many times sooner our kernel answers than Keras and XLA do, and the map of who is soonest. A GPU has its column where
there is one.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from statistics import median
from typing import Any

import numpy as np

from labkit.core.machine import machine
from labkit.optimizations.base import CUDA
from labkit.text.rnn_keras import KERAS_RUNTIMES, KerasClassifier
from labkit.text.rnn_weights import random_weights

OURS = ("torch", "torch folded", "torch folded int8")
WAYS = {
    "tensorflow": KERAS_RUNTIMES,
    "torch": ("torch layer", *OURS, *(() if CUDA.missing() else ("torch layer cuda",))),
}
BLOCK_S = 0.2
NUM_BLOCKS = 5
MOST_CALLS = 400

Point = tuple[int, int, int]  # length, batch, hidden


def computed(way: str, cell: str, batch: int, hidden: int) -> Callable[[Any], Any]:
    """What a way computes probabilities by."""
    weights = random_weights(cell, units=hidden)  # type: ignore[arg-type]
    if way in KERAS_RUNTIMES:
        return KerasClassifier(weights, runtime=way, batch=batch).probabilities
    from labkit.text.rnn_torch import RnnTwin

    return RnnTwin(
        weights,
        is_folded="folded" in way,
        precision="int8" if "int8" in way else "fp32",
        device="cuda" if "cuda" in way else "cpu",
        has_native="layer" not in way,
    ).probabilities


def least_s(call: Callable[[Any], Any], texts: list[Any]) -> float:
    """The least time of a call within a block, each with another text."""
    times, end_s = [], time.perf_counter() + BLOCK_S
    while not times or (time.perf_counter() < end_s and len(times) < MOST_CALLS):
        ids = texts[len(times) % len(texts)]
        start_s = time.perf_counter()
        call(ids)
        times.append(time.perf_counter() - start_s)
    return min(times)


def serve() -> None:
    """Answer points on stdin by the seconds of each way on stdout."""
    held: dict[tuple[Any, ...], Callable[[Any], Any]] = {}
    for line in sys.stdin:
        point = json.loads(line)
        key = (point["way"], point["cell"], point["batch"], point["hidden"])
        shape = (point["batch"], point["length"])
        texts = [np.random.default_rng(seed).integers(1, 10_000, shape, dtype=np.int32) for seed in range(16)]
        if point["is_first"]:
            held[key] = computed(*key)
            for ids in texts[:3]:  # traces and compiles
                held[key](ids)
        print(json.dumps(least_s(held[key], texts)), flush=True)


def measured(cell: str, points: Iterable[Point]) -> dict[Point, dict[str, float]]:
    """Seconds a call of each way at each point, all ways in turn."""
    command = [sys.executable, "-m", "tests.benches.classifier", "--serve"]
    workers = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in WAYS
    }
    found = {}
    for length, batch, hidden in points:
        times: dict[str, list[float]] = {way: [] for ways in WAYS.values() for way in ways}
        for block, (framework, ways) in product(range(NUM_BLOCKS), WAYS.items()):
            worker = workers[framework]
            assert worker.stdin is not None
            assert worker.stdout is not None
            for way in ways:
                point = {"way": way, "cell": cell, "length": length, "batch": batch, "hidden": hidden}
                print(json.dumps({**point, "is_first": block == 0}), file=worker.stdin, flush=True)
                times[way].append(json.loads(worker.stdout.readline()))
        found[length, batch, hidden] = {way: median(values) for way, values in times.items()}
        print(f"measured: length {length}, batch {batch}, {hidden} units", file=sys.stderr)
    for worker in workers.values():
        worker.communicate()
    return found


def show(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print()


def show_times(found: Mapping[Point, Mapping[str, float]]) -> None:
    """Milliseconds of every way, and what our kernel with a folded table is over two of them."""
    ways = list(next(iter(found.values())))
    rows = []
    for point, times in found.items():
        over = [f"{times[other] / times['torch folded']:,.1f}" for other in ("keras_predict", "xla")]
        rows.append([*map(str, point), *(f"{1e3 * times[way]:.3f}" for way in ways), *over])
    show(["length", "batch", "units", *ways, "folded over predict", "folded over XLA"], rows)


def show_map(found: Mapping[Point, Mapping[str, float]]) -> None:
    """Who is soonest by length, batch and units, and how many times sooner than the best that is not ours."""
    lengths = sorted({length for length, _, _ in found})
    rows = []
    for batch, hidden in sorted({point[1:] for point in found}):
        cells = []
        for length in lengths:
            times = found[length, batch, hidden]
            rival = min(set(times) - set(OURS), key=times.__getitem__)
            best = min(times, key=times.__getitem__)
            cells.append(f"{best}: {times[rival] / times[best]:.1f} × {rival}" if best != rival else best)
        rows.append([str(batch), str(hidden), *cells])
    show(["batch", "units", *(f"length {length}" for length in lengths)], rows)


def main() -> None:
    """Parse options, then measure, or serve a process that does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--cell", default="simple")
    for name, default in (("lengths", "25,100,400"), ("batches", "1,64"), ("hidden", "64,256")):
        parser.add_argument(f"--{name}", default=default, type=lambda text: [int(part) for part in text.split(",")])
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    here = machine()
    print(f"{here.cpu}, {here.num_cores} cores, GPU {here.gpu or 'none'}; ", end="")
    print(", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras", "torch")))
    print(f"\nMilliseconds a call, cell {options.cell}:\n")
    found = measured(options.cell, product(options.lengths, options.batches, options.hidden))
    show_times(found)
    print("Soonest, and over the best that is not ours:\n")
    show_map(found)


if __name__ == "__main__":
    main()
