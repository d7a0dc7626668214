"""Source text of the running interpreter's standard library, and the part of it no model of ours was trained on.

The texts are read from the machine at run time; none is stored in this package. `HELD_OUT` names the modules that
pylm, the embedded model, never saw, so they serve as prompts and as the text on which quality is measured.
"""

import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from labkit.core.errors import Unavailable, UsageError

HELD_OUT: tuple[str, ...] = (
    "calendar",
    "configparser",
    "contextlib",
    "csv",
    "dataclasses",
    "difflib",
    "fractions",
    "graphlib",
    "heapq",
    "ipaddress",
    "json",
    "mailbox",
    "pprint",
    "shlex",
    "statistics",
    "textwrap",
    "tomllib",
    "wsgiref",
)
"""Standard-library modules and packages kept out of pylm's training data, in alphabetical order."""


def stdlib_root() -> Path:
    """Folder that holds the standard library's sources.

    Raises:
        Unavailable: the interpreter was installed without them (a zipped or stripped build).
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    if not (root / "textwrap.py").is_file():
        raise Unavailable(
            f"standard library sources were asked for, {root} holds none; "
            "use a Python that ships its .py files (python.org, conda, pyenv, distribution packages)"
        )
    return root


def module_files(module: str) -> tuple[Path, ...]:
    """Source files of a top-level module or package, sorted by path.

    Raises:
        UsageError: the standard library has no Python source for it.
    """
    root = stdlib_root()
    if (root / f"{module}.py").is_file():
        return (root / f"{module}.py",)
    files = tuple(sorted((root / module).rglob("*.py"))) if module.isidentifier() else ()
    if not files:
        raise UsageError(f"no Python source of module {module!r} in {root}; allowed: a top-level module or package")
    return files


def module_source(module: str) -> str:
    """Text of a module; the files of a package are joined in the order of their paths."""
    return "\n".join(path.read_text(encoding="utf-8") for path in module_files(module))


def training_files() -> Iterator[Path]:
    """Every .py file of the standard library outside `HELD_OUT` and site-packages, sorted by path."""
    root = stdlib_root()
    for path in sorted(root.rglob("*.py")):
        top = path.relative_to(root).parts[0]
        if top != "site-packages" and top.removesuffix(".py") not in HELD_OUT:
            yield path


@lru_cache(maxsize=1)
def held_out_sources() -> tuple[tuple[str, str], ...]:
    """(module name, source text) of every held-out module, in the order of `HELD_OUT`."""
    return tuple((module, module_source(module)) for module in HELD_OUT)


def held_out_text() -> str:
    """All held-out sources joined, about 0.7 MB: the text on which bits per byte are stated."""
    return "\n".join(text for _, text in held_out_sources())
