"""Rows of a user's file: CSV, JSON lines or plain text, read line by line with every size checked on the way."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from labkit.core.errors import UsageError

MAX_FILE_BYTES = 512 << 20
MAX_LINE_BYTES = 1 << 20
MAX_COLUMNS = 1_000

Row = Mapping[str, str]


def read_rows(path: Path) -> Iterator[Row]:
    """Rows by column name; a plain text has one column, `text`, and a row for every line.

    Raises:
        UsageError: no such file, of another kind or too large, not UTF-8, or a line that cannot be read.
    """
    readers = {".csv": _csv, ".jsonl": _json_lines, ".txt": _plain}
    if path.suffix.lower() not in readers:
        raise UsageError.unknown("kind of corpus", path.name, readers)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UsageError(f"corpus {path.name} has {size:,} bytes; allowed: at most {MAX_FILE_BYTES:,}")
        yield from readers[path.suffix.lower()](path)
    except OSError as error:
        raise UsageError(f"corpus {str(path)!r} cannot be read: {error.strerror or error}") from None


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise UsageError(f"{path.name}, line {number}: longer than the {MAX_LINE_BYTES:,} bytes allowed")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{path.name}, line {number}: byte {error.object[error.start]:#04x} is not UTF-8; "
                    "remedy: save the file as UTF-8"
                ) from None


def _plain(path: Path) -> Iterator[Row]:
    for line in _lines(path):
        yield {"text": line}


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.reader(_lines(path), strict=True)
    try:
        columns = next(reader, [])
        if len(columns) > MAX_COLUMNS:
            raise UsageError(f"{path.name} has {len(columns):,} columns; allowed: at most {MAX_COLUMNS:,}")
        for cells in reader:
            if cells and len(cells) != len(columns):
                raise UsageError(f"{path.name}, line {reader.line_num}: {len(cells)} cells for {len(columns)} columns")
            if cells:
                yield dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise UsageError(f"{path.name}, line {reader.line_num}: {error}") from None


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path.name}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict) or len(row) > MAX_COLUMNS:
            raise UsageError(f"{path.name}, line {number}: not an object of at most {MAX_COLUMNS:,} columns")
        yield {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
