"""The panel over mock workers: what a reader can do with it, and what it must not do."""

import html
import random
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

import pytest

pytest.importorskip("ipywidgets", reason="the extra notebooks is not installed")

import ipywidgets as widgets

from labkit.bench import validity
from labkit.core.effort import EFFORTS
from labkit.core.errors import Unavailable, WorkerDied
from labkit.core.language import VARIABLE
from labkit.core.machine import DEVICES
from labkit.core.workload import WORKLOADS, resized
from labkit.lab import Lab
from labkit.model.source import MODELS
from labkit.optimizations import CATALOG, techniques
from labkit.optimizations.kv_cache import KvCache
from labkit.optimizations.quantize import Quantize
from labkit.runner.plan import Progress
from labkit.runner.store import FILE_NAME, Store
from labkit.ui.language import lessons, messages, phrases
from labkit.ui.panel.panel import Panel
from labkit.ui.panel.settings import Settings
from labkit.ui.panel.views import VIEWS, Content
from tests.runner.conftest import MOCK_WORKER, SPEC, no_process_left
from tests.ui.conftest import make_run

__all__ = ["no_process_left"]

TIMEOUT_S = 60.0
HISTORY = len(VIEWS) + 1  # its tab is the last, behind the one under load


def make_lab(folder: Path, model: str = "mock") -> Lab:
    command = (sys.executable, str(MOCK_WORKER), str(folder / "log.jsonl"))
    return Lab(model=model, workload=SPEC, home=folder, worker_command=command)


@pytest.fixture
def panel(tmp_path: Path) -> Iterable[Panel]:
    made = make_lab(tmp_path).panel()
    yield made
    made.cancel()


def toggles(panel: Panel) -> dict[str, object]:
    return {name: knobs for control in panel._controls for name, knobs in control.read().items()}


def notes(settings: Settings) -> str:
    return " ".join(str(widget.value) for widget in settings.box.children[-1].children)


def tab(panel: Panel, title: str) -> str:
    panel._tabs.selected_index = panel._tabs.titles.index(title)
    return str(panel._views[title].value)


def test_every_technique_can_be_switched_on(panel: Panel) -> None:
    for kind in techniques():
        if any(need.missing() for need in kind.needs):
            continue
        panel.recipe = " + ".join((*kind.requires, kind.name))
        assert set(toggles(panel)) == {*kind.requires, kind.name}


def test_a_system_of_texts_has_its_own_toggles_corpus_and_workloads(tmp_path: Path) -> None:
    panel = Lab(system="similarity", home=tmp_path).panel(recipe="truncated_svd(rank=64) + vector_precision")
    assert toggles(panel) == {
        "truncated_svd": {"rank": 64, "algorithm": "randomized"},
        "vector_precision": {"dtype": "int8"},
    }
    assert panel._settings.model == "stdlib"
    assert panel._settings._workload.options == ("queries", "vectors", "query_batch")
    panel.recipe = "kv_cache"
    assert "unknown optimization" in panel._message.value
    assert panel._run.disabled


def test_an_open_knob_suggests_values_and_takes_any_text(panel: Panel) -> None:
    panel.recipe = "kv_cache + speculative(draft='some/model')"
    (control,) = (control for control in panel._controls if "speculative" in control.read())
    draft = control._knobs["speculative"]._widgets["draft"]  # type: ignore[attr-defined]
    assert draft.options == ("ngram", "half")
    assert draft.value == "some/model"
    draft.value = "half"
    assert panel.recipe == "kv_cache + speculative(draft='half')"
    draft.value = ""
    assert "draft" in panel._message.value


def test_a_number_of_bytes_is_said_in_a_unit_beside_it(panel: Panel) -> None:
    panel.recipe = "kv_cache(budget_bytes=3145728)"
    (control,) = (control for control in panel._controls if "kv_cache" in control.read())
    knobs = control._knobs["kv_cache"]  # type: ignore[attr-defined]
    (pair,) = (shown for shown in knobs.box.children if isinstance(shown, widgets.HBox))
    number, said = pair.children
    assert said.value == "3.00 MiB"
    number.value = 2**36
    assert said.value == "64.0 GiB"
    assert "budget_bytes" not in panel.recipe


def test_a_saved_prefix_is_named_in_a_field_that_takes_any_text(panel: Panel) -> None:
    panel.recipe = "kv_cache + prefix_cache + preload(prefix='faq')"
    (control,) = (control for control in panel._controls if "preload" in control.read())
    field = control._knobs._widgets["prefix"]  # type: ignore[attr-defined]
    assert field.value == "faq"
    field.value = ""
    assert panel.recipe == "kv_cache + prefix_cache + preload"
    field.value = "../faq"
    assert "prefix" in panel._message.value
    assert panel._run.disabled


def test_text_moves_the_toggles_and_toggles_write_the_text(panel: Panel) -> None:
    panel.recipe = "kv_cache(block_size=16) + quantize(bits=4)"
    assert toggles(panel) == {
        "quantize": {**asdict(Quantize()), "bits": 4},
        "kv_cache": {**asdict(KvCache()), "block_size": 16},
    }
    quantize = next(control for control in panel._controls if "quantize" in control.read())
    quantize._check.value = False  # type: ignore[attr-defined]
    assert panel.recipe == "kv_cache(block_size=16)"


def test_a_recipe_typed_wrong_is_told_beside_the_field_and_cannot_be_run(panel: Panel) -> None:
    panel.recipe = "kv_cache + <b>"
    assert "recipe" in panel._message.value
    assert "<b>" not in panel._message.value
    assert panel._run.disabled
    panel.run()
    assert not panel.is_running
    panel.recipe = "kv_cache"
    assert not panel._message.value
    assert not panel._run.disabled


def test_run_measures_what_is_switched_on_beside_the_baseline(panel: Panel) -> None:
    assert "Nothing to draw yet" in tab(panel, "Verdict")
    panel.run()
    assert panel.is_running
    assert panel._run.disabled
    assert not panel._cancel.disabled
    panel.wait(TIMEOUT_S)
    assert not panel.is_running
    assert [run.recipe for run in panel.runs] == ["", "kv_cache"]
    assert panel._progress_text.value == "done"
    assert "baseline" in tab(panel, "Verdict")
    assert panel._cancel.disabled


def test_run_returns_at_once_and_a_hundred_clicks_are_one_run(panel: Panel, tmp_path: Path) -> None:
    start_s = time.perf_counter()
    for _ in range(100):
        panel._run.click()
    assert time.perf_counter() - start_s < 1
    panel.wait(TIMEOUT_S)
    with Store(tmp_path / FILE_NAME) as store:
        assert len({run.group for run in store.runs()}) == 1


@pytest.mark.usefixtures("no_process_left")
def test_cancel_ends_the_workers_and_run_works_again(tmp_path: Path) -> None:
    panel = make_lab(tmp_path, "mock token_s=0.2 child=1").panel()
    panel.run()
    time.sleep(1.5)
    start_s = time.perf_counter()
    panel.cancel()
    assert time.perf_counter() - start_s < 0.2
    panel.wait(5)
    assert panel._progress_text.value == "cancelled"
    panel._lab = make_lab(tmp_path)
    panel.run()
    panel.wait(TIMEOUT_S)
    assert panel.runs[-1].recipe == "kv_cache"


@pytest.mark.slow
@pytest.mark.usefixtures("no_process_left")
def test_twenty_cancels_at_random_moments_leave_no_process_and_a_panel_that_runs(tmp_path: Path) -> None:
    panel, rng = make_lab(tmp_path, "mock token_s=0.01 child=1").panel(), random.Random(0)
    for _ in range(20):
        panel.run()
        assert panel.is_running
        time.sleep(rng.uniform(0, 1.5))
        panel.cancel()
        panel.wait(5)
    panel.run()
    panel.wait(TIMEOUT_S)
    assert [run.recipe for run in panel.runs[-2:]] == ["", "kv_cache"]
    assert all(run.status == "done" for run in panel.runs[-2:])


def test_a_history_that_another_process_holds_is_told_and_the_runs_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.runner.store._BUSY_TIMEOUT_S", 0.1)
    panel = make_lab(tmp_path).panel()
    with sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        panel.run()
        panel.wait(TIMEOUT_S)
        assert "database is locked" in panel._outcome.value
        panel._tabs.selected_index = HISTORY
        assert "database is locked" in panel._history.value
        holder.execute("ROLLBACK")
    holder.close()
    assert len(panel.runs) == 2
    panel.run()
    panel.wait(TIMEOUT_S)
    assert "database is locked" not in panel._outcome.value


def test_a_device_that_went_away_is_one_line(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(device: str) -> None:
        raise Unavailable(f"device {device!r} was asked for; it went away")

    monkeypatch.setattr("labkit.runner.session.machine", gone)
    panel.run()
    with pytest.raises(Unavailable):
        panel.wait(TIMEOUT_S)
    assert "it went away" in panel._outcome.value
    assert not panel._run.disabled


def test_an_effort_that_the_environment_sets_is_told_and_cannot_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "effort: LABKIT_EFFORT sets glance for every run"
    settings = make_lab(tmp_path).panel()._settings
    assert not settings._effort.disabled
    assert told not in notes(settings)
    monkeypatch.setenv("LABKIT_EFFORT", "glance")
    settings = make_lab(tmp_path).panel()._settings
    assert (settings.effort, settings._effort.disabled) == ("glance", True)
    assert told in notes(settings)


def test_a_large_workload_is_measured_as_it_is(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    assert lab.replace(workload=resized(SPEC, batch=5000)).panel()._settings.spec.num_requests == 5000


def test_what_was_measured_and_cannot_be_drawn_is_told(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr(panel, "_draw", fail)
    panel.run()
    with pytest.raises(ValueError, match="no such colour"):
        panel.wait(TIMEOUT_S)
    assert "no such colour" in panel._outcome.value
    assert panel._progress_text.value == "stopped"
    assert not panel.is_running


def test_runs_of_another_machine_are_on_no_chart_with_those_of_this_one() -> None:
    here, there = make_run(id="here", machine={"fingerprint": "a"}), make_run("kv_cache", machine={"fingerprint": "b"})
    assert Content((there, here)).charted == (here,)


def test_absurd_numbers_are_bounded_by_the_fields(panel: Panel) -> None:
    tokens = panel._settings._new_tokens
    tokens.value = 10**9
    assert tokens.value == tokens.max
    tokens.value = -5
    assert tokens.value == 1
    assert panel._settings.spec.new_tokens == 1


def test_a_workers_error_is_one_line_in_the_panel(tmp_path: Path) -> None:
    panel = make_lab(tmp_path, "mock refuse=kv_cache").panel()
    panel.run()
    with pytest.raises(Exception, match="the mock refuses this recipe"):
        panel.wait(TIMEOUT_S)
    assert "the mock refuses this recipe in two lines" in panel._outcome.value
    assert not panel.is_running


def test_a_run_that_broke_a_rule_is_struck_out_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validity, "resolution", lambda *_: 0.0)  # of the mock's short passes it would be all
    panel = make_lab(tmp_path, "mock busy=100").panel(beside=())
    panel.run()
    panel.wait(TIMEOUT_S)
    shown = tab(panel, "Verdict")
    assert "<s>" in shown
    assert "INVALID(contended)" in shown


def test_clear_empties_the_panel_and_the_history_brings_it_back(panel: Panel, tmp_path: Path) -> None:
    panel.run()
    panel.wait(TIMEOUT_S)
    panel.clear()
    assert panel.runs == ()
    again = make_lab(tmp_path).panel()  # as after a restart of the kernel
    again._tabs.selected_index = HISTORY
    assert "kv_cache" in again._history.value
    (_, (_, group)) = again._sessions.options
    again._sessions.value = group
    assert [run.recipe for run in again.runs] == ["", "kv_cache"]


def test_recipes_of_the_comparison_are_added_and_removed(panel: Panel) -> None:
    panel.recipe = "kv_cache + quantize"
    panel._add.click()
    panel._add.click()
    assert panel._beside == ["", "quantize + kv_cache"]
    panel._rows.children[0].children[0].click()
    assert panel._beside == ["quantize + kv_cache"]


def test_a_recipe_alone_is_a_point_without_a_verdict(tmp_path: Path) -> None:
    panel = make_lab(tmp_path).panel(beside=())
    panel.run()
    panel.wait(TIMEOUT_S)
    assert [run.recipe for run in panel.runs] == ["kv_cache"]
    assert "kv_cache" in tab(panel, "Verdict")


def test_a_history_of_a_newer_schema_is_told_and_the_runs_are_shown(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    panel = make_lab(tmp_path).panel()
    panel.run()
    panel.wait(TIMEOUT_S)
    assert len(panel.runs) == 2
    assert "schema 99" in panel._outcome.value


def test_two_panels_share_one_history(tmp_path: Path) -> None:
    panels = [make_lab(tmp_path).panel(beside=()) for _ in range(2)]
    for panel in panels:
        panel.run()
    for panel in panels:
        panel.wait(TIMEOUT_S)
    assert len(panels[0]._lab.stored(limit=10)) == 2
    assert threading.active_count() < 20


@pytest.mark.parametrize("title", VIEWS)
def test_every_view_says_something_with_and_without_runs(panel: Panel, title: str) -> None:
    assert "labkit" in tab(panel, title)


def test_another_language_tells_everything_anew_and_keeps_what_was_set(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "en")
    panel.recipe = "kv_cache + quantize(bits=4)"
    panel._settings._prompt_tokens.value = 48
    panel._add_beside()
    panel._tabs.selected_index = 2
    (switch,) = [one for one in panel.box.children if isinstance(one, widgets.ToggleButtons)]
    switch.value = "zh"
    assert panel._run.description == "运行"
    assert panel._tabs.titles[2] == "延迟"
    assert (panel.recipe, panel._settings.spec.prompt_tokens) == ("kv_cache + quantize(bits=4)", 48)
    assert panel._tabs.selected_index == 2
    assert len(panel._rows.children) == 2
    assert set(toggles(panel)) == {"kv_cache", "quantize"}
    assert english_of(panel.box) == set()


@pytest.mark.parametrize("system", ["engine", "similarity", "classifier"])
def test_a_chinese_panel_holds_no_english_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setenv(VARIABLE, "zh")
    panel = Lab(system=system, home=tmp_path).panel()
    for refused in ("kv_cach", "kv_cache(", "threads(num=0)"):
        panel.recipe = refused
        assert panel._message.value
        assert english_of(panel.box) == set()
    panel._show_progress(Progress(0.5, "block 2 of 8"))
    assert panel._progress_text.value == "区组 2/8"
    panel._stopped(WorkerDied("kv_cache: worker 7 was killed by SIGKILL"), is_cancelled=False)
    assert "kv_cache：工作进程 7 被 SIGKILL 终止" in panel._outcome.value


def english_of(box: widgets.Widget) -> set[str]:
    """Words of names, tooltips and texts of a panel that no translation reached, besides names that recipes have."""
    known = {*MODELS, *WORKLOADS, *EFFORTS, *DEVICES, "stdlib", "auto", "token", "language"}
    known |= {word for kind in CATALOG for word in (kind.name, *(spec.name for spec in fields(kind)))}
    text = html.unescape(re.sub(r"<(style|code)\b.*?</\1>|<[^>]+>", " ", " ".join(words_of(box)), flags=re.DOTALL))
    text = re.sub(r"'[^']*'", " ", text)  # what was asked
    told = " ".join([*(word for one in lessons().values() for word in one), *phrases().values(), *messages().values()])
    told = re.sub(r"\{\w+\}", " ", told)
    return set(re.findall(r"[A-Za-z][\w-]{3,}", text)) - set(re.findall(r"[A-Za-z][\w-]+", told)) - known


def words_of(widget: widgets.Widget) -> Iterator[str]:
    for name in ("description", "tooltip", "placeholder"):
        yield str(getattr(widget, name, "") or "")
    if isinstance(widget, widgets.HTML):
        yield str(widget.value)
    yield from map(str, getattr(widget, "titles", ()) or ())
    for child in getattr(widget, "children", ()):
        yield from words_of(child)
