"""Markdown from text that comes from elsewhere: it shows as it stands and marks nothing."""

from collections.abc import Sequence

_MARKS = "\\|*_`<[]~&$"


def escaped(text: str) -> str:
    """Text on one line that may stand inside a paragraph, a link or a table."""
    return "".join(f"\\{mark}" if mark in _MARKS else mark for mark in " ".join(text.split()))


def table(rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """A table of Markdown cells; the first row heads it, all columns after the first `num_left` are of figures."""
    head, *body = rows
    rule = ["---" if column < num_left else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
