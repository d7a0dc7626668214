"""Job: one measurement in a thread of its own, so that the thread that answers clicks only starts and cancels it."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from labkit.core.run import Run
from labkit.runner.session import OnProgress

Work = Callable[[OnProgress, threading.Event], Sequence[Run]]
OnEnd = Callable[[Sequence[Run], Exception | None], None]


class Job:
    """Runs `work` once.

    `on_progress` is handed to the work, `on_end` is called with its Runs, or with none and the error that ended it,
    which may be one of its own; both from the job's thread.
    """

    def __init__(self, work: Work, *, on_progress: OnProgress, on_end: OnEnd) -> None:
        self._work, self._on_progress, self._on_end = work, on_progress, on_end
        self._cancel = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="measurement", daemon=True)

    def start(self) -> None:
        """Return at once; the work goes on."""
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop; returns at once."""
        self._cancel.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancel.is_set()

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until the work has ended.

        Raises:
            TimeoutError: it has not within `timeout_s` seconds. Otherwise whatever ended it early.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the measurement still runs after {timeout_s:g} s; wait longer or cancel it")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        runs: Sequence[Run] = ()
        try:
            runs = self._work(self._on_progress, self._cancel)
        except Exception as error:  # a thread has nobody above it: whoever waits is told, and the panel
            self._error = error
        try:
            self._on_end(runs, self._error)
        except Exception as error:  # what was measured could not be drawn
            self._error = self._error or error
            with suppress(Exception):  # what cannot be drawn may fail again
                self._on_end((), error)
