"""Crew: live workers that one process started. Asks them, notices who dies, ends all of them."""

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.core.errors import LabkitError, UsageError, WorkerDied
from labkit.processes.process import Event, Inbox, WorkerProcess

_CANCEL_POLL_S = 0.1
_CLOSE_TIMEOUT_S = 5.0
_ERRORS = {"usage": UsageError, "died": WorkerDied, "failed": LabkitError}


class Cancelled(Exception):
    """The user asked the session to stop."""


class Crew:
    """Workers that share one inbox. A context manager: at its end none of them is left, nor what they started.

    Args:
        command: starts a worker, with `environment` on top of this process's own.
        cancel: once it is set, waiting raises Cancelled.
        has_own_groups: whether each worker leads a process group; see WorkerProcess.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cancel: threading.Event,
        *,
        has_own_groups: bool = True,
    ) -> None:
        self._command, self._environment, self._has_own_groups = command, environment, has_own_groups
        self._cancel = cancel
        self._inbox: Inbox = queue.SimpleQueue()
        self._events: dict[WorkerProcess, deque[Event]] = {}

    @property
    def workers(self) -> tuple[WorkerProcess, ...]:
        """Those that have not ended, in the order they started."""
        return tuple(self._events)

    def start(self, name: str, *, preloaded: Sequence[str] = ()) -> WorkerProcess:
        """Start one more worker; see WorkerProcess."""
        worker = WorkerProcess(
            name,
            self._inbox,
            command=self._command,
            environment=self._environment,
            has_own_group=self._has_own_groups,
            preloaded=preloaded,
        )
        self._events[worker] = deque()
        return worker

    def ask(self, worker: WorkerProcess, command: str, *, timeout_s: float, **fields: Any) -> Event:
        """Send a command and wait for its answer; a worker that does not give one is ended.

        Raises:
            UsageError: it cannot do what was asked. LabkitError: it failed. WorkerDied: it ended without a word,
                or did not answer in time. Cancelled: the session is to stop.
        """
        worker.send(command, **fields)
        return self.answer(worker, command, timeout_s=timeout_s)

    def answer(self, worker: WorkerProcess, command: str, *, timeout_s: float) -> Event:
        """Wait for the answer to a command that was sent before; see `ask`."""
        event = self._next_event(worker, timeout_s)
        if event is None:
            self.end(worker)
            raise WorkerDied(f"{worker.name}: no answer to {command!r} within {timeout_s:.0f} s")
        return self._checked(worker, event)

    def hear(self, *, timeout_s: float) -> tuple[WorkerProcess, Event] | None:
        """The next event of any worker, None when none comes in time; raises like `ask`."""
        for worker, events in self._events.items():
            if events:
                return worker, self._checked(worker, events.popleft())
        try:
            sender, event = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return (sender, self._checked(sender, event)) if sender in self._events else None

    def close(self, workers: Sequence[WorkerProcess]) -> None:
        """Have workers close what they opened, then end them."""
        for worker in workers:
            worker.send("close")
        for worker in workers:
            self._next_event(worker, _CLOSE_TIMEOUT_S)  # "closed", or that it has ended
            self.end(worker)

    def end(self, worker: WorkerProcess) -> int:
        """End one worker and all it started; returns its exit status."""
        del self._events[worker]
        return worker.end()

    def _checked(self, worker: WorkerProcess, event: Event) -> Event:
        if event["event"] == "error":
            self.end(worker)
            raise _ERRORS[event["kind"]](event["text"])
        if event["event"] == "ended":
            raise WorkerDied(_obituary(worker, self.end(worker)))
        return event

    def _next_event(self, worker: WorkerProcess, timeout_s: float) -> Event | None:
        """The worker's next event, or None when none comes in time; those of others are kept for later."""
        deadline_s = time.monotonic() + timeout_s
        while not self._events[worker]:
            if self._cancel.is_set():
                raise Cancelled
            if time.monotonic() > deadline_s:
                return None
            try:
                sender, event = self._inbox.get(timeout=_CANCEL_POLL_S)
            except queue.Empty:
                continue
            if sender in self._events:  # else it was ended before its last words were read
                self._events[sender].append(event)
        return self._events[worker].popleft()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._events:
            worker.kill()  # all at once; waiting comes after
        for worker in self.workers:
            self.end(worker)


def _obituary(worker: WorkerProcess, status: int) -> str:
    cause = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    hint = " (the system does so when memory runs out)" if status == -signal.SIGKILL else ""
    last_words = f"; its last words: {worker.last_words}" if worker.last_words else ""
    return f"{worker.name}: worker {worker.pid} was {cause}{hint}{last_words}"
