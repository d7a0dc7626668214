"""Which techniques stand together: a table made of what their classes state, so that it cannot be out of date."""

from itertools import combinations

from labkit.optimizations import CATALOG, Optimization

_HEAD = """# Which techniques stand together

Made by `labkit catalog --markdown` from the classes in `labkit/optimizations`. A technique that *needs* another must
have it in the same recipe. Every pair that is allowed runs in the test suite.
"""


def clash(one: type[Optimization], other: type[Optimization]) -> str:
    """Why two techniques cannot be in one Recipe; '' where they can, and where no System has both."""
    if not {*one.systems} & {*other.systems}:
        return ""
    if one.slot is other.slot and not one.slot.is_stacking:
        return f"both fill the slot `{one.slot.value}`"
    return one.conflicts.get(other.name, "") or other.conflicts.get(one.name, "")


def markdown() -> str:
    """The techniques with their slots and needs, then every pair that is refused, with the reason."""
    rows = [
        "| technique | slot | system | output | needs in the recipe | needs of the machine |",
        "|---|---|---|---|---|---|",
        *(
            f"| `{kind.name}` | {kind.slot.value.replace('_', ' ')} | {', '.join(kind.systems)} "
            f"| {'exact' if kind.exact else 'approximate'} | {_named(kind.requires)} "
            f"| {_named([need.name for need in kind.needs])} |"
            for kind in CATALOG
        ),
    ]
    clashes = [
        f"| `{one.name}` | `{other.name}` | {reason} |"
        for one, other in combinations(CATALOG, 2)
        if (reason := clash(one, other))
    ]
    refused = ["| one | other | refused because |", "|---|---|---|", *clashes] if clashes else ["None."]
    return "\n".join([_HEAD, *rows, "", "## Refused pairs", "", *refused, ""])


def _named(names: "list[str] | tuple[str, ...]") -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"
