"""Nursery: a process that has imported what takes long, and forks workers from itself at once.

    python -P -m labkit.processes.nursery torch

Requests come over the socket that is its stdin, one at a time, a JSON line each:

    {start, environment, path, folder} with stdin, stdout and stderr of the worker → {pid} or {error}
    {wait: pid}                                                                    → {status}

It ends when the other end of the socket is closed. A worker is what an interpreter of its own would be after these
imports, except that all of them have the same place in memory; modules of labkit it imports itself.
"""

import importlib
import json
import os
import runpy
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
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


def main(modules: Sequence[str]) -> None:
    """Import the modules, then be a nursery; in each worker, be that."""
    for module in modules:
        importlib.import_module(module)
    # a library's pool of threads is no hindrance: it is prepared for forks, which Python cannot know
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    request = _serve(socket.socket(fileno=0))
    if request is not None:
        _become(**request)


def _serve(parent: socket.socket) -> dict[str, Any] | None:
    """Answer until the parent is gone, which is told by None; returns in each worker too, with what it is to be."""
    while True:
        line, files = receive(parent)
        if not line:
            return None
        request: dict[str, Any] = json.loads(line)
        answer: dict[str, Any]
        if "wait" in request:
            answer = {"status": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
        else:
            try:
                pid = os.fork()
            except OSError as error:
                answer = {"error": str(error)}
            else:
                if pid == 0:
                    _move_in(parent, files)
                    return request
                answer = {"pid": pid}
        for file in files:
            os.close(file)
        parent.sendall(json.dumps(answer).encode() + b"\n")


def _move_in(parent: socket.socket, files: Sequence[int]) -> None:
    """Let go of the nursery's files and take those of the worker."""
    parent.detach()  # its number, 0, is overwritten here
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)


def _become(*, start: str, environment: Mapping[str, str], path: Sequence[str], folder: str) -> None:
    """Run the module as an interpreter would that the parent starts now, in a process group of its own."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] == "labkit"]:
        del sys.modules[name]  # its source may have changed since
    sys.argv = [start]
    runpy.run_module(start, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
