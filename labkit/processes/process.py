"""WorkerProcess: a handle on one child process. Commands go in, events of all workers come out of one inbox."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from labkit.processes import fork

_NUM_LOG_LINES = 50
_JOIN_TIMEOUT_S = 1.0

Event = dict[str, Any]
Inbox = queue.SimpleQueue[tuple["WorkerProcess", Event]]


class WorkerProcess:
    """One child process, by default in a process group of its own, so that all it starts can be ended with it.

    Without `has_own_group` it belongs to the group of this process and is ended with that. Its events land in `inbox`,
    the last of them `{"event": "ended"}`, whatever it died of.

    A `command` that runs a module with this interpreter is forked from a nursery that has imported the `preloaded`
    modules, where there are any and the system can. The first such worker waits for these imports.
    """

    def __init__(
        self,
        name: str,
        inbox: Inbox,
        *,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        has_own_group: bool = True,
        preloaded: Sequence[str] = (),
    ) -> None:
        self.name, self._has_own_group = name, has_own_group
        self._log: deque[str] = deque(maxlen=_NUM_LOG_LINES)
        # the worker finds the modules that this process finds, and with -P no others
        found = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        everything = {**os.environ, **found, **(environment or {})}
        self._process = (has_own_group and _forked(command, everything, preloaded)) or subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=everything,
            start_new_session=has_own_group,
        )
        self._threads = (
            threading.Thread(target=self._collect, args=(inbox,), name=f"events of {name}", daemon=True),
            threading.Thread(target=self._drain, name=f"log of {name}", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Process id, also that of its process group if it has its own."""
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The last line it wrote on stderr, or ''."""
        return next((line for line in reversed(self._log) if line), "")

    def send(self, command: str, **fields: Any) -> None:
        """Hand over one command; a worker that is gone answers with its `ended` event."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **fields}) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # gone, or already ended from this side
            return

    def kill(self) -> None:
        """Kill it, with its process group if it has its own; harmless where nobody is left."""
        try:
            if self._has_own_group:
                os.killpg(self.pid, signal.SIGKILL)  # which is there before its number is known
            else:
                self._process.kill()
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return

    def end(self) -> int:
        """Kill it and wait for it; returns the exit status, negative for a signal."""
        self.kill()
        status = self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # a command that it never read
            self._process.stdin.close()
        for thread in self._threads:
            thread.join(timeout=_JOIN_TIMEOUT_S)  # bounded: a process that left the group may hold the pipe open
        return status

    def _collect(self, inbox: Inbox) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith("\n"):  # else it was killed in the middle of it
                    inbox.put((self, json.loads(line)))
        inbox.put((self, {"event": "ended"}))

    def _drain(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._log.append(line.strip())


def _forked(command: Sequence[str], environment: Mapping[str, str], preloaded: Sequence[str]) -> fork.Child | None:
    """The command as a fork of a nursery, or None where that cannot be had and an interpreter has to be started."""
    *interpreter, module = command
    if not preloaded or interpreter != [sys.executable, "-P", "-m"] or sys.platform != "linux":
        return None
    try:
        return fork.start(module, environment, preloaded=preloaded)
    except OSError:  # what is missing or broken here, the new interpreter will say
        return None
