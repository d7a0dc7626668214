"""Workers forked from a nursery are as those that are started: what they are told, where they run, how they end."""

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.processes import fork
from labkit.processes.crew import Cancelled, Crew
from labkit.processes.process import Inbox, WorkerProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

Start = Callable[..., WorkerProcess]

WORKER = """
import json, os, sys
from labkit.processes.channel import Channel

def state():
    return {
        "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp(),
        "folder": os.getcwd(), "variable": os.environ.get("LABKIT_OF_A_TEST"), "argv": sys.argv[1:],
        "has_preloaded": "colorsys" in sys.modules, "name": __name__,
        "files": [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")[:-1]],
    }

channel = Channel()
for command in channel.commands():
    match command["command"]:
        case "state":
            channel.send("state", **state())
        case "say":
            print(command["text"], file=sys.stderr)
            raise SystemExit(command["status"])
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts the worker above; it answers in the queue that is its inbox."""
    (tmp_path / "some_worker.py").write_text(textwrap.dedent(WORKER))
    monkeypatch.syspath_prepend(tmp_path)
    command = (sys.executable, "-P", "-m", "some_worker")

    def started(inbox: Inbox, name: str = "one", **environment: str) -> WorkerProcess:
        return WorkerProcess(name, inbox, command=command, environment=environment, preloaded=("colorsys",))

    return started


def state_of(worker: WorkerProcess, inbox: Inbox) -> dict[str, Any]:
    worker.send("state")
    sender, event = inbox.get(timeout=30)
    assert (sender, event.pop("event")) == (worker, "state")
    return event


def nursery_of(worker: WorkerProcess) -> psutil.Process:
    parent = psutil.Process(worker.pid).parent()
    assert parent is not None
    assert parent.ppid() == os.getpid()
    return parent


def wait_for_end(*processes: psutil.Process) -> None:
    """Wait until all have ended, whether or not their parent has asked for their status."""
    deadline_s = time.monotonic() + 10
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_it_runs_where_and_with_what_it_was_started(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox: Inbox = queue.SimpleQueue()
    first = start(inbox)
    monkeypatch.chdir(tmp_path)
    second = start(inbox, "two", LABKIT_OF_A_TEST="said")
    try:
        state = state_of(second, inbox)
        assert nursery_of(first) == nursery_of(second)
        assert state["pid"] == state["group"] == second.pid
        assert (state["folder"], state["variable"]) == (str(tmp_path), "said")
        assert (state["name"], state["argv"], state["has_preloaded"]) == ("__main__", [], True)
        assert state_of(first, inbox)["variable"] is None
        # its own three and the copy of one for events: none of the nursery, none of the other worker
        own = [file for file in state["files"] if file.startswith(("pipe:", "socket:"))]
        assert len(own) == 4
        assert not set(own) & set(state_of(first, inbox)["files"])
    finally:
        assert (first.end(), second.end()) == (-signal.SIGKILL, -signal.SIGKILL)


def test_its_end_is_told_with_its_status_and_last_words(start: Start) -> None:
    inbox: Inbox = queue.SimpleQueue()
    worker = start(inbox)
    worker.send("say", text="that was it", status=3)
    assert inbox.get(timeout=30) == (worker, {"event": "ended"})
    assert worker.end() == 3
    assert worker.last_words == "that was it"
    assert not psutil.pid_exists(worker.pid)
    worker.kill()  # harmless from now on


def test_it_ends_when_nobody_can_ask_it_any_more(start: Start, tmp_path: Path) -> None:
    script = """
        import queue, sys, time
        from labkit.processes.process import WorkerProcess
        worker = WorkerProcess(
            "one", queue.SimpleQueue(), command=(sys.executable, "-P", "-m", "some_worker"), preloaded=("colorsys",)
        )
        print(worker.pid, flush=True)
        time.sleep(60)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = (sys.executable, "-c", textwrap.dedent(script))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        worker = psutil.Process(int(lab.stdout.readline()))
        forked_from = worker.parent()
        assert forked_from is not None
        lab.kill()
    wait_for_end(worker, forked_from)


def test_a_nursery_that_died_is_replaced(start: Start) -> None:
    inbox: Inbox = queue.SimpleQueue()
    orphan = start(inbox)
    dead = nursery_of(orphan)
    dead.kill()
    dead.wait(10)
    worker = start(inbox, "two")
    try:
        assert nursery_of(worker) != dead
        assert state_of(orphan, inbox)["pid"] == orphan.pid
    finally:
        assert worker.end() == orphan.end() == -signal.SIGKILL


def test_another_environment_is_imported_in_another_nursery(start: Start) -> None:
    inbox: Inbox = queue.SimpleQueue()
    first = start(inbox)
    retired = nursery_of(first)
    second = start(inbox, "two", OMP_NUM_THREADS="7")
    try:
        assert nursery_of(second) != retired
        assert retired.is_running()
        first.send("say", text="", status=4)
        assert inbox.get(timeout=30) == (first, {"event": "ended"})
        assert first.end() == 4  # which only the retired one could tell
        assert not retired.is_running()
    finally:
        second.end()


def test_what_cannot_be_imported_there_is_told_by_an_interpreter_of_its_own(start: Start) -> None:
    inbox: Inbox = queue.SimpleQueue()
    worker = WorkerProcess(
        "one", inbox, command=(sys.executable, "-P", "-m", "some_worker"), preloaded=("no_such_module",)
    )
    try:
        state = state_of(worker, inbox)
        assert (state["parent"], state["has_preloaded"]) == (os.getpid(), False)
    finally:
        worker.end()


def test_threads_share_a_nursery(start: Start) -> None:
    inboxes: list[Inbox] = [queue.SimpleQueue() for _ in range(8)]
    states: dict[int, Mapping[str, Any]] = {}

    def run(index: int) -> None:
        worker = start(inboxes[index], str(index), LABKIT_OF_A_TEST=str(index))
        states[index] = state_of(worker, inboxes[index])
        worker.end()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(inboxes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [states[index]["variable"] for index in range(8)] == [str(index) for index in range(8)]
    assert len({state["parent"] for state in states.values()}) == 1
    assert len({state["pid"] for state in states.values()}) == 8


def test_an_answer_that_nobody_waited_for_is_not_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = fork.Nursery(("colorsys",), os.environ)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        with monkeypatch.context() as patch:
            patch.setattr(fork, "receive", interrupt)
            with pytest.raises(KeyboardInterrupt):
                interrupted.start("some_worker", os.environ)
        assert not interrupted.can_serve(("colorsys",), os.environ)
        with pytest.raises(OSError, match="file descriptor"):
            interrupted.start("some_worker", os.environ)
    finally:
        interrupted.close()


def test_a_nursery_serves_what_it_has_imported() -> None:
    one = fork.Nursery(("colorsys", "this"), os.environ)
    try:
        assert one.can_serve((), os.environ)
        assert one.can_serve(("this",), os.environ)
        assert not one.can_serve(("this", "antigravity"), os.environ)
        assert one.can_serve(("this",), {**os.environ, "LABKIT_LANG": "zh"})
        assert not one.can_serve(("this",), {**os.environ, "MALLOC_ARENA_MAX": "2"})
    finally:
        one.close()
    assert not one.can_serve((), os.environ)


def test_it_can_be_ended_as_soon_as_it_is_started(start: Start) -> None:
    inbox: Inbox = queue.SimpleQueue()
    assert {start(inbox).end() for _ in range(100)} == {-signal.SIGKILL}


def test_a_cancelled_crew_ends_though_its_worker_has_hardly_begun(start: Start) -> None:
    start(queue.SimpleQueue()).end()  # so that the nursery answers at once
    cancelled = threading.Event()
    cancelled.set()
    for _ in range(20):
        with Crew((sys.executable, "-P", "-m", "some_worker"), {}, cancelled) as crew:
            worker = crew.start("one", preloaded=("colorsys",))
            with pytest.raises(Cancelled):
                crew.ask(worker, "state", timeout_s=30)
        assert not psutil.pid_exists(worker.pid)


def test_a_start_that_fails_leaves_no_file_open(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path("/proc/self/fd")
    start(queue.SimpleQueue()).end()
    before = len(list(own.iterdir()))

    def refuse(*_: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(os, "getcwd", refuse)
        for _ in range(3):
            with pytest.raises(OSError):  # noqa: PT011 - it has no text
                fork.start("some_worker", os.environ, preloaded=("colorsys",))
    with monkeypatch.context() as patch:
        patch.setattr(fork.socket, "send_fds", refuse)
        with pytest.raises(OSError):  # noqa: PT011
            fork.start("some_worker", os.environ, preloaded=("colorsys",))
    start(queue.SimpleQueue()).end()
    assert len(list(own.iterdir())) == before


def test_a_worker_that_was_waited_for_elsewhere_does_not_end_the_nursery() -> None:
    one = fork.Nursery(("colorsys",), os.environ)
    try:
        with pytest.raises(OSError, match="No child"):
            one._ask({"wait": os.getpid()})
        assert one.can_serve((), os.environ)
    finally:
        one.close()


def test_requests_of_any_length_arrive(start: Start) -> None:
    inbox: Inbox = queue.SimpleQueue()
    long = "x" * 100_000
    worker = start(inbox, LABKIT_OF_A_TEST=long)
    try:
        assert state_of(worker, inbox)["variable"] == long
    finally:
        worker.end()
