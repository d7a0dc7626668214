"""HTML that is safe by construction: what is not already `Html` is escaped as a child, everything as an attribute."""

import re
from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "img", "meta", "source", "col"})
_WITHIN_VALUE = re.compile(r"(?<=\d) (?=%|(?:[mµn]?s|tok/s|[KMGT]iB|blocks)\b)|(?<=\d,) (?=[\d.,]+\])")


class Html(str):
    """Text that is known to be markup."""

    __slots__ = ()


def text(value: object) -> Html:
    """A value as markup: `Html` unchanged, everything else escaped."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(children: Iterable[object], separator: str = "") -> Html:
    """Children one after the other, each escaped unless it is `Html`."""
    return Html(escape(separator).join(text(child) for child in children))


def tag(name: str, *children: object, attributes: dict[str, object] | None = None, css: str = "") -> Html:
    """An element. `css` is its class; attributes whose value is None are left out."""
    given = {"class": css or None, **(attributes or {})}
    listed = "".join(f' {key}="{escape(str(value))}"' for key, value in given.items() if value is not None)
    if name in _VOID:
        return Html(f"<{name}{listed}>")
    return Html(f"<{name}{listed}>{join(children)}</{name}>")


def unbroken(sentence: str) -> str:
    """The sentence with no line's end between a number and its unit, nor within an interval."""
    return _WITHIN_VALUE.sub("\N{NO-BREAK SPACE}", sentence)
