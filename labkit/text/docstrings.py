"""Docstrings of the running interpreter's standard library: read from its sources, no module is imported."""

import ast
import re
import warnings
from collections.abc import Iterator

from labkit.core.errors import Unavailable, UsageError
from labkit.core.stdlib import module_files, stdlib_root

MIN_CHARACTERS = 60
"""A shorter docstring says too little to be sorted by."""

_TEST_FOLDERS = {"test", "tests", "idle_test"}
_NO_PROSE = re.compile(r"\s*(>>>|\.\.\.( |$)|[-=~*+_]{3,}\s*$)")  # a doctest session, a ruler


def docstrings(module: str) -> Iterator[tuple[str, str]]:
    """(qualified name, cleaned docstring) of all that a module or package defines, in the order of its files.

    Nothing for a module of another Python, and for one without Python source.

    Raises:
        Unavailable: the interpreter was installed without its sources.
    """
    root = stdlib_root()
    try:
        files = [path.relative_to(root) for path in module_files(module)]
    except Unavailable:
        raise
    except UsageError:
        return
    for file in files:
        if _TEST_FOLDERS.isdisjoint(file.parts):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what the compiler says of another's source
                tree = ast.parse((root / file).read_bytes())
            yield from _of_tree(tree, ".".join(file.with_suffix("").parts).removesuffix(".__init__"))


def clean(text: str) -> str:
    """The prose of a docstring on one line: without doctest sessions and rulers, every run of blanks one space."""
    return " ".join(" ".join(line for line in text.splitlines() if not _NO_PROSE.match(line)).split())


def _of_tree(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = clean(ast.get_docstring(node) or "")
        if len(text) >= MIN_CHARACTERS and 2 * sum(map(str.isalpha, text)) > len(text):
            yield name, text
    for child in ast.iter_child_nodes(node):
        own = getattr(child, "name", None) if isinstance(child, ast.stmt) else None
        yield from _of_tree(child, f"{name}.{own}" if own else name)
