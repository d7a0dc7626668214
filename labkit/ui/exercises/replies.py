"""What every check replies, and the reply to an answer that is a number."""

import math
from collections.abc import Callable

CORRECT = "correct"
OPEN = "not answered yet"


def number(answer: float | None, expected: float, hint: Callable[[float], str], *, tolerance: float = 0.01) -> str:
    """Whether a number is `expected` within the part `tolerance` of it; if not, what `hint` says of the answer."""
    if answer is None:
        return OPEN
    return CORRECT if math.isclose(answer, expected, rel_tol=tolerance) else hint(answer)
