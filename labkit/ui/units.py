"""Numbers become text here and nowhere else: SI seconds, bytes and rates in, a short aligned text out.

Every function takes None (nothing was measured) and gives `MISSING` for it, never a zero.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from labkit.ui.language import tr

MISSING = "–"

Formatter = Callable[[float | None], str]

_SMALLEST_PLAIN = 1e-4
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits, thousands set apart: 1.23, 12.3, 1,230; below 0.0001 with an exponent: 8.40e-6."""
    if value is None or not math.isfinite(value):
        return MISSING
    if 0 < abs(value) < _SMALLEST_PLAIN:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.{_decimals(value, digits)}f}"


def count(value: float | None) -> str:
    """A whole number with its thousands set apart."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """A duration with 3 significant digits in the largest unit that keeps it at or above 1."""
    return _scaled(value, _SECONDS)


def size(value: float | None) -> str:
    """Bytes with 3 significant digits in binary units."""
    if value is not None and math.isfinite(value) and abs(value) < 1023.5:
        return f"{value:.0f} B"
    return _scaled(value, _BYTES)


def rate(value: float | None, per: str = "tok/s") -> str:
    """A rate with its unit: `182 tok/s`."""
    text = number(value)
    return text if text == MISSING else f"{text} {tr(per)}"


def bandwidth(value: float | None) -> str:
    """Bytes per second in the decimal GB/s that data sheets use."""
    return rate(None if value is None else value / 1e9, "GB/s")


def arithmetic(value: float | None) -> str:
    """FLOPs per second in GFLOP/s."""
    return rate(None if value is None else value / 1e9, "GFLOP/s")


def ratio(value: float | None) -> str:
    """A factor: `1.52×`."""
    text = number(value)
    return text if text == MISSING else f"{text}×"


def quality_ratio(value: float | None) -> str:
    """A factor that matters in its third decimal: `1.002`."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share (1 = all) in percent: `52.3 %`."""
    text = number(None if value is None else 100 * value)
    return text if text == MISSING else f"{text} %"


def interval(low: float | None, high: float | None, form: Formatter = number) -> str:
    """Both ends of an interval, a unit they share said once: `[4.91, 5.30 ms]`; `MISSING` unless both are known."""
    if low is None or high is None:
        return MISSING
    first, last = form(low), form(high)
    unit = last.partition(" ")[2]
    return f"[{first.removesuffix(f' {unit}') if unit else first}, {last}]"


def estimate(value: Mapping[str, Any] | None, form: Formatter = number) -> str:
    """An Estimate's fields as value and interval: `5.10 [4.91, 5.30]`."""
    if value is None:
        return MISSING
    return f"{form(value['value'])} {interval(value['low'], value['high'], form)}"


def withheld(missing: float | None) -> str:
    """Why a percentile is not stated: how many samples it lacks; '' where it lacks none."""
    return tr("needs {num} more", num=count(missing)) if missing else ""


def _scaled(value: float | None, units: tuple[tuple[float, str], ...]) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return f"0 {units[-1][1] if units is _BYTES else units[0][1]}"
    for scale, unit in units:
        # what would be printed decides, so 0.9996 ms is 1.00 ms and not 1,000 µs
        if _rounded(abs(value) / scale) >= 1:
            return f"{number(value / scale)} {unit}"
    scale, unit = units[-1]
    return f"{number(value / scale)} {unit}"


def _rounded(value: float) -> float:
    return float(f"{value:.2e}")


def _decimals(value: float, digits: int) -> int:
    if value == 0:
        return 0
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return max(0, digits - 1 - exponent)
