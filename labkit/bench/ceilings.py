"""Ceilings: how fast a device reads memory, multiplies matrices and starts an operation, at best."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from labkit.core.contention import MAX_CONTENTION, is_worth_repeating
from labkit.core.errors import StoreError
from labkit.core.machine import machine
from labkit.core.paths import write_whole

_WIDTHS = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4}


@dataclass(frozen=True)
class Ceilings:
    """What one device can do at best.

    Attributes:
        name: the device, for people. origin: "measured" here, or from a "datasheet".
        read_bytes_per_s: pairs (working set in bytes, rate), the working set ascending and the rate never.
        flops_per_s: rate of large matrix products by dtype ("fp32", "bf16", "fp16", "fp8", "int8", "int4").
        dispatch_s: seconds from one tiny operation to the next, None where unknown.
        contention: share of core time that others took during the measurement.
        link_bytes_per_s: rate of copies from pinned memory of the CPU; None for the CPU itself.
        others: ceilings of other devices that steps of the same System run on, by device.
    """

    name: str
    origin: Literal["measured", "datasheet"]
    read_bytes_per_s: tuple[tuple[float, float], ...]
    flops_per_s: Mapping[str, float]
    dispatch_s: float | None = None
    contention: float = 0.0
    link_bytes_per_s: float | None = None
    others: Mapping[str, Ceilings] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Ceilings:
        """The inverse of `to_dict`, after JSON has turned tuples into lists.

        Raises ValueError or TypeError for fields that are no Ceilings.
        """
        points = tuple((float(size), float(rate)) for size, rate in fields["read_bytes_per_s"])
        return cls(**{**fields, "read_bytes_per_s": points})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def bandwidth(self, working_set_bytes: float) -> float:
        """Bytes per second at which this working set is read, interpolated on the logarithm of its size."""
        sizes = [size for size, _ in self.read_bytes_per_s]
        index = bisect_left(sizes, working_set_bytes)
        if index in (0, len(sizes)):
            return self.read_bytes_per_s[min(index, len(sizes) - 1)][1]
        (low, low_rate), (high, high_rate) = self.read_bytes_per_s[index - 1 : index + 1]
        part = math.log(working_set_bytes / low) / math.log(high / low)
        return low_rate + part * (high_rate - low_rate)

    @property
    def is_calm(self) -> bool:
        """Whether they were measured with the machine to themselves, and so may fault a Run that exceeds them."""
        return self.contention <= MAX_CONTENTION

    def flops(self, dtype: str) -> float:
        """FLOP per second that no kernel of this dtype exceeds.

        At least the rate of every wider dtype, to which values can be converted: a dtype without a good matrix product
        (fp16 on most CPUs) still has fast matrix-vector products. A dtype that is not known gets the best rate of all.
        """
        if dtype not in _WIDTHS:
            return max(self.flops_per_s.values())
        reachable = [rate for name, rate in self.flops_per_s.items() if name == dtype or _WIDTHS[name] > _WIDTHS[dtype]]
        return max(reachable, default=max(self.flops_per_s.values()))

    def best_of(self, other: Ceilings) -> Ceilings:
        """The higher of both at every point: what was reached once can be reached."""
        rates = dict(other.read_bytes_per_s)
        links = [rate for rate in (self.link_bytes_per_s, other.link_bytes_per_s) if rate is not None]
        dispatches = [value for value in (self.dispatch_s, other.dispatch_s) if value is not None]
        return replace(
            self,
            read_bytes_per_s=tuple((size, max(rate, rates.get(size, 0.0))) for size, rate in self.read_bytes_per_s),
            flops_per_s={
                dtype: max(self.flops_per_s.get(dtype, 0.0), other.flops_per_s.get(dtype, 0.0))
                for dtype in {**self.flops_per_s, **other.flops_per_s}
            },
            dispatch_s=min(dispatches, default=None),
            contention=min(self.contention, other.contention),
            link_bytes_per_s=max(links, default=None),
        )


def ceilings(device: str, folder: Path, threads: int | None = None) -> Ceilings:
    """Ceilings of a device of this machine, for this many CPU threads (None: as many as torch uses now).

    Measured once, in less than 5 s, and kept in `folder` under the machine's fingerprint. A measurement that other work
    disturbed is repeated by the next call that finds less of it, and the best of both is kept, until one is calm.

    Raises:
        UsageError: no such device here. StoreError: the folder cannot be written.
    """
    from labkit.bench.roofline import measure_ceilings, thread_count

    threads = thread_count() if threads is None else threads
    path = folder / f"ceilings-{machine(device).fingerprint}-{device}-{threads}.json"
    kept = _read(path)
    if kept is not None and not is_worth_repeating(kept.contention):
        return kept
    measured = measure_ceilings(device, threads=threads)
    if kept is not None:
        measured = measured.best_of(kept)
    _write(path, measured)
    return measured


def known_ceilings(device: str, folder: Path, threads: int | None = None) -> Ceilings | None:
    """Ceilings of this machine that were measured before; None where there are none.

    Those for this many CPU threads where there are any, else for the most.

    Raises:
        UsageError: no such device here.
    """
    paths = folder.glob(f"ceilings-{machine(device).fingerprint}-{device}-*.json")
    by_threads = {int(path.stem.rpartition("-")[2]): path for path in paths}
    if not by_threads:
        return None
    return _read(by_threads[threads if threads in by_threads else max(by_threads)])


def _read(path: Path) -> Ceilings | None:
    """The cached Ceilings; None where there are none, or none that can be read: they can be measured again."""
    try:
        return Ceilings.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, measured: Ceilings) -> None:
    """Replace the file in one step, since several workers may do so at a time."""
    try:
        write_whole(path, lambda temporary: temporary.write_text(json.dumps(measured.to_dict())))
    except OSError as error:
        raise StoreError(
            f"ceilings could not be kept in {path.parent}: {error.strerror}; free some space or set LABKIT_HOME"
        ) from None


def _datasheet(name: str, *, bytes_per_s: float, link: float, **flops_per_s: float) -> Ceilings:
    reads = ((2.0**18, bytes_per_s), (2.0**31, bytes_per_s))
    return Ceilings(name, "datasheet", reads, flops_per_s, link_bytes_per_s=link)


DATASHEETS: dict[str, Ceilings] = {
    preset.name: preset
    for preset in (
        _datasheet(
            "A100", bytes_per_s=2.039e12, link=32e9, fp32=19.5e12, bf16=312e12, fp16=312e12, int8=624e12, int4=1248e12
        ),
        _datasheet(
            "H100", bytes_per_s=3.35e12, link=64e9, fp32=67e12, bf16=989.4e12, fp16=989.4e12, fp8=1979e12, int8=1979e12
        ),
        _datasheet(
            "H200", bytes_per_s=4.8e12, link=64e9, fp32=67e12, bf16=989.4e12, fp16=989.4e12, fp8=1979e12, int8=1979e12
        ),
        _datasheet(
            "RTX 4090",
            bytes_per_s=1.008e12,
            link=32e9,
            fp32=82.6e12,
            bf16=165.2e12,
            fp16=165.2e12,
            fp8=330.3e12,
            int8=660.6e12,
            int4=1321.2e12,
        ),
    )
}
"""Limits of devices not at hand (A100 80 GB SXM, H100 SXM, H200 SXM, RTX 4090): dense rates, fp32 accumulation; the
link is PCIe, one direction of 16 lanes of the fourth or fifth generation.

Source: NVIDIA's A100, H100 and H200 datasheets and the Ada GPU architecture whitepaper.
"""
