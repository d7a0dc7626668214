"""Collect pylm's training text from this machine: the standard library and the packages installed beside it.

Files are filtered (data, generated code, licences), deduplicated exactly and nearly, and dropped when they share a
run of text with a held-out module, which is how vendored copies are kept out.
"""

import importlib
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labkit.core import stdlib

SHARED_RUN_LINES = 12
"""A file with this many consecutive lines of a held-out module is a copy of it."""
SHARED_LINE_FRACTION = 0.4
"""So is a file that shares this fraction of its distinct lines, in whatever order."""
NEAR_DUPLICATE_FRACTION = 0.7
"""A file is redundant when this fraction of its distinct lines was already collected."""

_SOURCE_SUFFIXES = {".py", ".rst", ".md", ".txt"}
_SKIPPED_NAMES = re.compile(r"licen[cs]e|copying|notice|authors|requirements|top_level|entry_points|sources\.txt", re.I)
_TEST_FOLDERS = {"test", "tests", "idle_test", "testing"}
_GENERATED = re.compile(r"(auto[- ]?)?generated|do not edit", re.I)


@dataclass(frozen=True)
class Document:
    """One file: its origin (`stdlib`, `stdlib-test` or the package's folder), its path there, its text."""

    origin: str
    path: str
    text: str


def lines_of(text: str) -> list[str]:
    """Normalised non-trivial lines: inner whitespace collapsed, lines without two adjacent word characters dropped."""
    return [" ".join(line.split()) for line in text.splitlines() if re.search(r"\w\w", line)]


class HeldOutFilter:
    """Recognises files that repeat a run of text from the held-out modules."""

    def __init__(self, held_out_texts: Iterable[str]) -> None:
        self._runs: set[int] = set()
        self._lines: set[str] = set()
        for text in held_out_texts:
            lines = lines_of(text)
            self._runs.update(_runs(lines))
            self._lines.update(line for line in lines if len(line) >= 24)

    def is_copy(self, text: str) -> bool:
        """True when `text` shares `SHARED_RUN_LINES` consecutive lines, or most of its long lines, with them."""
        lines = lines_of(text)
        if not self._runs.isdisjoint(_runs(lines)):
            return True
        long_lines = {line for line in lines if len(line) >= 24}
        return len(long_lines & self._lines) > SHARED_LINE_FRACTION * len(long_lines)


def _runs(lines: list[str]) -> Iterator[int]:
    for start in range(len(lines) - SHARED_RUN_LINES + 1):
        yield hash(tuple(lines[start : start + SHARED_RUN_LINES]))


def strip_licence(text: str) -> str:
    """Without a leading comment block that states a licence: thousands of files repeat the same one."""
    block = re.match(r"(?:\s*#[^\n]*\n)+", text)
    if block and re.search(r"licen[cs]e|copyright", block[0], re.I):
        return text[block.end() :].lstrip()
    return text


def is_prose_or_code(text: str) -> bool:
    """False for files too short or too long to learn from, for tables, minified and generated files."""
    if not 400 <= len(text) <= 200_000 or _GENERATED.search(text[:600]):
        return False
    lines = text.splitlines()
    letters = sum(map(str.isalpha, text)) / len(text)
    ascii_only = sum(map(str.isascii, text)) / len(text)
    return max(map(len, lines)) < 600 and len(text) / len(lines) < 90 and letters > 0.45 and ascii_only > 0.97


def read_document(origin: str, root: Path, path: Path) -> Document | None:
    """The cleaned file, or None when it is not UTF-8 text worth learning from."""
    try:
        text = strip_licence(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, OSError):
        return None
    return Document(origin, path.relative_to(root).as_posix(), text) if is_prose_or_code(text) else None


def stdlib_documents() -> Iterator[Document]:
    """The standard library outside the held-out modules and their tests, and the interpreter's help topics."""
    root = stdlib.stdlib_root()
    held_out_tests = {f"test_{module}" for module in stdlib.HELD_OUT}
    for path in stdlib.training_files():
        parts = path.relative_to(root).with_suffix("").parts
        if held_out_tests.intersection(parts) or parts[0] in ("pydoc_data", "encodings"):
            continue
        is_test = bool(_TEST_FOLDERS.intersection(parts))
        if document := read_document("stdlib-test" if is_test else "stdlib", root, path):
            yield document
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for name, text in sorted(topics.items()):
        yield Document("stdlib", f"pydoc_data/{name}", text.strip() + "\n")


def package_documents() -> Iterator[Document]:
    """Python sources and documentation of every package installed in the running environment."""
    for root in sorted({Path(sysconfig.get_paths()[key]) for key in ("purelib", "platlib")}):
        for path in sorted(root.rglob("*")):
            if path.suffix in _SOURCE_SUFFIXES and path.is_file() and not _SKIPPED_NAMES.search(path.name):
                relative = path.relative_to(root)
                if "labkit" in relative.parts[0] or _TEST_FOLDERS.intersection(relative.parts):
                    continue
                if document := read_document(relative.parts[0], root, path):
                    yield document


def select(
    documents: Iterable[Document], held_out: HeldOutFilter, *, cap_bytes: int, uncapped: str, seed: int
) -> tuple[list[Document], Counter[str]]:
    """Documents to train on, in a seeded random order, and how many were dropped for which reason.

    No origin but `uncapped` contributes more than `cap_bytes` characters; its files also come first, so that of a
    file and its copy in a package the original is kept.
    """
    shuffled = sorted(documents, key=lambda document: (document.origin, document.path))
    random.Random(seed).shuffle(shuffled)
    shuffled.sort(key=lambda document: document.origin != uncapped)
    kept: list[Document] = []
    dropped: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    seen: set[str] = set()
    for document in shuffled:
        distinct = set(lines_of(document.text))
        if document.origin != uncapped and taken[document.origin] + len(document.text) > cap_bytes:
            dropped["cap"] += 1
        elif held_out.is_copy(document.text):
            dropped["held out"] += 1
        elif len(distinct & seen) > NEAR_DUPLICATE_FRACTION * len(distinct):
            dropped["duplicate"] += 1
        else:
            seen |= distinct
            taken[document.origin] += len(document.text)
            kept.append(document)
    return kept, dropped
