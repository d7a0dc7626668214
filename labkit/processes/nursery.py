"""Nursery: a process that has imported what takes long, and forks workers from itself at once.

    python -P -m labkit.processes.nursery 5 torch

Requests come over the socket that is file 5 here, one at a time, a JSON line each:

    {start, environment, path, folder} with stdin, stdout and stderr of the worker → {pid}, or {error}
    {wait: pid}                                                                    → {status}, or {error}

It ends when the other end of the socket is closed. A worker is what an interpreter of its own would be after these
imports, except that what is drawn once for an interpreter, places in memory and the seed of hashes, is the same in all
of them. Modules of labkit it imports itself.
"""

import errno
import importlib
import json
import os
import runpy
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

_CHUNK_BYTES = 2**16
_NUM_FILES = 3  # stdin, stdout, stderr


def receive(sender: socket.socket) -> tuple[bytes, list[int]]:
    """The next line, b"" where the sender is gone, and the files that came with it."""
    line, files, _, _ = socket.recv_fds(sender, _CHUNK_BYTES, _NUM_FILES)
    while line and not line.endswith(b"\n"):
        more = sender.recv(_CHUNK_BYTES)
        if not more:
            return b"", files
        line += more
    return line, files


def main(file: int, modules: Sequence[str]) -> None:
    """Import the modules, then be a nursery; in each worker, be that."""
    os.set_inheritable(file, False)
    for module in modules:
        importlib.import_module(module)
    with socket.socket(fileno=file) as parent:
        request = _serve(parent)
    if request is not None:
        _become(**request)


def _serve(parent: socket.socket) -> dict[str, Any] | None:
    """Answer until the parent is gone, which is told by None; returns in each worker too, with what it is to be."""
    while True:
        line, files = receive(parent)
        if not line:
            return None
        request: dict[str, Any] = json.loads(line)
        try:
            if "wait" in request:
                answer: dict[str, Any] = {"status": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
            else:
                pid = _fork(files)
                if pid == 0:
                    return request
                answer = {"pid": pid}
        except OSError as error:
            answer = {"error": str(error)}
        for file in files:
            os.close(file)
        parent.sendall(json.dumps(answer).encode() + b"\n")


def _fork(files: Sequence[int]) -> int:
    """Fork a worker that leads a process group and has these as its stdin, stdout and stderr; 0 in the worker."""
    if len(files) != _NUM_FILES:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # which is why a file does not arrive
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # a library's pool of threads is no hindrance: it is prepared for forks, which Python cannot know
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        pid = os.fork()
    with suppress(OSError):  # on both sides: neither goes on before it is so. Or the worker has ended already
        os.setpgid(pid, pid)
    if pid == 0:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
    return pid


def _become(*, start: str, environment: Mapping[str, str], path: Sequence[str], folder: str) -> None:
    """Run the module as an interpreter would that the parent starts now."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = path
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == "labkit"]:
        del sys.modules[name]  # its source may have changed since
    sys.argv = [start]
    runpy.run_module(start, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
