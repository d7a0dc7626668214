"""Quantities as people write them: a number and a unit, `12.5 ms`, `48 GB/s`, `1.9×`, `62 %`."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from labkit.core.errors import UsageError

_FORM = re.compile(r"([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?|[+-]?\.\d+)\s*(.*)", re.IGNORECASE)
_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_LENGTHS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "μs": 1e-6, "ns": 1e-9, "min": 60.0}
_CHINESE = {
    "秒": "s", "毫秒": "ms", "微秒": "us", "纳秒": "ns", "字节": "B", "倍": "x", "美元": "usd",
    "个": "", "次": "", "块": "", "轮": "", "步": "",
}  # fmt: skip


@dataclass(frozen=True)
class Dimension:
    """A kind of quantity: how names of its SI values end, its units, an example, whether the unit may be left out.

    Units are looked up as written and then without regard to case.
    """

    suffix: str
    units: Mapping[str, float]
    example: str
    is_bare: bool = False

    def value(self, text: str) -> float:
        """What is written, in SI.

        Raises:
            UsageError: it is no number, or its unit is none of this kind or missing.
        """
        written = unicodedata.normalize("NFKC", text).strip().removeprefix("$").replace("~", "").strip()
        found = _FORM.fullmatch(written)
        parts = re.split(r"\s*/\s*", found[2].strip()) if found else ()
        unit = "/".join(_CHINESE.get(part, part) for part in parts) if found else None
        factor = None if unit is None else self._factor(unit)
        if found is None or factor is None:
            raise UsageError(
                f"answer {text.strip()[:40]!r} cannot be read; allowed: a number"
                f"{' with or without' if self.is_bare else ' with'} a unit, such as {self.example}"
            )
        return float(found[1].replace(",", "")) * factor

    def _factor(self, unit: str) -> float | None:
        spelled = unit.replace(" ", "").replace("per", "/").replace("·", "")
        if not spelled:
            return 1.0 if self.is_bare else None
        if spelled in self.units:
            return self.units[spelled]
        folded = {name.lower(): factor for name, factor in self.units.items()}
        return folded.get(spelled.lower())


def _sizes(unit: str = "B", prefixes: Mapping[str, float] = _DECIMAL | _BINARY) -> dict[str, float]:
    return {f"{prefix}{unit}": factor for prefix, factor in prefixes.items()}


def _all(units: Mapping[str, float], *tails: str) -> dict[str, float]:
    return {f"{unit}{tail}": factor for tail in tails for unit, factor in units.items()}


_NUMBER = Dimension("", {"x": 1.0, "×": 1.0, "%": 0.01, **_DECIMAL}, "3.2", is_bare=True)

DIMENSIONS = (
    Dimension("_bytes_per_s", _all(_sizes(), "/s", "/sec"), "48 GB/s"),
    Dimension("_tok_per_s", _all({"tok": 1.0, "tokens": 1.0, "token": 1.0, "t": 1.0, "ktok": 1e3}, "/s"), "250 tok/s"),
    Dimension("_flops_per_byte", _all({"flop": 1.0, "flops": 1.0}, "/byte", "/b"), "16 FLOP/byte", is_bare=True),
    Dimension(
        "_flops_per_s",
        _all(_sizes("FLOP", _DECIMAL) | _sizes("FLOPs", _DECIMAL), "/s") | _sizes("FLOPS", _DECIMAL),
        "2 TFLOP/s",
    ),
    Dimension("_flops", _sizes("FLOP", _DECIMAL) | _sizes("FLOPs", _DECIMAL), "31 MFLOP"),
    Dimension("_bytes", _sizes(), "24 MiB"),
    Dimension("_share", {"%": 0.01}, "62 %", is_bare=True),
    Dimension("_factor", {"x": 1.0, "×": 1.0, "times": 1.0}, "3.2×", is_bare=True),
    Dimension("_price", {"$": 1.0, "usd": 1.0, "dollars": 1.0}, "$0.35", is_bare=True),
    Dimension("_s", _LENGTHS, "12.5 ms"),
)
"""Kinds that have units, of which the first fits whose suffix a name ends with; whatever is left is a plain number."""


def dimension_of(name: str) -> Dimension:
    """The kind of quantity that a name says it holds."""
    return next((kind for kind in DIMENSIONS if name.endswith(kind.suffix)), _NUMBER)
