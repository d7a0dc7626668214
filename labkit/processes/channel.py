"""Channel: a worker's side of the pipe to its parent. JSON lines: commands come in on stdin, events go out.

Events leave through a private copy of stdout; fd 1 itself is turned into stderr, so nothing that a library
prints can end up between them.
"""

import json
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from labkit.core.errors import LabkitError, UsageError, WorkerDied


class Channel:
    """Commands of the parent and events for it. Takes over stdin and stdout of the process."""

    def __init__(self) -> None:
        self._events = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def send(self, event: str, **fields: Any) -> None:
        """Answer with one event."""
        self._events.write(json.dumps({"event": event, **fields}, separators=(",", ":")) + "\n")
        self._events.flush()

    def commands(self) -> Iterator[dict[str, Any]]:
        """Commands in the order they came. Waits without using the processor; never ends by itself."""
        while True:
            yield self._commands.get()

    def waiting(self, timeout_s: float | None = 0.0) -> Iterator[dict[str, Any]]:
        """Commands that are here, or will be within `timeout_s`, None for whenever; waits for the first one only."""
        with suppress(queue.Empty):
            yield self._commands.get(timeout=timeout_s)
        while not self._commands.empty():
            yield self._commands.get()

    def _listen(self) -> None:
        """Queue commands until the parent is gone, then end the process group, whatever it is busy with.

        The end of stdin tells it, not prctl's death signal: that one leaves the worker's own children behind, and comes
        when a mere thread of the parent ends.
        """
        pending = b""
        # os.read, not sys.stdin: a thread that waits inside a buffered reader aborts the interpreter at its exit
        while received := os.read(0, 2**16):
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                self._commands.put(json.loads(line))
        _end_group()


def _end_group() -> None:
    """Kill this process and every process that it started."""
    if os.getpgrp() == os.getpid():  # else the group is someone else's
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def error_event(error: Exception) -> dict[str, str]:
    """Fields of the `error` event that tells the parent what was raised here."""
    kind = "usage" if isinstance(error, UsageError) else "died" if isinstance(error, WorkerDied) else "failed"
    text = str(error) if isinstance(error, LabkitError) else f"{type(error).__name__}: {error}"
    return {"kind": kind, "text": " ".join(text.split())}
