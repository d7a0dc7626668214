"""Roofline: measures the ceilings of a device with torch. Source: Williams, Waterman and Patterson, Roofline (2009)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from labkit.bench.ceilings import Ceilings
from labkit.core.contention import CoreTime
from labkit.core.machine import free_memory_bytes, machine

if TYPE_CHECKING:
    import torch

    Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_SMALLEST_BYTES = 2**18
_LARGE_BYTES = 2**24
_LARGEST_BYTES = {"cpu": 2**30, "cuda": 2**31}
_LARGEST_WIDTH = {"cpu": 2048, "cuda": 8192}
_BUDGET_S = 4.0
_KERNEL_BUDGET_S = 0.025  # of repeats for one kernel and size
_SLOW_PRODUCT_S = 0.02  # a larger matrix product is not tried above this
_NUM_DISPATCHES = 300
_LINK_BYTES = 2**27


def thread_count() -> int:
    """CPU threads that torch uses now."""
    import torch

    return torch.get_num_threads()


def measure_ceilings(device: str, *, threads: int) -> Ceilings:
    """Measure a device's ceilings with this many CPU threads, in less than 5 s on a calm machine.

    On a busy one the largest products and working sets are left out when the time is up; its `contention` tells.
    """
    described = machine(device)
    before = CoreTime.now()
    with _threads(threads):
        deadline_s = time.perf_counter() + _BUDGET_S
        dispatch_s, flops_per_s = _dispatch_s(device), _product_rates(device, deadline_s)
        read_bytes_per_s = _read_rates(device, deadline_s)
        link_bytes_per_s = None if device == "cpu" else _link_rate(device)
    name = described.cpu if device == "cpu" else described.gpu or device
    contention = max(0.0, before.contention(CoreTime.now()))
    return Ceilings(name, "measured", read_bytes_per_s, flops_per_s, dispatch_s, contention, link_bytes_per_s)


def _read_rates(device: str, deadline_s: float) -> tuple[tuple[float, float], ...]:
    """Best read rate by working set, in steps of 2. None is slower than a larger one, which holds it."""
    import torch

    largest = min(_LARGEST_BYTES[device], free_memory_bytes(device) // 4)
    buffer = torch.empty(largest, dtype=torch.uint8, device=device)
    sizes = [2**power for power in range(int(math.log2(_SMALLEST_BYTES)), int(math.log2(largest)) + 1)]
    rates: list[float] = []
    names = list(_READERS)
    for size in sizes:
        if rates and time.perf_counter() > deadline_s:
            break
        part = buffer[:size]
        part[size // 2 if rates else 0 :].zero_()  # memory never written to has no pages to read
        reached = {name: size / _best_s(partial(_READERS[name], part), device) for name in names}
        rates.append(max(reached.values()))
        if size >= _LARGE_BYTES:  # a kernel that is far behind has no fast path here and would only take time
            names = [name for name in names if reached[name] > rates[-1] / 4]
    best_from_here = list(accumulate(reversed(rates), max))
    return tuple(zip(map(float, sizes), reversed(best_from_here), strict=False))


def _link_rate(device: str) -> float:
    """Bytes per second of a large copy from pinned memory of the CPU."""
    import torch

    source = torch.empty(_LINK_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(_LINK_BYTES, dtype=torch.uint8, device=device)
    return _LINK_BYTES / _best_s(partial(target.copy_, source, non_blocking=True), device)


def _half_precision_mv(buffer: torch.Tensor) -> torch.Tensor:
    """Matrix-vector product `[N, 512] @ [512]` in fp16, the shape of a linear layer's weights in decoding."""
    import torch

    rows = buffer.view(torch.float16).view(-1, 512)
    return torch.mv(rows, rows[0])


def _float_sum(buffer: torch.Tensor) -> torch.Tensor:
    import torch

    return buffer.view(torch.float32).sum()


def _word_sum(buffer: torch.Tensor) -> torch.Tensor:
    import torch

    return buffer.view(torch.int64).sum()


_READERS = {"float sum": _float_sum, "word sum": _word_sum, "fp16 mv": _half_precision_mv}
"""Operations that read a buffer once and write next to nothing; which one is fastest differs by CPU and by size."""


def _product_rates(device: str, deadline_s: float) -> dict[str, float]:
    """FLOP/s of square matrix products by dtype, at the best width; those of 8 bits only where torch has a kernel."""
    import torch

    rates = {
        name: _product_rate(dtype, device, torch.mm, deadline_s)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16))
    }
    products: dict[str, tuple[torch.dtype, Product]] = {"int8": (torch.int8, torch._int_mm)}
    if device == "cuda":
        products["fp8"] = torch.float8_e4m3fn, _scaled_mm
    for name, (dtype, product) in products.items():
        # private operations, absent on some devices: the limit then uses wider dtypes
        with suppress(AttributeError, RuntimeError):
            rates[name] = _product_rate(dtype, device, product, deadline_s)
    return rates


def _scaled_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Product of 8-bit floats, one scale for each of both."""
    import torch

    one = torch.ones((), device=a.device)
    return torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def _product_rate(dtype: torch.dtype, device: str, product: Product, deadline_s: float) -> float:
    import torch

    width, best = 256, 0.0
    while width <= _LARGEST_WIDTH[device]:
        a = torch.ones(width, width, dtype=dtype, device=device)
        b = torch.ones(width, width, dtype=dtype, device=device).t()  # the layout of a linear layer's weight
        seconds = _best_s(partial(product, a, b), device)
        best = max(best, 2 * width**3 / seconds)
        if seconds > _SLOW_PRODUCT_S or time.perf_counter() > deadline_s:
            break
        width *= 2
    return best


def _dispatch_s(device: str) -> float:
    """Seconds an operation, in a row of tiny ones that the device need not be waited for."""
    import torch

    a = torch.ones(8, device=device)

    def row() -> None:
        for _ in range(_NUM_DISPATCHES):
            torch.add(a, a)

    return _best_s(row, device) / _NUM_DISPATCHES


def _best_s(kernel: Callable[[], object], device: str) -> float:
    """Fastest of the calls that fit in the budget, two at least."""
    best_s, num_calls, start_s = math.inf, 0, time.perf_counter()
    while num_calls < 2 or time.perf_counter() - start_s < _KERNEL_BUDGET_S:
        best_s = min(best_s, _seconds(kernel, device))
        num_calls += 1
    return best_s


def _seconds(kernel: Callable[[], object], device: str) -> float:
    """Seconds of one call, the device's work included."""
    if device == "cpu":
        start_ns = time.perf_counter_ns()
        kernel()
        return (time.perf_counter_ns() - start_ns) * 1e-9
    import torch

    start, end = (torch.Event(device="cuda", enable_timing=True) for _ in range(2))
    start.record()
    kernel()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


@contextmanager
def _threads(num: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
