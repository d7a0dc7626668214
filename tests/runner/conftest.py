"""A session over mock workers, which sleep instead of computing."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec
from labkit.runner.plan import Plan, Progress
from labkit.runner.session import Session
from labkit.runner.store import FILE_NAME, Store

_RUNNER = "PYTEST_XDIST_WORKER"
MOCK_WORKER = Path(__file__).with_name("mock_worker.py")
SPEC = WorkloadSpec("mock", "single_stream", prompt_tokens=4, new_tokens=4)


class MockLab:
    """Measures with mock workers; what they did is in `log`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._log = folder, folder / "log.jsonl"
        self.store = Store(folder / FILE_NAME)

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, str(MOCK_WORKER), str(self._log))

    @property
    def log(self) -> list[dict[str, Any]]:
        text = self._log.read_text() if self._log.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def session(self) -> Session:
        return Session(store=self.store, cache_folder=self.folder, worker_command=self.command)

    def measure(
        self,
        *recipes: str,
        model: str = "mock",
        effort: str = "quick",
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[Run, ...]:
        plan = Plan(model=model, spec=SPEC, recipes=recipes, effort=effort)
        return self.session().measure(plan, on_progress=on_progress, cancel=cancel)


@pytest.fixture
def mock_lab(tmp_path: Path) -> Iterable[MockLab]:
    lab = MockLab(tmp_path)
    yield lab
    lab.store.close()


@pytest.fixture
def no_process_left() -> Iterable[None]:
    """Fails where a process that the test started, or one that such a process started, is still there after 5 s."""
    before = set(psutil.process_iter())
    yield
    _, alive = psutil.wait_procs(
        [process for process in psutil.process_iter() if process not in before and _is_our_mock(process)], timeout=5
    )
    assert not alive


def _is_our_mock(process: psutil.Process) -> bool:
    """Whether tests that run beside these did not start it: what pytest-xdist calls its workers is inherited."""
    try:
        line, runner = " ".join(process.cmdline()), process.environ().get(_RUNNER)
    except psutil.Error:
        return False
    return runner == os.environ.get(_RUNNER) and (MOCK_WORKER.name in line or "time.sleep(600)" in line)
