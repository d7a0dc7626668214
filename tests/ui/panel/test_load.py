"""The tab "Under load", over sessions that are replaced by simulated queues."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("ipywidgets", reason="the extra notebooks is not installed")

from labkit.core.replay import Line
from labkit.core.run import Run
from labkit.core.workload import workload
from labkit.lab import Lab
from labkit.runner.plan import Plan
from labkit.runner.session import OnProgress, Session
from labkit.ui.panel.panel import Panel
from tests.runner.test_sweep import Queues


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Panel:
    queues = Queues()

    def measure(
        self: Session, plan: Plan, *, on_progress: OnProgress | None = None, cancel: threading.Event | None = None
    ) -> Sequence[Run]:
        runs = queues(plan)
        for run in runs:
            self._keep(run)
        if cancel is not None and len(queues.plans) == 3:
            cancel.set()
        return runs

    monkeypatch.setattr(Session, "measure", measure)
    panel = Lab(model="queue", workload=workload("server"), home=tmp_path).panel()
    panel._load._requests.value = 24
    return panel


def swept(panel: Panel, rates: str) -> str:
    panel._load._rates.value = rates
    panel._load._start.click()
    panel.wait(60)
    return str(panel._load._found.value)


def test_a_sweep_draws_every_recipe_of_the_comparison_under_load(panel: Panel) -> None:
    found = swept(panel, "1, 8")
    assert found.count("<img") == 2, "a picture for each theme"
    assert "kv_cache: keeps up with" in found
    assert not panel._run.disabled
    assert panel.runs == ()


def test_recorded_requests_are_all_sent_and_their_sizes_stand_as_they_are(panel: Panel, tmp_path: Path) -> None:
    lines = tuple(Line(0.1 * index, 8, 5) for index in range(30))
    replaying = Lab(model="queue", workload=workload("server", replay=lines), home=tmp_path).panel()
    assert all(field.disabled for field in replaying._settings._sizes)
    assert "kv_cache: keeps up with" in swept(replaying, "1")
    assert {run.workload["num_requests"] for run in replaying._lab.stored()} == {30}
    replaying._settings._workload.value = "chat"
    assert not any(field.disabled for field in replaying._settings._sizes)


def test_a_cancelled_sweep_shows_its_cells_and_goes_on_from_them(panel: Panel) -> None:
    swept(panel, "1, 2, 4")
    assert panel._progress_text.value == "cancelled"
    assert len(panel._lab.stored(limit=100)) == 3
    swept(panel, "1, 2, 4")
    assert panel._progress_text.value == "done"
    assert len(panel._lab.stored(limit=100)) == 6


def test_a_rate_typed_wrong_is_one_line_and_nothing_runs(panel: Panel) -> None:
    assert swept(panel, "1, fast") == ""
    assert "fast" in panel._outcome.value
    assert panel._lab.stored(limit=1) == ()


def test_a_system_without_a_load_of_requests_has_no_such_tab(tmp_path: Path) -> None:
    assert "Under load" not in Lab(system="similarity", home=tmp_path).panel()._tabs.titles
