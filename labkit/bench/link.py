"""Link: what a message between the ranks of one model costs at least, measured on the ranks themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labkit.core.machine import machine
from labkit.core.paths import write_whole


@dataclass(frozen=True)
class Link:
    """An all-reduce takes about `latency_s` and the bytes that a rank sends over `bytes_per_s`."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, num_messages: float, num_bytes: float) -> float:
        """Time of so many messages, one after another, that together send so many bytes a rank."""
        return num_messages * self.latency_s + num_bytes / self.bytes_per_s

    def best_of(self, other: Link) -> Link:
        """The better of both: what was reached once can be reached."""
        return Link(min(self.latency_s, other.latency_s), max(self.bytes_per_s, other.bytes_per_s))

    def to_dict(self) -> Mapping[str, float]:
        """Plain data for JSON; `Link(**fields)` gives it back."""
        return asdict(self)


def best_link(kind: str, folder: Path, measure: Callable[[], Link]) -> Link:
    """The best link of this kind that this machine has shown, now or before; it takes milliseconds to look again."""
    kept, measured = known_link(kind, folder), measure()
    best = measured if kept is None else measured.best_of(kept)
    path = _path(kind, folder)
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(best.to_dict())))
    return best


def known_link(kind: str, folder: Path) -> Link | None:
    """The link of this kind, such as `gloo-2`, that was measured before; None where there is none."""
    try:
        fields: dict[str, Any] = json.loads(_path(kind, folder).read_text(encoding="utf-8"))
        return Link(**fields)
    except (OSError, ValueError, TypeError):
        return None


def _path(kind: str, folder: Path) -> Path:
    return folder / f"link-{machine().fingerprint}-{kind}.json"
