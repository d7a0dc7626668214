"""Ranks: the processes of `torch.distributed` that compute one model together, from their start to their end.

The first rank starts the others on its own machine, in its own process group, and they meet on loopback; each dies with
the pipe that the first holds. Under `torchrun` the processes are there already, on one or several hosts; see `serve`.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from labkit.core.errors import Unavailable, WorkerDied
from labkit.core.machine import usable_cores

_PATIENCE = timedelta(days=365)  # a rank waits as long as the first is alive: a broken connection tells, no clock
_START = timedelta(minutes=5)
_END_S = 10.0
_SESSIONS = "labkit/sessions"  # counts, in torchrun's store, the groups that a first rank has asked for
_NO_MORE = "no more"


@contextmanager
def ranks(world: int, command: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Be the first of `world` ranks; the others run `command`. Yields how they are connected.

    Raises:
        Unavailable: torchrun started another number. WorkerDied, inside: a rank ended.
    """
    store, address = _store(world)
    children = [] if address is None else [_start(command, rank, world, address) for rank in range(1, world)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of(world))
    try:
        _join(store, 0, world)
        yield {"ranks": world, "backend": dist.get_backend(), "threads": torch.get_num_threads()}
    except WorkerDied as error:
        raise WorkerDied(_obituary(children) or str(error)) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(before)
        _end(children)


def join() -> None:
    """Be one of the other ranks, as its environment says, until the first is gone."""
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=_START)
    prefix = os.environ.get("LABKIT_GROUP")
    _join(PrefixStore(prefix, store) if prefix else store, rank, world)


def serve(command: Sequence[str]) -> None:
    """What torchrun's other processes do: start a rank for each group that the first rank asks for."""
    store = _torchrun_store()
    running: list[subprocess.Popen[bytes]] = []
    number = 0
    with suppress(RuntimeError):  # the store is gone, and with it the first rank
        while True:
            number += 1
            group = f"{_SESSIONS}/{number}"
            store.wait([group], _PATIENCE)
            if store.get(group) == _NO_MORE.encode():
                break
            running = [child for child in running if child.poll() is None]
            running.append(_popen(command, {**os.environ, "LABKIT_GROUP": group}))
    _end(running)


def release() -> None:
    """Let torchrun's other processes end: the first will ask for no more groups."""
    store = _torchrun_store()
    store.set(f"{_SESSIONS}/{store.add(_SESSIONS, 1)}", _NO_MORE)


def threads_of(world: int) -> int:
    """Threads of each rank, so that those of one machine share its cores."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return max(1, usable_cores() // here)


def _store(world: int) -> tuple[Store, int | None]:
    """Where ranks find each other, and the port on loopback that those we start have to know."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        found = int(os.environ["WORLD_SIZE"])
        if found != world:
            raise Unavailable(
                f"{world} ranks were asked for, torchrun started {found}; remedy: num={found}, or start {world}"
            )
        store = _torchrun_store()
        name = f"{_SESSIONS}/{store.add(_SESSIONS, 1)}"
        store.set(name, "")
        return PrefixStore(name, store), None
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    listener = socket.create_server(("127.0.0.1", 0))  # torch by itself would listen on all addresses
    port = listener.getsockname()[1]
    store = TCPStore(
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(), timeout=_START
    )
    return store, port


def _torchrun_store() -> Store:
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=_START)


def _join(store: Store, rank: int, world: int) -> None:
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() > 1
    if has_gpus and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_PATIENCE)


def _start(command: Sequence[str], rank: int, world: int, port: int) -> "subprocess.Popen[bytes]":
    place = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return _popen(command, {**os.environ, **{name: str(value) for name, value in place.items()}})


def _popen(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    found = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr.fileno(), env={**environment, **found})


def _die_with_parent() -> None:
    """Wait for the end of the pipe that only the parent holds; it comes whatever the parent died of."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _end(children: "Sequence[subprocess.Popen[bytes]]") -> None:
    for child in children:
        assert child.stdin is not None
        child.stdin.close()  # they end themselves
    for child in children:
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _obituary(children: "Sequence[subprocess.Popen[bytes]]") -> str:
    """What the first rank to end died of, or ''."""
    for rank, child in enumerate(children, start=1):
        with suppress(subprocess.TimeoutExpired):
            status = child.wait(0.5)
            cause = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            return f"rank {rank} of {len(children) + 1} was {cause}"
    return ""
