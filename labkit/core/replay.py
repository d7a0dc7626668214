"""Replay: requests that were recorded elsewhere, one JSON object a line, to be sent again as they came.

{"arrival_s": 0.0, "prompt_tokens": 120, "new_tokens": 32}
{"arrival_s": 0.4, "prompt": "How do I measure latency?", "new_tokens": 64}
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from labkit.core.errors import UsageError

MAX_TOKENS = 1_000_000
MAX_LINES = 100_000
MAX_ARRIVAL_S = 86_400.0

_SHAPES = (frozenset({"arrival_s", "prompt", "new_tokens"}), frozenset({"arrival_s", "prompt_tokens", "new_tokens"}))
_ALLOWED = (
    f'{{"arrival_s": 0 to {MAX_ARRIVAL_S:,.0f}, "prompt": "TEXT" or "prompt_tokens": 1 to {MAX_TOKENS:,}, '
    f'"new_tokens": 1 to {MAX_TOKENS:,}}} in order of arrival'
)


class Line(NamedTuple):
    """One recorded request: when it arrived, its text or the number of its tokens, and how many it asked for."""

    arrival_s: float
    prompt: str | int
    new_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; of a text the bytes, which no tokenizer exceeds but by the token of the start."""
        return self.prompt if isinstance(self.prompt, int) else len(self.prompt.encode()) + 1


def read_replay(path: Path) -> tuple[Line, ...]:
    """Read a file of recorded requests; empty lines are passed over.

    Raises:
        UsageError: it cannot be read, holds no request or too many, or a line is none; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise UsageError(f"trace {str(path)!r} cannot be read: {reason}; name a file of JSON lines") from None
    lines: list[Line] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                lines.append(_line(line, after_s=lines[-1].arrival_s if lines else 0.0))
            except ValueError as error:
                raise UsageError(f"trace {str(path)!r}, line {number}: {error}; allowed: {_ALLOWED}") from None
    if not 0 < len(lines) <= MAX_LINES:
        raise UsageError(f"trace {str(path)!r} holds {len(lines):,} requests; allowed: 1 to {MAX_LINES:,}")
    return tuple(lines)


def _line(text: str, *, after_s: float) -> Line:
    """The request that a line holds; ValueError says what is wrong with it."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(fields, dict):
        raise ValueError(f"it holds a {type(fields).__name__}, no object")
    if fields.keys() not in _SHAPES:
        raise ValueError(f"its keys are {', '.join(map(repr, fields)) or 'none'}"[:200])
    arrival_s = fields["arrival_s"]
    if not (_is_number(arrival_s) and 0 <= arrival_s <= MAX_ARRIVAL_S):
        raise ValueError(f"arrival_s is {arrival_s!r}"[:80])
    if arrival_s < after_s:
        raise ValueError(f"arrival_s is {arrival_s!r}, before the {after_s!r} of the line above")
    for key in fields.keys() & {"prompt_tokens", "new_tokens"}:
        if not (type(fields[key]) is int and 1 <= fields[key] <= MAX_TOKENS):
            raise ValueError(f"{key} is {fields[key]!r}"[:80])
    if "prompt" in fields and not _is_text(fields["prompt"]):
        raise ValueError(f"prompt is {fields['prompt']!r}"[:80])
    return Line(float(arrival_s), fields["prompt" if "prompt" in fields else "prompt_tokens"], fields["new_tokens"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    """Whether it is a text, not empty, that can be written as UTF-8, as half a surrogate pair cannot."""
    return isinstance(value, str) and bool(value) and not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
