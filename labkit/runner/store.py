"""Store: the history of Runs, one SQLite file that several processes may share.

A Run that `add` has returned from survives a killed process and a power cut: write-ahead log, synchronous FULL.
"""

import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Self

from labkit.core.errors import StoreError, UsageError
from labkit.core.run import Run

VERSION = 1
FILE_NAME = "runs.sqlite3"
_BUSY_TIMEOUT_S = 10.0
_RETRY_S = 0.01
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # the last: a table is not there

_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    created_utc TEXT NOT NULL,
    session TEXT NOT NULL,
    model TEXT NOT NULL,
    recipe TEXT NOT NULL,
    device TEXT NOT NULL,
    status TEXT NOT NULL,
    json TEXT NOT NULL
)
"""

_UPSERT = """
INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET model = excluded.model, status = excluded.status, json = excluded.json
"""

_MERGE = f"""
{_UPSERT}
WHERE (excluded.status = 'done', json_array_length(excluded.json, '$.passes'), excluded.status = 'failed')
    > (runs.status = 'done', json_array_length(runs.json, '$.passes'), runs.status = 'failed')
"""

_QUERY = """
SELECT id FROM runs
WHERE (:model IS NULL OR model = :model)
  AND (:device IS NULL OR device = :device)
  AND (:group IS NULL OR session = :group)
  AND (:status IS NULL OR status = :status)
  AND (:sweep IS NULL OR json_extract(json, '$.sweep') = :sweep)
ORDER BY created_utc DESC, rowid DESC
"""


class Store:
    """Runs by id, newest first. One that is read only leaves its file, and the folder around it, as they are.

    `warn` is told, in one line, of each stored Run that cannot be read and is passed over.

    Raises:
        StoreError: the file cannot be opened, is no history, or is of a newer schema.
    """

    def __init__(
        self, path: Path, *, is_read_only: bool = False, warn: Callable[[str], object] = warnings.warn
    ) -> None:
        self.path = path
        self._warn = warn
        self._lock = threading.Lock()  # one connection, shared by the threads of this process
        try:
            if not is_read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{_reading(path) if is_read_only else 'mode=rwc'}",
                uri=True,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
        except (OSError, sqlite3.Error) as error:
            raise self._failure("opened", error) from None
        try:
            self._prepare(is_read_only=is_read_only)
        except BaseException:
            self._connection.close()
            raise

    def add(self, run: Run) -> None:
        """Write the Run, in place of an earlier state of it; it is on disk when this returns.

        Raises:
            StoreError: the disk is full, the file read-only, or another process holds it for too long.
        """
        with self._statement("written") as connection:
            connection.execute(_UPSERT, _row(run))

    def merge(self, runs: Iterable[Run]) -> int:
        """Write those Runs that are not here, or not so far; all of them or none. Returns how many of them that were.

        Of two states of one Run the finished one is further; of two unfinished ones that with more passes.

        Raises:
            StoreError: as of `add`.
        """
        with self._statement("written") as connection, connection:  # the inner one commits, or rolls back
            rows = [_row(run) for run in runs]
            connection.execute("BEGIN IMMEDIATE")
            return len({row[0] for row in rows if connection.execute(_MERGE, row).rowcount > 0})

    def get(self, id: str) -> Run:
        """Return the Run of this id, or of the only id that begins so.

        Raises:
            UsageError: no Run or several Runs answer to it. StoreError: the history or this Run cannot be read.
        """
        told = id.encode(errors="replace").decode()  # SQLite takes nothing that has no UTF-8, and no id is such
        with self._statement("read") as connection:
            # substr, not LIKE: an id given by a user holds no wildcards
            query = "SELECT id, json FROM runs WHERE substr(id, 1, ?) = ? ORDER BY length(id), id LIMIT 2"
            rows = connection.execute(query, (len(told), told)).fetchall()
        if not id or not rows or (len(rows) > 1 and rows[0][0] != id):
            seen = "several Runs begin so" if id and rows else "no Run has it"
            raise UsageError(f"Run {id!r} was asked of {self.path}; {seen}; `labkit report` lists all ids")
        return Run.from_json(rows[0][1])

    def runs(
        self,
        *,
        limit: int | None = None,
        model: str | None = None,
        device: str | None = None,
        group: str | None = None,
        status: str | None = None,
        sweep: str | None = None,
    ) -> tuple[Run, ...]:
        """Return the Runs that agree in every field that is given, newest first; what cannot be read is passed over.

        Raises:
            StoreError: the file cannot be read.
        """
        wanted = {"model": model, "device": device, "group": group, "status": status, "sweep": sweep}
        with self._statement("read") as connection:
            ids = connection.execute(_QUERY, wanted).fetchall()
            return tuple(islice(self._readable(connection, ids), limit))

    def _readable(self, connection: sqlite3.Connection, ids: Iterable[tuple[str]]) -> Iterator[Run]:
        for (id,) in ids:
            (text,) = connection.execute("SELECT json FROM runs WHERE id = ?", (id,)).fetchone()
            try:
                yield Run.from_json(text)
            except StoreError as error:
                self._warn(f"Run {id!r} of {self.path} is passed over: {error}")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, *, is_read_only: bool) -> None:
        with self._statement("opened") as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise StoreError(
                    f"the history {self.path} is of schema {version}; this labkit reads up to {VERSION}; "
                    "upgrade labkit, or set LABKIT_HOME to another folder"
                )
            if is_read_only:
                return
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")
            if version < VERSION:
                connection.execute("BEGIN IMMEDIATE")  # of two processes that open a new file, one makes the table
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")

    @contextmanager
    def _statement(self, action: str) -> Iterator[sqlite3.Connection]:
        """The connection, held by this thread; SQLite's errors become one line."""
        try:
            with self._lock:
                yield self._connection
        except (sqlite3.Error, ValueError) as error:  # the latter of what is not text, or no finite number
            raise self._failure(action, error) from None

    def _failure(self, action: str, error: Exception) -> StoreError:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:  # the other bits say where
            return StoreError(
                f"the history {self.path} cannot be {action}: {cause}; "
                "move the file away, or set LABKIT_HOME to another folder"
            )
        return StoreError(
            f"the history {self.path} cannot be {action}: {cause}; "
            "export the Runs with --json, or set LABKIT_HOME to a folder that can be written"
        )


def _row(run: Run) -> tuple[str, ...]:
    return run.id, run.created_utc, run.group, run.model["name"], run.recipe, run.device, run.status, run.to_json()


def _reading(path: Path) -> str:
    """How SQLite reads a file and changes nothing: where no log lies beside it, opening it as usual would leave one."""
    file = path.resolve()  # a log lies beside the file, not beside a link to it
    return "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "immutable=1"


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; the file remembers it.

    Of several that open a new file at once only one can switch, and SQLite tells the others "locked" without the wait
    that it grants a statement, so they try again here.
    """
    deadline_s = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(_RETRY_S)
