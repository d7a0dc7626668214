"""Workers that are forked from a nursery, which this process keeps for as long as it lives; see `nursery`."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import IO, Any

from labkit.processes.nursery import receive

_UNREAD = ("LABKIT_", "PYTEST_")  # variables that no library reads while it is imported
_END_S = 10.0  # of a worker that was killed and has much memory to give back


class Child:
    """A worker that a nursery started: as much of `subprocess.Popen` as is needed of one."""

    def __init__(self, nursery: "Nursery", pid: int, stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self._nursery = nursery
        self._lock = threading.Lock()
        self._status: int | None = None

    def kill(self) -> None:
        """Kill it; harmless where it has ended."""
        if self._status is None:  # else the number may be another's by now
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        with self._lock:
            if self._status is None:
                self._status = self._nursery.wait(self.pid)
            return self._status


class Nursery:
    """A handle on a nursery, started here with `modules` to import in `environment`."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._modules, self._state = set(modules), _state(environment)
        self._lock = threading.Lock()
        self._unwaited: set[int] = set()
        self._is_retired = False
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                (sys.executable, "-P", "-m", "labkit.processes.nursery", str(theirs.fileno()), *modules),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=dict(environment),
                start_new_session=True,  # a key that interrupts this process is not meant for it
            )

    def start(self, module: str, environment: Mapping[str, str]) -> Child:
        """Run `module` as `__main__` in a new worker, which leads a process group of its own.

        Waits for the imports of a nursery that was just started.

        Raises:
            OSError: the nursery is gone, or the system let it start none.
        """
        request = {"start": module, "environment": dict(environment), "path": sys.path, "folder": os.getcwd()}
        with ExitStack() as theirs, ExitStack() as ours:
            pipes = [_pipe(mode, theirs, ours) for mode in ("w", "r", "r")]
            pid = int(self._ask(request, [end for end, _ in pipes])["pid"])
            ours.pop_all()  # they stay open
        self._unwaited.add(pid)
        stdin, stdout, stderr = (file for _, file in pipes)
        return Child(self, pid, stdin, stdout, stderr)

    def wait(self, pid: int) -> int:
        """Wait for the end of a worker that it started; returns the exit status, negative for a signal."""
        try:
            return int(self._ask({"wait": pid})["status"])
        except OSError:  # the nursery is gone and only it was told; whoever waits has killed the worker before
            _await_end(pid)
            return -signal.SIGKILL
        finally:
            self._unwaited.discard(pid)
            if self._is_retired:
                self.retire()

    def retire(self) -> None:
        """End it as soon as none of its workers has to be waited for."""
        self._is_retired = True
        if not self._unwaited:
            self.close()

    def close(self) -> None:
        """End it now; its workers live on."""
        self._socket.close()
        self._process.kill()  # it may be importing still
        self._process.wait()

    def can_serve(self, modules: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether it lives, has imported all of these, and would have imported the same in this environment."""
        is_alive = self._socket.fileno() >= 0 and self._process.poll() is None
        return is_alive and self._modules.issuperset(modules) and _state(environment) == self._state

    def _ask(self, request: Mapping[str, Any], files: Sequence[int] = ()) -> dict[str, Any]:
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            try:
                sent = socket.send_fds(self._socket, [line], files)
                self._socket.sendall(line[sent:])
                received, _ = receive(self._socket)
            except BaseException:  # an answer that is still to come would be taken for that to another request
                self._socket.close()
                raise
        if not received:
            raise BrokenPipeError
        answer: dict[str, Any] = json.loads(received)
        if "error" in answer:
            raise OSError(answer["error"])
        return answer


class _Nurseries:
    """The nursery that is in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: Nursery | None = None

    def start(self, module: str, environment: Mapping[str, str], *, preloaded: Sequence[str]) -> Child:
        """Start a worker; see `Nursery.start`. A nursery that cannot serve retires, and another takes its place."""
        with self._lock:
            if self._current is None or not self._current.can_serve(preloaded, environment):
                if self._current is not None:
                    self._current.retire()
                self._current = Nursery(preloaded, environment)
            return self._current.start(module, environment)

    def close(self) -> None:
        """End it."""
        if self._current is not None:
            self._current.close()

    def forget(self) -> None:
        """In a fork of this process: it is the parent's."""
        self._lock, self._current = threading.Lock(), None


_nurseries = _Nurseries()
start = _nurseries.start
atexit.register(_nurseries.close)
os.register_at_fork(after_in_child=_nurseries.forget)


def _state(environment: Mapping[str, str]) -> tuple[dict[str, str], set[int]]:
    """What a library may read while it is imported: variables, and the cores that it may use."""
    read = {name: value for name, value in environment.items() if not name.startswith(_UNREAD)}
    return read, os.sched_getaffinity(0)


def _pipe(mode: str, theirs: ExitStack, ours: ExitStack) -> tuple[int, IO[str]]:
    """A worker's end of a pipe and, in this mode, ours; each is closed with its stack."""
    read, write = os.pipe()
    end, own = (read, write) if mode == "w" else (write, read)
    theirs.callback(os.close, end)
    return end, ours.enter_context(os.fdopen(own, mode, encoding="utf-8", errors="replace"))


def _await_end(pid: int) -> None:
    """Wait until a killed process that is no child of this one has ended."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it has, or the system is too old to tell
        return
    try:
        select.select([process], [], [], _END_S)
    finally:
        os.close(process)
