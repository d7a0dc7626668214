"""Recipe: which optimizations are on, with which knob values. Plain data; `optimizations.bind` gives it meaning.

One text form serves every surface: `kv_cache + quantize(bits=8, group_size=32)`. The empty text is the naive baseline.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from labkit.core.errors import UsageError

KnobValue = str | int | float | bool | None

PEER_PREFIX = "peer:"
"""What a Run's recipe begins with where another project's engine was measured; its name and knobs follow."""

_FORM = "write it like: kv_cache + quantize(bits=8)"


@dataclass(frozen=True)
class Step:
    """One optimization of a Recipe: its name and the knobs that were set."""

    name: str
    knobs: tuple[tuple[str, KnobValue], ...] = ()

    @property
    def text(self) -> str:
        """`name` or `name(knob=value, ...)`."""
        knobs = ", ".join(f"{key}={value!r}" for key, value in self.knobs)
        return f"{self.name}({knobs})" if knobs else self.name


@dataclass(frozen=True)
class Recipe:
    """An ordered set of steps; `Recipe()` is the naive baseline."""

    steps: tuple[Step, ...] = field(default=())

    def __post_init__(self) -> None:
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"recipe names {name!r} twice; name each optimization once")

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """Read the text form. Only names and literals are understood; nothing is evaluated.

        Raises:
            UsageError: the text is no sum of names and calls with literal keyword values.
        """
        if not text.strip():
            return cls()
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UsageError(f"recipe {_quote(text)} cannot be read ({_reason(error)}); {_FORM}") from None
        return cls(tuple(_step(node, text) for node in _terms(tree)))

    @classmethod
    def of(cls, steps: Mapping[str, Mapping[str, KnobValue]]) -> "Recipe":
        """Recipe from `{name: {knob: value}}`, the form that JSON and widgets hold."""
        return cls(tuple(Step(name, tuple(knobs.items())) for name, knobs in steps.items()))

    def to_dict(self) -> dict[str, dict[str, KnobValue]]:
        """`{name: {knob: value}}`; the inverse of `of`."""
        return {step.name: dict(step.knobs) for step in self.steps}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the optimizations, in order."""
        return tuple(step.name for step in self.steps)

    @property
    def text(self) -> str:
        """The text form; `parse(recipe.text) == recipe`."""
        return " + ".join(step.text for step in self.steps)

    def only(self, names: Iterable[str]) -> "Recipe":
        """The same Recipe with just these optimizations."""
        kept = set(names)
        return Recipe(tuple(step for step in self.steps if step.name in kept))


def _terms(node: ast.expr) -> list[ast.expr]:
    """Operands of a chain of additions, left to right, without recursion."""
    terms: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        terms.append(node.right)
        node = node.left
    return [node, *reversed(terms)]


def _step(node: ast.expr, text: str) -> Step:
    if isinstance(node, ast.Name):
        return Step(node.id)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise UsageError(f"recipe {_quote(text)} holds {_quote(ast.unparse(node))}, no optimization; {_FORM}")
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise UsageError(f"{node.func.id} in recipe {_quote(text)} takes knobs by name only; {_FORM}")
    return Step(node.func.id, tuple((str(keyword.arg), _literal(keyword, text)) for keyword in node.keywords))


def _literal(keyword: ast.keyword, text: str) -> KnobValue:
    try:
        value: Any = ast.literal_eval(keyword.value)
    except (ValueError, TypeError, MemoryError, RecursionError):
        value = keyword
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise UsageError(
        f"knob {keyword.arg} in recipe {_quote(text)} is no plain value; "
        "allowed: a number, a quoted text, True, False, None"
    )


def _quote(text: str) -> str:
    """One line of at most 80 characters."""
    flat = re.sub(r"\s+", " ", text)
    return repr(flat if len(flat) <= 80 else flat[:77] + "...")


def _reason(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return re.sub(r"\s+", " ", error.msg)
    return "it is no UTF-8" if isinstance(error, UnicodeError) else "too deeply nested or not text"
